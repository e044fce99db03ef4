"""Flaws of preference data, planted at known rates: those that real collections contain.

The truth about each planted flaw is kept beside the pair, so that the audit's checks can be tested against it. A pair
is {"chosen", "rejected"}: two whole transcripts. The truth about it is a dict: see `world._truth`.
"""

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
HUMAN_CUE, CUE = "\n\nHuman: ", "\n\nAssistant:"


def draw(rng: random.Random, *, test: bool) -> str | None:
    """Draw the flaw of one row, None for no flaw. test: whether it is a test row, which may be leaked from train."""
    rates = dict(RATES)
    if test:
        rates["leaked"] = LEAKED
    no_flaw = 1 - sum(rates.values())
    return rng.choices([None, *rates], [no_flaw, *rates.values()])[0]


def copy(flaw: str, pair: dict, truth: dict, rng: random.Random) -> tuple[dict, dict]:
    """Copy an earlier pair in the way that a flaw of COPIES names.

    "contradictory": with chosen and rejected exchanged. "near_duplicate": with small changes to the first human turn.
    "duplicate" and "leaked": unchanged. Returns the copy and the truth about it.
    """
    if flaw == "contradictory":
        return _exchanged(pair, truth)
    if flaw == "near_duplicate":
        return _with_typing_slip(pair, rng), truth
    return pair, truth


def spoil(flaw: str | None, pair: dict, truth: dict, rng: random.Random) -> tuple[dict, dict]:
    """Plant a flaw that needs no other row: "flipped", "identical", "empty" or "truncated".

    Returns the pair and the truth about it; both unchanged for None and for any other flaw.
    """
    if flaw == "flipped":
        return _exchanged(pair, truth)
    if flaw == "identical":
        return _identical(pair, truth)
    if flaw in ("empty", "truncated"):
        return _cut_reply(flaw, pair, truth, rng)
    return pair, truth


def _identical(pair: dict, truth: dict) -> tuple[dict, dict]:
    """The pair with the chosen transcript in both places."""
    facts = dict(truth, label_agrees=True)
    for what in ("kind", "utility"):
        facts[f"rejected_{what}"] = truth[f"chosen_{what}"]
    return {"chosen": pair["chosen"], "rejected": pair["chosen"]}, facts


def _cut_reply(flaw: str, pair: dict, truth: dict, rng: random.Random) -> tuple[dict, dict]:
    """The pair with one of its replies removed ("empty") or cut in the middle ("truncated")."""
    # Mostly the rejected reply, so that the label stays right.
    part = "chosen" if rng.random() < 0.25 else "rejected"
    prompt, reply = pair[part].rsplit(CUE, 1)
    kept = ""
    if flaw == "truncated":
        kept = reply[: round(len(reply) * rng.uniform(0.3, 0.7))].rstrip()
    # The cut reply has the utility of a broken one, which may make the label wrong.
    facts = dict(truth)
    facts[f"{part}_kind"], facts[f"{part}_utility"] = flaw, BROKEN
    return {**pair, part: prompt + CUE + kept}, _with_agreement(facts)


def _exchanged(pair: dict, truth: dict) -> tuple[dict, dict]:
    """Pair and truth with chosen and rejected exchanged."""
    facts = dict(truth)
    for what in ("kind", "utility"):
        facts[f"chosen_{what}"], facts[f"rejected_{what}"] = truth[f"rejected_{what}"], truth[f"chosen_{what}"]
    return {"chosen": pair["rejected"], "rejected": pair["chosen"]}, _with_agreement(facts)


def _with_agreement(truth: dict) -> dict:
    """The truth with "label_agrees" worked out anew: whether the chosen reply is at least as good as the other."""
    return {**truth, "label_agrees": truth["chosen_utility"] >= truth["rejected_utility"]}


def _with_typing_slip(pair: dict, rng: random.Random) -> dict:
    """Both transcripts with another greeting in the first human turn and one of its letters doubled."""
    turn = pair["chosen"].split(CUE)[0].removeprefix(HUMAN_CUE)
    words = turn.split(" ")
    # The slip goes into a word of four letters or more; without one, into the last word.
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()] or [len(words) - 1]
    at = rng.choice(long)
    words[at] = words[at][:2] + words[at][1:]
    greeting = rng.choice(("Ok.", "Hi again.", "Excuse me.", "Sorry to ask."))
    again = f"{HUMAN_CUE}{greeting} {' '.join(words)}"
    return {part: again + text.removeprefix(HUMAN_CUE + turn) for part, text in pair.items()}
