"""How good the audit's checks are: their precision and recall on the embedded dialogues, whose flaws are known."""

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.core.profiles import DATA_CACHE
from helpers.core.statistics import wilson_limits
from helpers.data.audit.row_checks import CHECKS

COPY_CHECKS = ("duplicate", "near_duplicate", "contradictory")
QUALITY_COLUMNS = [
    *("check", "planted", "found", "right"),
    *("precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"),
]


def planted(source: Path | str, subsets: list[str]) -> pd.DataFrame | None:
    """The truth about the embedded dialogues, a row for each pair, in the order of `row_checks.read`.

    source: the folder of the pairs. subsets: names of its subfolders. Columns: subset, split, and what
    `synthetic.generate_pairs` says of a pair (row, flaw, copy_of, label_agrees and others). Returns None for every
    source but the embedded dialogues: nobody knows the truth about those.
    """
    if Path(source) != DATA_CACHE / "mini_hh":
        return None
    parts = []
    for subset in subsets:
        for split in ("train", "test"):
            rows = pd.read_json(Path(source) / "truth" / f"{subset}-{split}.jsonl.gz", lines=True, dtype=False)
            parts.append(rows.assign(subset=subset, split=split))
    return pd.concat(parts, ignore_index=True)


def is_sound(truth: pd.DataFrame) -> pd.Series:
    """True for a row without a planted flaw whose label names the reply of higher utility. truth: see `planted`."""
    return truth["flaw"].isna() & truth["label_agrees"].astype(bool)


def measure(found: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each check on planted flaws, with Wilson's 95 % limits.

    found: what `row_checks.detect` returns. truth: what `planted` returns, index as in `found`.

    Recall is the share of the rows with a planted flaw that the check marks. Precision is the share of the marked rows
    that are marked rightly: the flaw was planted there. For the checks that find copies a mark is right also on a later
    copy of the same row: a row whose label was exchanged twice is a duplicate too.

    Returns a row for each check for which something was planted: columns check; planted, found, right (numbers of
    rows); precision and recall with their limits _low and _high, from 0 to 1, NaN where nothing was found.
    """
    later = later_copies(truth)
    lines = []
    for check in CHECKS:
        is_planted, is_marked = truth["flaw"] == check, found[check]
        if not is_planted.any():
            continue
        # Marks that are right.
        is_right = is_marked & is_planted
        if check in COPY_CHECKS:
            is_right |= is_marked & later
        # Counts, then the two shares with their limits.
        n_planted, n_marked, n_right = int(is_planted.sum()), int(is_marked.sum()), int(is_right.sum())
        n_recalled = int((is_planted & is_marked).sum())
        precision, recall = _share(n_right, n_marked), _share(n_recalled, n_planted)
        lines.append((check, n_planted, n_marked, n_right, *precision, *recall))
    return pd.DataFrame(lines, columns=QUALITY_COLUMNS)


def _share(part: int, whole: int) -> tuple[float, float, float]:
    """part / whole with Wilson's limits; NaN where the whole is empty."""
    if not whole:
        return np.nan, np.nan, np.nan
    return part / whole, *wilson_limits(part, whole)


def later_copies(truth: pd.DataFrame) -> pd.Series:
    """True for a row that has the same origin as an earlier row of its subset and split: the later of two copies.

    truth: see `planted`.
    """
    # The row from which each row was made. Leaked rows were made from rows of another split: they count as new here.
    is_copy = truth["copy_of"].notna() & (truth["flaw"] != "leaked")
    source = truth["copy_of"].where(is_copy, truth["row"])
    return truth[["subset", "split"]].assign(source=source).duplicated()
