"""The detectors examined: what was planted in the embedded dialogues, and how much of it they find."""

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.core.profiles import DATA_CACHE
from helpers.core.statistics import wilson_limits
from helpers.data.audit.row_checks import CHECKS


def planted(source: Path | str, subsets: list[str]) -> pd.DataFrame | None:
    """The truth about the embedded dialogues, in the order of `read`: columns subset, split, row, flaw, copy_of, ...

    None for other sources: nobody knows their truth.
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
    """True for a row without a planted flaw whose label names the reply that is better in truth."""
    return truth["flaw"].isna() & truth["label_agrees"].astype(bool)


def measure(found: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each check against the planted truth, with Wilson limits.

    truth: columns subset, split, row, flaw (None: none) and copy_of, index as in `found`. Recall is over the rows in
    which the flaw was planted. A mark is right where it was planted; a mark of a copy also on a later row of several
    that were made from one source: a row turned round twice is a duplicate too. Columns check, planted, found, right,
    precision and recall with their low and high. Checks for which nothing was planted are left out.
    """
    later = later_copies(truth)
    lines = []
    for check in (check for check in CHECKS if (truth["flaw"] == check).any()):
        planted, marked = truth["flaw"] == check, found[check]
        right = marked & (planted | later if check in ("duplicate", "near_duplicate", "contradictory") else planted)
        counts = [(int(right.sum()), int(marked.sum())), (int((planted & marked).sum()), int(planted.sum()))]
        shares = [(k / n if n else np.nan, *(wilson_limits(k, n) if n else (np.nan, np.nan))) for k, n in counts]
        lines.append((check, int(planted.sum()), int(marked.sum()), int(right.sum()), *shares[0], *shares[1]))
    names = ["precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"]
    return pd.DataFrame(lines, columns=["check", "planted", "found", "right", *names])


def later_copies(truth: pd.DataFrame) -> pd.Series:
    """True for a row that shares its source with an earlier row of the same subset and split."""
    source = truth["copy_of"].where(truth["copy_of"].notna() & (truth["flaw"] != "leaked"), truth["row"])
    return pd.concat([truth[["subset", "split"]], source.rename("source")], axis=1).duplicated()
