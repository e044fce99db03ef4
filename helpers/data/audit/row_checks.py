"""The checks of the audit: which flaws each row of a collection of preference pairs has.

Rows are whole transcripts as the files hold them (`read`): columns subset, split, line, chosen, rejected. `detect`
marks each row with the flaws that it has; `report` counts them; `clean_index` says which rows have none. Of several
copies of a row the first one counts as sound and the later ones are marked.
"""

import re
from collections.abc import Callable, Iterable
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
    "leaked": "a test row whose dialogue is in the train split too: evaluation on it is on training data",
    "nearly_leaked": "a test row that a train row resembles: evaluation on it is nearly on training data",
}
# A speaker's name at the beginning of a line or of a sentence.
_INSIDE = re.compile(r"(?:^|\n|[.!?]\s)\s*(?:Human|Assistant):")
# A replacement character, a control character, or UTF-8 that was read as Latin-1 or Windows-1252.
_DAMAGED = re.compile("\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|Ã[\x80-¿]|â€|Â[\xa0-¿]")
# The end of a finished sentence.
_WHOLE = re.compile(r"[.!?…:)\]\"'”’*`~>]\s*$")


def read(source: str | Path, subsets: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Read all rows of both splits.

    source: a folder with SUBSET/{train,test}.jsonl(.gz), or a dataset id on the hub. Returns the rows, and the names of
    files that a folder lacks ("helpful-base/train"). Raises DataError where it lacks all of them.
    """
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
    """Examine every row with every check.

    rows: see `read`. similar: the Jaccard similarity of word triples, from 0 to 1, from which on a row is a
    near-duplicate of an earlier one. Returns a table with a column for each check of CHECKS, True where a row has the
    flaw; index as in `rows`.

    "truncated" is marked only where it is rare: in a collection whose replies often end without a full stop, such as
    HH-RLHF, a missing one says nothing, and the column is False throughout.
    """
    parts = split(rows)
    # Each row alone.
    found = _structure(rows, parts)
    found["truncated"] = _truncated(parts)
    # Rows compared with each other.
    found = found.join(duplicates.compare(rows, similar))
    return found[list(CHECKS)]


def report(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Count the rows with each flaw, by subset and split.

    rows, found: what `read` and `detect` return. Columns: subset, split, check, rows (with the flaw), n (all rows),
    percent, and low and high, Wilson's 95 % limits in per cent.
    """
    lines = []
    for (subset, split), own in found.groupby([rows["subset"], rows["split"]], sort=False):
        for check in CHECKS:
            n, hits = len(own), int(own[check].sum())
            low, high = wilson_limits(hits, n)
            lines.append((subset, split, check, hits, n, 100 * hits / n, 100 * low, 100 * high))
    return pd.DataFrame(lines, columns=["subset", "split", "check", "rows", "n", "percent", "low", "high"])


def clean_index(found: pd.DataFrame, checks: Iterable[str] = tuple(CHECKS)) -> pd.Index:
    """Index of the rows that none of the checks marks: those that setting `clean` = "marked" leaves to train on."""
    return found.index[~found[list(checks)].any(axis=1)]


def length_bias(rows: pd.DataFrame) -> pd.DataFrame:
    """How often the chosen reply is the longer one, pairs of equal length left out.

    rows: see `read`. Returns a row for each subset: columns subset, n (pairs of different lengths), chosen_longer, low
    and high (per cent, Wilson's 95 % limits), mean_gap (chosen minus rejected, in characters, over all pairs).
    """
    replies = split(rows)
    gaps = replies["chosen"].str.len() - replies["rejected"].str.len()
    lines = []
    for subset, index in rows.groupby("subset", sort=False).groups.items():
        gap = gaps.loc[index]
        n, longer = int((gap != 0).sum()), int((gap > 0).sum())
        low, high = wilson_limits(longer, n) if n else (0.0, 1.0)
        lines.append((subset, n, 100 * longer / max(n, 1), 100 * low, 100 * high, gap.mean()))
    return pd.DataFrame(lines, columns=["subset", "n", "chosen_longer", "low", "high", "mean_gap"])


# ------------------------------------------------------------------------------------------------- one row alone


def split(rows: pd.DataFrame) -> pd.DataFrame:
    """Split both transcripts of each row into prompt and reply, at the last "\\n\\nAssistant:".

    rows: see `read`. Columns: chosen_prompt, chosen, rejected_prompt, rejected; index as in `rows`. A transcript
    without an assistant turn is all prompt.
    """
    columns = {}
    for name in ("chosen", "rejected"):
        prompts, replies = [], []
        for text in rows[name]:
            prompt, reply = split_reply(text) if ASSISTANT in text else (text, "")
            prompts.append(prompt)
            replies.append(reply)
        columns[f"{name}_prompt"], columns[name] = prompts, replies
    return pd.DataFrame(columns, index=rows.index)


def _structure(rows: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """The checks that need one row alone, but "truncated". rows: whole transcripts; parts: the same, split."""

    def either(flaw: Callable[[str], bool]) -> pd.Series:
        return rows["chosen"].map(flaw) | rows["rejected"].map(flaw)

    return pd.DataFrame(
        {
            "empty": (parts["chosen"].str.strip() == "") | (parts["rejected"].str.strip() == ""),
            "identical": rows["chosen"] == rows["rejected"],
            "history_differs": parts["chosen_prompt"] != parts["rejected_prompt"],
            "not_alternating": either(_is_not_alternating),
            "marker_inside": either(_has_marker_inside),
            "encoding": either(_is_damaged),
        }
    )


def _is_not_alternating(text: str) -> bool:
    """Whether the turns of a transcript are not human, assistant, human, assistant and so on up to a reply."""
    roles = MARKER.findall(text)
    expected = ["Human", "Assistant"] * (len(roles) // 2)
    return not text.startswith(HUMAN) or roles != expected


def _has_marker_inside(text: str) -> bool:
    turns = MARKER.split(text)[2::2]  # the text before the first turn, then role and turn by turns
    return any(_INSIDE.search(turn) for turn in turns)


def _is_damaged(text: str) -> bool:
    return bool(_DAMAGED.search(text))


def _truncated(parts: pd.DataFrame, rare: float = 0.1) -> pd.Series:
    """Rows with a reply that ends without a full stop; none if that happens in more than the share `rare` of rows."""
    marked = parts["chosen"].map(_stops_early) | parts["rejected"].map(_stops_early)
    return marked if len(marked) and marked.mean() <= rare else pd.Series(False, index=parts.index)


def _stops_early(reply: str) -> bool:
    return bool(reply.strip()) and not _WHOLE.search(reply)
