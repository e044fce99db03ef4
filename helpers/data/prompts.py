"""Evaluation prompts: the paper's 100, or a sample of the test pairs."""

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
    """The paper's 100 evaluation dialogues, drawn from the official test pairs with its own recipe.

    One generator seeded with 100 draws 50 of the harmless-base rows whose chosen dialogue holds a keyword as a
    substring, then 50 helpful-base rows. Every row counts here, also those whose histories differ, because the
    draw depends on the number of rows: read ``test`` with :func:`load_transcripts`.
    """
    draw = random.Random(PAPER_SEED)
    harmless = test[test["subset"] == "harmless-base"]
    matching = harmless[harmless["chosen"].map(lambda text: any(word in text for word in PAPER_KEYWORDS))]
    sides = []
    for side, rows in (("harmful", matching), ("helpful", test[test["subset"] == "helpful-base"])):
        if len(rows) < PAPER_PROMPTS_A_SIDE:
            raise DataError(
                f"only {len(rows)} rows for the paper's {side} prompts: these are not the official test files"
            )
        picked = draw.sample(range(len(rows)), PAPER_PROMPTS_A_SIDE)
        sides.append(rows.iloc[picked].assign(side=side))
    return pd.concat(sides, ignore_index=True)


def paper_prompt(transcript: str) -> str:
    """A prompt as the paper's notebook cuts it: blank-line blocks, the last one dropped when it is a reply.

    A reply of several paragraphs defeats this rule and leaves its own opening in the prompt; that is the paper's
    fault, kept here on purpose for the published recipe.
    """
    blocks = transcript.strip().split("\n\n")
    return "\n\n".join(blocks[:-1] if blocks[-1].startswith("Assistant:") else blocks)


def is_paper_source(rows: pd.DataFrame) -> bool:
    """Whether rows of :func:`paper_rows` are exactly the paper's prompts, by their sha256."""
    for side, expected in PAPER_SHA256.items():
        prompts = rows.loc[rows["side"] == side, "chosen"].map(paper_prompt)
        if hashlib.sha256("\n\x1e\n".join(prompts).encode()).hexdigest() != expected:
            return False
    return True


def sample_prompts(test: pd.DataFrame, train: pd.DataFrame, n: int, seed: int = PAPER_SEED) -> pd.DataFrame:
    """n test dialogues a side whose first human turn is in no training pair and occurs once among them.

    The seed is fixed on purpose: runs with different training seeds are compared on the same prompts.
    Harmful prompts come from subsets called harmless-*, helpful prompts from all others.
    Raises DataError when a side has too few dialogues.
    """
    clean = without_first_turns(test, train)
    clean = clean[~clean["prompt"].map(first_turn).duplicated()]
    draw, sides = random.Random(seed), []
    is_harmless = clean["subset"].str.startswith("harmless")
    for side, rows in (("harmful", clean[is_harmless]), ("helpful", clean[~is_harmless])):
        if len(rows) < n:
            raise DataError(
                f"only {len(rows)} {side} test dialogues are free of training questions: lower eval_prompts to that"
            )
        sides.append(rows.iloc[sorted(draw.sample(range(len(rows)), n))].assign(side=side))
    return pd.concat(sides, ignore_index=True)


def with_cue(transcript: str, closing_cue: bool) -> str:
    """The prompt of a whole dialogue as models see it.

    closing_cue True: everything up to and with the last ``"\\n\\nAssistant:"``. False: as the paper fed it,
    stripped and without the cue that says whose turn it is.
    """
    return split_reply(transcript)[0] if closing_cue else paper_prompt(transcript)
