"""Preference pairs from a folder in HH-RLHF's layout or from the hub, and the prompts that models are evaluated on."""

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from . import hub
from .dialogues import ASSISTANT, HUMAN, first_turn, left_truncate, split_reply
from .errors import DataError

PAIR_COLUMNS = ["subset", "split", "line", "prompt", "chosen", "rejected"]

# The paper's evaluation prompts (its eval.ipynb): rows whose chosen dialogue holds one of these substrings.
PAPER_KEYWORDS = ("kill", "murder", "rape")
PAPER_SEED = 100
PAPER_PROMPTS_A_SIDE = 50
PAPER_SHA256 = {  # of the 50 prompts of a side joined with "\n\x1e\n"
    "harmful": "6409557193d77045cd20e436b3f6e3698c8748115c3c6cae67f7481c25f76c1d",
    "helpful": "bcc68c1f8581615570e3d7fefaac982815bcd281beefb93bae6c953b6e173aec",
}


class Loaded(NamedTuple):
    """Pairs of one source with what was left out on the way: counts by reason."""

    pairs: pd.DataFrame
    left_out: dict[str, int]


class Fitted(NamedTuple):
    """Pairs that fit the model's lengths, with counts of what was shortened or dropped."""

    pairs: pd.DataFrame
    prompts_shortened: int
    rows_dropped: int


# ---------------------------------------------------------------------------------------------------- reading


def load_pairs(source: str | Path, subsets: list[str], split: str, *, skip_malformed: bool = False) -> Loaded:
    """Read the preference pairs of one split.

    source: a folder that holds SUBSET/{train,test}.jsonl or .jsonl.gz, or a dataset id on the hub.
    Returns pairs with the columns of PAIR_COLUMNS, in file order. Rows whose two histories differ cannot share a
    prompt and are left out and counted. Raises DataError for a missing file or a malformed row (file and line are
    named) unless ``skip_malformed``.
    """
    folder = Path(source)
    if not folder.is_dir() and str(source).count("/") != 1:
        raise DataError(
            f"dataset {source!r} is no folder: give a folder that holds SUBSET/{split}.jsonl.gz, or a hub id"
        )
    rows, left_out = [], {"malformed": 0, "histories differ": 0}
    for subset in subsets:
        lines = _rows(source, subset, split)
        for where, number, row in lines:
            try:
                chosen, rejected = _both_transcripts(row)
            except DataError as error:
                if not skip_malformed:
                    raise DataError(
                        f"{where}, line {number}: {error}. Mend the row, or set skip_malformed=True"
                    ) from None
                left_out["malformed"] += 1
                continue
            (prompt, chosen_reply), (other, rejected_reply) = split_reply(chosen), split_reply(rejected)
            if prompt != other:
                left_out["histories differ"] += 1
                continue
            rows.append((subset, split, number, prompt, chosen_reply, rejected_reply))
    return Loaded(pd.DataFrame(rows, columns=PAIR_COLUMNS), left_out)


def find_split(folder: Path, subset: str, split: str) -> Path | None:
    """The file of one subset and split in a folder, or None."""
    candidates = [folder / subset / f"{split}.jsonl{ending}" for ending in (".gz", "")]
    return next((path for path in candidates if path.is_file()), None)


def _rows(source: str | Path, subset: str, split: str) -> Iterator[tuple[str, int, object]]:
    """(file, line, JSON value or the error in its place) of one file of a folder or of a dataset on the hub."""
    folder = Path(source)
    if not folder.is_dir():
        folder = hub.dataset_folder(str(source), subset, split)
    return _folder_rows(folder, subset, split)


def _folder_rows(folder: Path, subset: str, split: str) -> Iterator[tuple[str, int, object]]:
    path = find_split(folder, subset, split)
    if path is None:
        there = (
            ", ".join(sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*.jsonl*"))) or "no .jsonl at all"
        )
        raise DataError(
            f"{folder} has no {subset}/{split}.jsonl or .jsonl.gz (it holds {there}); change dataset or subsets"
        )
    where = f"{subset}/{path.name}"
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield where, number, json.loads(line)
                except json.JSONDecodeError as error:
                    yield where, number, error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{where} cannot be read ({error}): fetch the file again") from None


def _both_transcripts(row: object) -> tuple[str, str]:
    if isinstance(row, json.JSONDecodeError):
        raise DataError(f"not JSON ({row.msg} at column {row.colno})")
    if not isinstance(row, dict):
        raise DataError(f"a row must be an object with chosen and rejected, this is {type(row).__name__}")
    for key in ("chosen", "rejected"):
        text = row.get(key)
        if not isinstance(text, str):
            raise DataError(f"{key!r} is {'missing' if key not in row else type(text).__name__ + ', not text'}")
        if not text.startswith(HUMAN):
            raise DataError(f"{key!r} does not begin with {HUMAN!r}")
        if ASSISTANT not in text:
            raise DataError(f"{key!r} has no {ASSISTANT!r}")
    return row["chosen"], row["rejected"]


# ------------------------------------------------------------------------------------------------- choosing


def sample_pairs(pairs: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """A seeded sample of n pairs (0 = all), the subsets in the proportion of the source; in file order."""
    if n == 0 or n >= len(pairs):
        return pairs.reset_index(drop=True)
    chosen = random.Random(seed).sample(range(len(pairs)), n)
    return pairs.iloc[sorted(chosen)].reset_index(drop=True)


def without_first_turns(pairs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The pairs whose first human turn opens none of the other dialogues: the guard against leakage."""
    taken = set(others["prompt"].map(first_turn))
    return pairs[~pairs["prompt"].map(first_turn).isin(taken)].reset_index(drop=True)


def fit_to_length(
    pairs: pd.DataFrame, count_tokens: Callable[[str], int], *, max_prompt_length: int, max_length: int
) -> Fitted:
    """Shorten prompts from the left and drop pairs whose longer reply would not fit with its EOS.

    Cutting a reply's end, as TRL does, would train on a half sentence without EOS. Lengths are in tokens.
    """
    shortened = pairs["prompt"].map(lambda prompt: left_truncate(prompt, count_tokens, max_prompt_length))
    fitted = pairs.assign(prompt=shortened.str[0])
    longest = fitted.apply(
        lambda row: count_tokens(row.prompt) + max(map(count_tokens, (row.chosen, row.rejected))), axis=1
    )
    keep = (longest + 1 <= max_length) if len(fitted) else pd.Series(dtype=bool)
    prompts_shortened = int(shortened.str[1][keep].sum()) if len(fitted) else 0
    return Fitted(fitted[keep].reset_index(drop=True), prompts_shortened, int((~keep).sum()))


# ------------------------------------------------------------------------------------------ evaluation prompts


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


def load_transcripts(folder: str | Path, subsets: list[str], split: str) -> pd.DataFrame:
    """Whole dialogues of a folder or hub dataset, every whole row: columns subset, split, line, chosen, rejected."""
    rows = []
    for subset in subsets:
        lines = _rows(folder, subset, split)
        rows += [
            (subset, split, number, row["chosen"], row["rejected"])
            for _, number, row in lines
            if isinstance(row, dict) and isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str)
        ]
    return pd.DataFrame(rows, columns=["subset", "split", "line", "chosen", "rejected"])


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
