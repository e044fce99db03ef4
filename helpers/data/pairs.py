"""Preference pairs from a folder in HH-RLHF's layout or from the hub: read them, sample them, fit them to a length.

A pair has the columns of PAIR_COLUMNS: prompt ends with "\\n\\nAssistant:", chosen and rejected are the two replies.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.core.errors import DataError
from helpers.core.hub import snapshot
from helpers.core.repositories import repository
from helpers.data.transcripts import ASSISTANT, HUMAN, first_turn, left_truncate, split_reply

PAIR_COLUMNS = ["subset", "split", "line", "prompt", "chosen", "rejected"]


class Loaded(NamedTuple):
    """Pairs of one source, and the numbers of rows that were left out: reason -> rows."""

    pairs: pd.DataFrame
    left_out: dict[str, int]


class Fitted(NamedTuple):
    """Pairs that fit the model's lengths; of these, how many have a shortened prompt; and how many rows do not fit."""

    pairs: pd.DataFrame
    prompts_shortened: int
    rows_dropped: int


def load_pairs(source: str | Path, subsets: list[str], split: str, *, skip_malformed: bool = False) -> Loaded:
    """Read the preference pairs of one split.

    source: a folder that holds SUBSET/{train,test}.jsonl or .jsonl.gz, or a dataset id on the hub. subsets: which of
    its subsets. split: "train" or "test". skip_malformed: leave out malformed rows and count them.

    Returns the pairs in file order. Rows whose transcripts differ before the last reply have no common prompt and are
    left out and counted. Raises DataError for a missing file, and for a malformed row unless these are skipped: the
    message names file and line.
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
            # Two transcripts.
            try:
                chosen, rejected = _both_transcripts(row)
            except DataError as error:
                if not skip_malformed:
                    raise DataError(
                        f"{where}, line {number}: {error}. Mend the row, or set skip_malformed=True"
                    ) from None
                left_out["malformed"] += 1
                continue
            # One prompt and two replies.
            prompt, chosen_reply = split_reply(chosen)
            other_prompt, rejected_reply = split_reply(rejected)
            if prompt != other_prompt:
                left_out["histories differ"] += 1
                continue
            rows.append((subset, split, number, prompt, chosen_reply, rejected_reply))
    return Loaded(pd.DataFrame(rows, columns=PAIR_COLUMNS), left_out)


def find_split(folder: Path, subset: str, split: str) -> Path | None:
    """The file of one subset and split in a folder, packed or not; None where it is missing."""
    for ending in (".gz", ""):
        path = folder / subset / f"{split}.jsonl{ending}"
        if path.is_file():
            return path
    return None


def _rows(source: str | Path, subset: str, split: str) -> Iterator[tuple[str, int, object]]:
    """The rows of one subset and split, in a folder or on the hub: (file, line, JSON value or its error)."""
    folder = Path(source)
    if not folder.is_dir():
        folder = dataset_folder(str(source), subset, split)
    return _folder_rows(folder, subset, split)


def _folder_rows(folder: Path, subset: str, split: str) -> Iterator[tuple[str, int, object]]:
    path = find_split(folder, subset, split)
    if path is None:
        files = sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*.jsonl*"))
        raise DataError(
            f"{folder} has no {subset}/{split}.jsonl or .jsonl.gz (it holds {', '.join(files) or 'no .jsonl at all'}); "
            "change dataset or subsets"
        )
    where = f"{subset}/{path.name}"
    # A line that is no JSON is the caller's to refuse or skip; a file that cannot be unpacked ends the reading.
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
    """The chosen and the rejected transcript of a row. Raises DataError that says what is wrong with a row."""
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


def sample_pairs(pairs: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """A random sample of n pairs in file order; all of them where n is 0 or there are no more than n.

    Every pair has the same chance, so subsets come in about the proportion of the source.
    """
    if n == 0 or n >= len(pairs):
        return pairs.reset_index(drop=True)
    drawn = random.Random(seed).sample(range(len(pairs)), n)
    return pairs.iloc[sorted(drawn)].reset_index(drop=True)


def without_first_turns(pairs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Leave out the pairs whose first human turn also opens one of the other dialogues, which would be a leak.

    pairs, others: tables with a column prompt. First turns are compared without regard to capitals and spaces.
    """
    taken = set(others["prompt"].map(first_turn))
    return pairs[~pairs["prompt"].map(first_turn).isin(taken)].reset_index(drop=True)


def fit_to_length(
    pairs: pd.DataFrame, count_tokens: Callable[[str], int], *, max_prompt_length: int, max_length: int
) -> Fitted:
    """Shorten long prompts from the left, then drop pairs whose longer reply does not fit with its end-of-text token.

    count_tokens: text -> its number of tokens. max_prompt_length: of a prompt; max_length: of prompt, reply and
    end-of-text token together; all in tokens. Cutting the end of a reply instead, as TRL does, would train on half a
    sentence without an end.
    """
    prompts, shortened, keep = [], [], []
    for pair in pairs.itertuples():
        prompt, was_shortened = left_truncate(pair.prompt, count_tokens, max_prompt_length)
        longer_reply = max(count_tokens(pair.chosen), count_tokens(pair.rejected))
        prompts.append(prompt)
        shortened.append(was_shortened)
        keep.append(count_tokens(prompt) + longer_reply + 1 <= max_length)
    kept, shortened = np.array(keep, bool), np.array(shortened, bool)
    fitted = pairs.assign(prompt=prompts)[kept].reset_index(drop=True)
    return Fitted(fitted, int((shortened & kept).sum()), int((~kept).sum()))


def load_transcripts(folder: str | Path, subsets: list[str], split: str) -> pd.DataFrame:
    """Read the whole transcripts of one split, as the files hold them: columns subset, split, line, chosen, rejected.

    folder: a folder as for `load_pairs`, or a dataset id on the hub. Rows without two texts are left out. Raises
    DataError for a missing file.
    """
    rows = []
    for subset in subsets:
        for _, number, row in _rows(folder, subset, split):
            if not isinstance(row, dict):
                continue
            chosen, rejected = row.get("chosen"), row.get("rejected")
            if isinstance(chosen, str) and isinstance(rejected, str):
                rows.append((subset, split, number, chosen, rejected))
    return pd.DataFrame(rows, columns=["subset", "split", "line", "chosen", "rejected"])


def dataset_folder(dataset: str, subset: str, split: str) -> Path:
    """Download the one file of a subset and split of a dataset on the hub; returns the folder in which it lies.

    Raises DataError where the file is not on the hub or the hub does not answer; StageError for a full disk.
    """
    asked = repository(dataset, "dataset")
    wanted = [f"{subset}/{split}.jsonl.gz", f"{subset}/{split}.jsonl"]

    def choose(names: Collection[str]) -> list[str]:
        if found := [name for name in wanted if name in names]:
            return found[:1]
        files = sorted(name for name in names if ".jsonl" in name)
        there = ", ".join(files) or "no .jsonl at all"
        raise DataError(f"{asked} has no {wanted[0]} (it holds {there}): change dataset or subsets")

    def lacks(snapshot: Path) -> str | None:
        return None if any((snapshot / name).is_file() for name in wanted) else f"lacks {wanted[0]}"

    return snapshot(asked, choose, lacks, f"{wanted[0]} --repo-type dataset")
