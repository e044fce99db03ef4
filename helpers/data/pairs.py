"""Preference pairs, from a folder in HH-RLHF's layout or from the hub: read, check, sample, and fit to a length."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers.core.errors import DataError
from helpers.core.hub import snapshot
from helpers.core.repositories import repository
from helpers.data.transcripts import ASSISTANT, HUMAN, first_turn, left_truncate, split_reply

PAIR_COLUMNS = ["subset", "split", "line", "prompt", "chosen", "rejected"]


class Loaded(NamedTuple):
    """Pairs of one source with what was left out on the way: counts by reason."""

    pairs: pd.DataFrame
    left_out: dict[str, int]


class Fitted(NamedTuple):
    """Pairs that fit the model's lengths, with counts of what was shortened or dropped."""

    pairs: pd.DataFrame
    prompts_shortened: int
    rows_dropped: int


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
        folder = dataset_folder(str(source), subset, split)
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


def dataset_folder(dataset: str, subset: str, split: str) -> Path:
    """A local folder that holds SUBSET/SPLIT.jsonl.gz (or .jsonl) of a dataset on the hub; only that is downloaded.

    Raises DataError where the file is not on the hub or out of reach; StageError for a full disk.
    """
    asked, wanted = repository(dataset, "dataset"), [f"{subset}/{split}.jsonl{ending}" for ending in (".gz", "")]

    def choose(names: Collection[str]) -> list[str]:
        if found := [name for name in wanted if name in names]:
            return found[:1]
        there = ", ".join(sorted(name for name in names if ".jsonl" in name)) or "no .jsonl at all"
        raise DataError(f"{asked} has no {wanted[0]} (it holds {there}): change dataset or subsets")

    def lacks(snapshot: Path) -> str | None:
        return None if any((snapshot / name).is_file() for name in wanted) else f"lacks {wanted[0]}"

    return snapshot(asked, choose, lacks, f"{wanted[0]} --repo-type dataset")
