"""The audit: what is wrong with a collection of preference pairs, row by row.

Rows are whole transcripts as the files hold them (`read`): columns subset, split, line, chosen, rejected. `detect`
marks each row with the flaws that it has; `report` counts them; `clean_index` says which rows are left. Which copy of a
row is at fault cannot be known: the first one stays, later ones are marked.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd

from . import preferences
from .dialogues import ASSISTANT, HUMAN, MARKER, first_turn, split_reply
from .errors import DataError
from .settings import DATA_CACHE
from .statistics import wilson_limits

SHINGLE, SIMILAR = 3, 0.6  # near-duplicates: Jaccard similarity of word triples
# MinHash proposes rows from a lower similarity on, so that its own error loses few; each proposal is then counted out.
PROPOSED, PERMUTATIONS = 0.45, 128

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
            if folder.is_dir() and preferences.find_split(folder, subset, split) is None:
                absent.append(f"{subset}/{split}")
            else:
                parts.append(preferences.load_transcripts(source, [subset], split))
    if not parts:
        raise DataError(f"{source} holds no file of {', '.join(subsets)}: change dataset or subsets")
    return pd.concat(parts, ignore_index=True), absent


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


def detect(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a row of `rows`, one column a check of CHECKS: True where the flaw is found. Index as in `rows`.

    "truncated" is found only where it is rare: in a collection where replies often end without a full stop, as in
    HH-RLHF, it would say nothing and is False throughout.
    """
    split = _split(rows)
    found = _structure(rows, split).join(_copies(rows)).assign(truncated=_truncated(split))
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


def measure(found: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each check against the planted truth, with Wilson limits.

    truth: columns subset, split, row, flaw (None: none) and copy_of, index as in `found`. Recall is over the rows in
    which the flaw was planted. A mark is right where it was planted; a mark of a copy also on a later row of several
    that were made from one source: a row turned round twice is a duplicate too. Columns check, planted, found, right,
    precision and recall with their low and high. Checks for which nothing was planted are left out.
    """
    later = _later_copies(truth)
    lines = []
    for check in (check for check in CHECKS if (truth["flaw"] == check).any()):
        planted, marked = truth["flaw"] == check, found[check]
        right = marked & (planted | later if check in ("duplicate", "near_duplicate", "contradictory") else planted)
        counts = [(int(right.sum()), int(marked.sum())), (int((planted & marked).sum()), int(planted.sum()))]
        shares = [(k / n if n else np.nan, *(wilson_limits(k, n) if n else (np.nan, np.nan))) for k, n in counts]
        lines.append((check, int(planted.sum()), int(marked.sum()), int(right.sum()), *shares[0], *shares[1]))
    names = ["precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"]
    return pd.DataFrame(lines, columns=["check", "planted", "found", "right", *names])


def _later_copies(truth: pd.DataFrame) -> pd.Series:
    """True for a row that shares its source with an earlier row of the same subset and split."""
    source = truth["copy_of"].where(truth["copy_of"].notna() & (truth["flaw"] != "leaked"), truth["row"])
    return pd.concat([truth[["subset", "split"]], source.rename("source")], axis=1).duplicated()


def length_bias(rows: pd.DataFrame) -> pd.DataFrame:
    """How often the chosen reply is the longer one, in characters, ties left out: one row a subset, Wilson limits."""
    replies = _split(rows)
    size = {side: replies[side].str.len() for side in ("chosen", "rejected")}
    lines = []
    for subset, index in rows.groupby("subset", sort=False).groups.items():
        gap = (size["chosen"] - size["rejected"]).loc[index]
        n, longer = int((gap != 0).sum()), int((gap > 0).sum())
        low, high = wilson_limits(longer, n) if n else (0.0, 1.0)
        lines.append((subset, n, 100 * longer / max(n, 1), 100 * low, 100 * high, gap.mean()))
    return pd.DataFrame(lines, columns=["subset", "n", "chosen_longer", "low", "high", "mean_gap"])


# ---------------------------------------------------------------------------------------------------- label noise


def label_probability(rows: pd.DataFrame, folds: int = 5, seed: int = 0) -> pd.Series:
    """P(the chosen reply is the better one) by a preference model that never saw the row: cross-fitted, 0 to 1.

    Logistic regression on the difference of the two replies' words and word pairs (tf-idf) and lengths. Rows with the
    same first turn share a fold, so that no copy gives its twin away.
    """
    from sklearn.model_selection import GroupKFold

    _, features = _difference_features(rows)
    turned = _half(len(rows), seed)
    features, labels = _turn(features, turned), (~turned).astype(int)
    probability = np.full(len(rows), np.nan)
    groups = rows["chosen"].map(first_turn)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(features, labels, groups):
        first = _preference_model(features[train], labels[train]).predict_proba(features[test])[:, 1]
        probability[test] = np.where(turned[test], 1 - first, first)
    return pd.Series(probability, index=rows.index, name="label_probability")


def outside_agreement(rows: pd.DataFrame, outside: pd.DataFrame, seed: int = 0) -> tuple[int, int]:
    """Of how many pairs with labels from elsewhere the preference model, trained on `rows`, finds the label: (hits, n).

    outside: columns chosen and rejected, whole transcripts. It says how far the second opinion of `label_probability`
    carries.
    """
    words, features = _difference_features(rows)
    turned = _half(len(rows), seed)
    model = _preference_model(_turn(features, turned), (~turned).astype(int))
    _, theirs = _difference_features(outside, words)
    return int((model.predict_proba(theirs)[:, 1] > 0.5).sum()), len(outside)


def _difference_features(rows: pd.DataFrame, words=None) -> tuple:
    """The word weights (fitted here unless given) and one row a pair: chosen minus rejected, words and log-length."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    replies = _split(rows)
    if words is None:
        texts = pd.concat([replies["chosen"], replies["rejected"]])
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True).fit(texts)
    sides = [words.transform(replies[side]) for side in ("chosen", "rejected")]
    gap = np.log1p(replies["chosen"].str.len().to_numpy()) - np.log1p(replies["rejected"].str.len().to_numpy())
    return words, sparse.hstack([sides[0] - sides[1], sparse.csr_matrix(gap[:, None])]).tocsr()


