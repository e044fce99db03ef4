"""Flaws of preference data, planted at known rates: what real collections contain, with the truth kept beside."""

import random

from helpers.data.synthetic.replies import BROKEN

# Share of rows. A row has one flaw at most; copies are of earlier rows without a flaw.
RATES = {
    "flipped": 0.04,  # the label exchanged after the annotator gave it
    "identical": 0.005,  # chosen and rejected are the same text
    "duplicate": 0.015,  # an earlier row again
    "near_duplicate": 0.015,  # an earlier row with a typing slip and another greeting
    "contradictory": 0.01,  # an earlier row with the other label
    "empty": 0.01,  # one of the two replies is empty
    "truncated": 0.01,  # one of the two transcripts stops in the middle of its reply
    "history_differs": 0.01,  # the rejected transcript has another earlier assistant turn
}
LEAKED = 0.03  # of the test rows: copies of train rows
COPIES = ("duplicate", "near_duplicate", "contradictory", "leaked")
CUE = "\n\nAssistant:"


def draw(rng: random.Random, *, test: bool) -> str | None:
    """Draw a row's flaw, or None; test rows may also be leaked from the train split."""
    rates = RATES | ({"leaked": LEAKED} if test else {})
    return rng.choices([None, *rates], [1 - sum(rates.values()), *rates.values()])[0]


def copy(flaw: str, pair: dict, truth: dict, rng: random.Random) -> tuple[dict, dict]:
    """Return the flawed copy of a pair and the truth about it: as it is, slightly changed, or with the other label."""
    if flaw == "contradictory":
        return _turned(pair, truth)
    return (_slip(pair, rng) if flaw == "near_duplicate" else pair), truth


def spoil(flaw: str | None, pair: dict, truth: dict, rng: random.Random) -> tuple[dict, dict]:
    """Return pair and truth with a flaw that needs no other row: identical, empty or cut replies, flipped labels."""
    if flaw == "flipped":
        return _turned(pair, truth)
    if flaw == "identical":
        same = {f"rejected_{what}": truth[f"chosen_{what}"] for what in ("kind", "utility")}
        return {"chosen": pair["chosen"], "rejected": pair["chosen"]}, truth | same | {"label_agrees": True}
    if flaw in ("empty", "truncated"):
        side = "chosen" if rng.random() < 0.25 else "rejected"
        prompt, reply = pair[side].rsplit(CUE, 1)
        kept = "" if flaw == "empty" else reply[: round(len(reply) * rng.uniform(0.3, 0.7))].rstrip()
        return pair | {side: prompt + CUE + kept}, _agreeing(truth | {f"{side}_kind": flaw, f"{side}_utility": BROKEN})
    return pair, truth


def _turned(pair: dict, truth: dict) -> tuple[dict, dict]:
    """Pair and truth with the sides exchanged."""
    exchanged = {
        f"{side}_{what}": truth[f"{other}_{what}"]
        for what in ("kind", "utility")
        for side, other in (("chosen", "rejected"), ("rejected", "chosen"))
    }
    return {"chosen": pair["rejected"], "rejected": pair["chosen"]}, _agreeing(truth | exchanged)


def _agreeing(truth: dict) -> dict:
    return truth | {"label_agrees": truth["chosen_utility"] >= truth["rejected_utility"]}


def _slip(pair: dict, rng: random.Random) -> dict:
    """Greet differently in the first human turn and double a letter of one of its words, in both transcripts."""
    head, turn = "\n\nHuman: ", pair["chosen"].split(CUE)[0].removeprefix("\n\nHuman: ")
    words = turn.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()] or [len(words) - 1]
    at = rng.choice(long)
    words[at] = words[at][:2] + words[at][1:]
    again = head + rng.choice(("Ok.", "Hi again.", "Excuse me.", "Sorry to ask.")) + " " + " ".join(words)
    return {side: again + text.removeprefix(head + turn) for side, text in pair.items()}
