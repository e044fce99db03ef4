"""What is wrong with a collection of preference pairs, row by row.

Rows are whole transcripts as the files hold them (`read`): columns subset, split, line, chosen, rejected. `detect`
marks each row with the flaws that it has; `report` counts them; `clean_index` says which rows are left. Which copy of a
row is at fault cannot be known: the first one stays, later ones are marked.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from helpers.core.errors import DataError
from helpers.core.statistics import wilson_limits
from helpers.data import pairs
from helpers.data.audit import duplicates
from helpers.data.transcripts import ASSISTANT, HUMAN, MARKER, split_reply

# Each check with what it does to training, in the order of the report.
CHECKS = {
    "empty": "a reply without text: SFT learns to say nothing",
    "identical": "chosen and rejected are the same: DPO gets no signal, only a constant ln 2",
    "history_differs": "the two transcripts differ before the last reply: they answer different questions",
    "not_alternating": "two turns of one speaker in a row, or a transcript that does not end with the assistant",
    "marker_inside": "a role marker inside a turn: the policy learns to play both speakers",
    "encoding": "damaged characters: the policy learns to write them",
    "truncated": "a reply that stops in mid-sentence: the policy learns to stop there",
    "duplicate": "an earlier row again: it counts twice",
    "near_duplicate": "an earlier row with small changes: it counts almost twice",
    "contradictory": "an earlier row with the other label: the two cancel out",
    "leaked": "a test row whose dialogue is in the train split too: the exam was handed out",
    "nearly_leaked": "a test row that a train row resembles: half of the exam was handed out",
}
_INSIDE = re.compile(r"(?:^|\n|[.!?]\s)\s*(?:Human|Assistant):")
# A replacement character, a control character, or UTF-8 that was read as Latin-1 or Windows-1252.
_DAMAGED = re.compile("\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|Ã[\x80-¿]|â€|Â[\xa0-¿]")
_WHOLE = re.compile(r"[.!?…:)\]\"'”’*`~>]\s*$")


def read(source: str | Path, subsets: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """All rows of both splits, and the files that are absent ("helpful-base/train"). DataError if there is none."""
    absent, parts = [], []
    folder = Path(source)
    for subset in subsets:
        for split in ("train", "test"):
            if folder.is_dir() and pairs.find_split(folder, subset, split) is None:
                absent.append(f"{subset}/{split}")
            else:
                parts.append(pairs.load_transcripts(source, [subset], split))
    if not parts:
        raise DataError(f"{source} holds no file of {', '.join(subsets)}: change dataset or subsets")
    return pd.concat(parts, ignore_index=True), absent


def detect(rows: pd.DataFrame, similar: float = duplicates.SIMILAR) -> pd.DataFrame:
    """One row a row of `rows`, one column a check of CHECKS: True where the flaw is found. Index as in `rows`.

    `similar` is the Jaccard similarity of word triples from which on a row is a near-duplicate of an earlier one.

    "truncated" is found only where it is rare: in a collection where replies often end without a full stop, as in
    HH-RLHF, it would say nothing and is False throughout.
    """
    parts = split(rows)
    found = _structure(rows, parts).join(duplicates.compare(rows, similar)).assign(truncated=_truncated(parts))
    return found[list(CHECKS)]


def report(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Counts by subset, split and check: columns subset, split, check, rows, n, percent, low, high (Wilson, 95 %)."""
    lines = []
    for (subset, split), own in found.groupby([rows["subset"], rows["split"]], sort=False):
        for check in CHECKS:
            n, hits = len(own), int(own[check].sum())
            low, high = wilson_limits(hits, n)
            lines.append((subset, split, check, hits, n, 100 * hits / n, 100 * low, 100 * high))
    return pd.DataFrame(lines, columns=["subset", "split", "check", "rows", "n", "percent", "low", "high"])


def clean_index(found: pd.DataFrame, checks: Iterable[str] = tuple(CHECKS)) -> pd.Index:
    """The rows that none of the checks marks: what setting `clean` leaves to train on."""
    return found.index[~found[list(checks)].any(axis=1)]


def length_bias(rows: pd.DataFrame) -> pd.DataFrame:
    """How often the chosen reply is the longer one, in characters, ties left out: one row a subset, Wilson limits."""
    replies = split(rows)
    size = {side: replies[side].str.len() for side in ("chosen", "rejected")}
    lines = []
    for subset, index in rows.groupby("subset", sort=False).groups.items():
        gap = (size["chosen"] - size["rejected"]).loc[index]
        n, longer = int((gap != 0).sum()), int((gap > 0).sum())
        low, high = wilson_limits(longer, n) if n else (0.0, 1.0)
        lines.append((subset, n, 100 * longer / max(n, 1), 100 * low, 100 * high, gap.mean()))
    return pd.DataFrame(lines, columns=["subset", "n", "chosen_longer", "low", "high", "mean_gap"])


# ------------------------------------------------------------------------------------------------- one row alone


def split(rows: pd.DataFrame) -> pd.DataFrame:
    """Prompt and reply of both transcripts, split at the last cue; a transcript without one is all prompt."""
    parts = {}
    for side in ("chosen", "rejected"):
        cut = [split_reply(text) if ASSISTANT in text else (text, "") for text in rows[side]]
        parts[f"{side}_prompt"], parts[side] = [prompt for prompt, _ in cut], [reply for _, reply in cut]
    return pd.DataFrame(parts, index=rows.index)


def _structure(rows: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    both = [rows[side] for side in ("chosen", "rejected")]
    return pd.DataFrame(
        {
            "empty": (parts["chosen"].str.strip() == "") | (parts["rejected"].str.strip() == ""),
            "identical": rows["chosen"] == rows["rejected"],
            "history_differs": parts["chosen_prompt"] != parts["rejected_prompt"],
            "not_alternating": both[0].map(_out_of_turn) | both[1].map(_out_of_turn),
            "marker_inside": both[0].map(_has_marker_inside) | both[1].map(_has_marker_inside),
            "encoding": both[0].map(_is_damaged) | both[1].map(_is_damaged),
        }
    )


def _out_of_turn(text: str) -> bool:
    roles = MARKER.findall(text)
    expected = ["Human", "Assistant"] * (len(roles) // 2)
    return not text.startswith(HUMAN) or roles != expected


def _has_marker_inside(text: str) -> bool:
    return any(_INSIDE.search(turn) for turn in MARKER.split(text)[2::2])


def _is_damaged(text: str) -> bool:
    return bool(_DAMAGED.search(text))


def _truncated(parts: pd.DataFrame, rare: float = 0.1) -> pd.Series:
    open_end = parts[["chosen", "rejected"]].apply(
        lambda side: side.map(lambda text: bool(text.strip()) and not _WHOLE.search(text))
    )
    marked = open_end.any(axis=1)
    return marked if len(marked) and marked.mean() <= rare else pd.Series(False, index=parts.index)