def _half(n: int, seed: int) -> np.ndarray:
    """Which pairs are turned round, one in two: a classifier needs both classes."""
    return np.random.default_rng(seed).random(n) < 0.5


def _turn(features, turned: np.ndarray):
    """The features of pairs of which some are turned round: chosen minus rejected changes its sign."""
    from scipy import sparse

    return sparse.diags(np.where(turned, -1.0, 1.0)) @ features


def _preference_model(features, labels: np.ndarray):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=2.0, fit_intercept=False, max_iter=200).fit(features, labels)


def label_issues(probability: pd.Series, seed: int = 0) -> pd.Series:
    """Rows that confident learning (cleanlab; Northcutt et al. 2021) takes for mislabelled: True there.

    It needs two classes, so half of the pairs are turned round. It counts pairs that are merely close as errors too.
    """
    from cleanlab.filter import find_label_issues

    turned = _half(len(probability), seed)
    first = np.where(turned, 1 - probability, probability)
    both = np.column_stack([1 - first, first])
    issues = find_label_issues((~turned).astype(int), both, filter_by="prune_by_noise_rate")
    return pd.Series(issues, index=probability.index, name="label_issue")


def precision_recall(probability: pd.Series, wrong: pd.Series) -> pd.DataFrame:
    """How well a low P(label) finds wrong labels, worst rows first: columns marked (rows so far), precision, recall."""
    order = probability.sort_values(kind="stable").index
    right = wrong[order].astype(int).cumsum().to_numpy()
    marked = np.arange(1, len(order) + 1)
    return pd.DataFrame({"marked": marked, "precision": right / marked, "recall": right / max(1, right[-1])})


# ------------------------------------------------------------------------------------------------- one row alone


