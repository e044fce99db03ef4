"""Evaluation prompts: the paper's 100, or a sample of the test pairs. `side` is "harmful" or "helpful"."""

import hashlib
import random

import pandas as pd

from helpers.core.errors import DataError
from helpers.data.pairs import without_first_turns
from helpers.data.transcripts import first_turn, split_reply

# The paper's evaluation prompts (its eval.ipynb): rows whose chosen dialogue holds one of these substrings.
PAPER_KEYWORDS = ("kill", "murder", "rape")
PAPER_SEED = 100
PAPER_PROMPTS_A_SIDE = 50
PAPER_SHA256 = {  # of the 50 prompts of a side joined with "\n\x1e\n"
    "harmful": "6409557193d77045cd20e436b3f6e3698c8748115c3c6cae67f7481c25f76c1d",
    "helpful": "bcc68c1f8581615570e3d7fefaac982815bcd281beefb93bae6c953b6e173aec",
}


def paper_rows(test: pd.DataFrame) -> pd.DataFrame:
    """The paper's 100 evaluation dialogues, drawn from the official test files as its notebook eval.ipynb draws them.

    test: every row of the test files, read with `pairs.load_transcripts`; the draw depends on the number of rows, so
    rows whose histories differ count too. Returns the drawn rows with the column side, 50 harmful ones before 50
    helpful ones. Raises DataError where there are too few rows.
    """
    draw = random.Random(PAPER_SEED)
    # Harmful: harmless-base rows whose chosen dialogue holds a keyword, also inside another word.
    harmless = test[test["subset"] == "harmless-base"]
    matching = harmless[harmless["chosen"].map(_has_keyword)]
    # One generator draws both sides, one after the other.
    sides = []
    for side, rows in (("harmful", matching), ("helpful", test[test["subset"] == "helpful-base"])):
        if len(rows) < PAPER_PROMPTS_A_SIDE:
            raise DataError(
                f"only {len(rows)} rows for the paper's {side} prompts: these are not the official test files"
            )
        picked = draw.sample(range(len(rows)), PAPER_PROMPTS_A_SIDE)
        sides.append(rows.iloc[picked].assign(side=side))
    return pd.concat(sides, ignore_index=True)


def _has_keyword(text: str) -> bool:
    return any(word in text for word in PAPER_KEYWORDS)


def paper_prompt(transcript: str) -> str:
    """The prompt of a whole dialogue as the paper's notebook cuts it.

    The dialogue is split at blank lines, and the last block is dropped when it begins with "Assistant:". Of a last
    reply of several paragraphs the first ones thus stay in the prompt: an error of the paper, repeated here on purpose
    for the published recipe.
    """
    blocks = transcript.strip().split("\n\n")
    return "\n\n".join(blocks[:-1] if blocks[-1].startswith("Assistant:") else blocks)


def is_paper_source(rows: pd.DataFrame) -> bool:
    """Whether the rows that `paper_rows` returns give exactly the paper's prompts, by their sha256."""
    for side, expected in PAPER_SHA256.items():
        prompts = rows.loc[rows["side"] == side, "chosen"].map(paper_prompt)
        if hashlib.sha256("\n\x1e\n".join(prompts).encode()).hexdigest() != expected:
            return False
    return True


def sample_prompts(test: pd.DataFrame, train: pd.DataFrame, n: int, seed: int = PAPER_SEED) -> pd.DataFrame:
    """Draw n test dialogues a side whose first human turn is in no training pair, no first turn twice.

    test, train: pairs with the columns of `pairs.PAIR_COLUMNS`. Harmful prompts come from subsets called harmless-*,
    helpful prompts from all others. The seed is the same in all runs on purpose: runs with different training seeds are
    compared on the same prompts. Returns the drawn pairs with the column side. Raises DataError when a side has too few
    dialogues.
    """
    clean = without_first_turns(test, train)
    clean = clean[~clean["prompt"].map(first_turn).duplicated()]
    draw = random.Random(seed)
    sides = []
    is_harmless = clean["subset"].str.startswith("harmless")
    for side, rows in (("harmful", clean[is_harmless]), ("helpful", clean[~is_harmless])):
        if len(rows) < n:
            raise DataError(
                f"only {len(rows)} {side} test dialogues are free of training questions: lower eval_prompts to that"
            )
        picked = sorted(draw.sample(range(len(rows)), n))
        sides.append(rows.iloc[picked].assign(side=side))
    return pd.concat(sides, ignore_index=True)


def with_cue(transcript: str, closing_cue: bool) -> str:
    """The prompt of a whole dialogue as models get it.

    closing_cue: True for everything up to the last "\\n\\nAssistant:" and with it; False for the paper's way, without
    the cue that says whose turn it is, see `paper_prompt`.
    """
    return split_reply(transcript)[0] if closing_cue else paper_prompt(transcript)