def _split(rows: pd.DataFrame) -> pd.DataFrame:
    """Prompt and reply of both transcripts, split at the last cue; a transcript without one is all prompt."""
    parts = {}
    for side in ("chosen", "rejected"):
        cut = [split_reply(text) if ASSISTANT in text else (text, "") for text in rows[side]]
        parts[f"{side}_prompt"], parts[side] = [prompt for prompt, _ in cut], [reply for _, reply in cut]
    return pd.DataFrame(parts, index=rows.index)


def _structure(rows: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    both = [rows[side] for side in ("chosen", "rejected")]
    return pd.DataFrame(
        {
            "empty": (split["chosen"].str.strip() == "") | (split["rejected"].str.strip() == ""),
            "identical": rows["chosen"] == rows["rejected"],
            "history_differs": split["chosen_prompt"] != split["rejected_prompt"],
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


def _truncated(split: pd.DataFrame, rare: float = 0.1) -> pd.Series:
    open_end = split[["chosen", "rejected"]].apply(
        lambda side: side.map(lambda text: bool(text.strip()) and not _WHOLE.search(text))
    )
    marked = open_end.any(axis=1)
    return marked if len(marked) and marked.mean() <= rare else pd.Series(False, index=split.index)


# ------------------------------------------------------------------------------------------------- rows together


def _copies(rows: pd.DataFrame) -> pd.DataFrame:
    """The checks that compare rows: within a subset and split, and test against train."""
    found = pd.DataFrame(False, index=rows.index, columns=["duplicate", "near_duplicate", "contradictory", "leaked"])
    words = {i: _shingles(c, r) for i, c, r in zip(rows.index, rows["chosen"], rows["rejected"], strict=True)}
    for _, own in rows.groupby(["subset", "split"], sort=False):
        seen, turned = set(), []
        for chosen, rejected in zip(own["chosen"], own["rejected"], strict=True):
            turned.append((rejected, chosen) in seen and chosen != rejected)
            seen.add((chosen, rejected))
        same = own.duplicated(["chosen", "rejected"]).to_numpy()
        found.loc[own.index, "duplicate"], found.loc[own.index, "contradictory"] = same, turned
        found.loc[_near(words, own.index[~same & ~np.array(turned, bool)]), "near_duplicate"] = True
    for _, own in rows.groupby("subset", sort=False):
        train, test = own[own["split"] == "train"], own[own["split"] == "test"]
        known = set(map(frozenset, zip(train["chosen"], train["rejected"], strict=True)))
        pairs = map(frozenset, zip(test["chosen"], test["rejected"], strict=True))
        found.loc[test.index, "leaked"] = [pair in known for pair in pairs]
    return found


def _shingles(chosen: str, rejected: str) -> set[int]:
    """Hashes of the word triples of both transcripts, speakers and punctuation aside."""
    triples = set()
    for side, text in (("c", chosen), ("r", rejected)):
        words = re.findall(r"\w+", text.lower())
        runs = (" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))
        triples |= {crc32(f"{side} {run}".encode()) for run in runs}  # hash() would differ from process to process
    return triples


def _near(words: dict, index: Iterable) -> list:
    """Rows with an earlier one of exact Jaccard similarity SIMILAR or more; MinHash finds the candidates."""
    from datasketch import MinHash, MinHashLSH

    table, later = MinHashLSH(threshold=PROPOSED, num_perm=PERMUTATIONS), []
    for i in index:
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
        sketch.update_batch(words[i])
        if any(_similar(words[i], words[other]) for other in table.query(sketch)):
            later.append(i)
        table.insert(i, sketch)
    return later


def _similar(one: set[int], other: set[int]) -> bool:
    return len(one & other) >= SIMILAR * len(one | other)


def shared_first_turns(rows: pd.DataFrame) -> pd.DataFrame:
    """Test rows whose first human turn opens a train row too, a weaker leak: one row a subset, count and number."""
    turns = rows["chosen"].map(first_turn)
    lines = []
    for subset, own in rows.groupby("subset", sort=False):
        train = set(turns[own.index[own["split"] == "train"]])
        test = turns[own.index[own["split"] == "test"]]
        lines.append((subset, int(test.isin(train).sum()), len(test)))
    return pd.DataFrame(lines, columns=["subset", "rows", "n"])
