"""The checks that compare rows: copies, near-copies, copies with the label exchanged, and test rows that train holds.

Near-copies are found without comparing every row with every other. MinHash (Broder 1997) makes a short signature of
each row; signatures are cut into bands, and rows that agree in a whole band are compared exactly. Two rows of Jaccard
similarity s agree in at least one of b bands of r numbers with probability 1 - (1 - s^r)^b.
"""

import re
from collections.abc import Iterator
from itertools import combinations
from zlib import crc32

import numpy as np
import pandas as pd

from helpers.data.transcripts import first_turn

SHINGLE, SIMILAR = 3, 0.6  # near-duplicates: Jaccard similarity of word triples
BANDS, IN_A_BAND = 32, 4  # rows of similarity 0.6 are proposed with a chance of 98.8 %, of 0.7 with 99.98 %
FOUND = ["duplicate", "near_duplicate", "contradictory", "leaked", "nearly_leaked"]


def compare(rows: pd.DataFrame, similar: float = SIMILAR) -> pd.DataFrame:
    """Mark the rows that an earlier row of the same subset equals or resembles.

    rows: whole transcripts, see `row_checks`. similar: Jaccard similarity of the word triples, from 0 to 1, from which
    on two rows count as near-copies. Train rows count as earlier than test rows.

    Returns columns of True and False, index as in `rows`: duplicate, near_duplicate and contradictory (label exchanged)
    within a split; leaked and nearly_leaked for a test row that equals (whatever its label) or resembles a train row.
    """
    found = pd.DataFrame(False, index=rows.index, columns=FOUND)
    for _, own in rows.groupby("subset", sort=False):
        # Train rows first, so that each row is compared with what stands before it.
        own = own.iloc[np.argsort(own["split"] != "train", kind="stable")]
        test = (own["split"] != "train").to_numpy()
        # Exact copies.
        same, exchanged = _exact_copies(own)
        leaked = test & _is_train_pair(own[test], own[~test]).reindex(own.index, fill_value=False).to_numpy()
        # Near-copies among the rest.
        rest = np.flatnonzero(~(same | exchanged | leaked))
        near, nearly_leaked = np.zeros(len(own), bool), np.zeros(len(own), bool)
        shingles = [_shingles(own["chosen"].iat[i], own["rejected"].iat[i]) for i in rest]
        for later, earlier in _similar_rows(shingles, similar):
            same_split = test[rest[later]] == test[rest[earlier]]
            marks = near if same_split else nearly_leaked
            marks[rest[later]] = True
        found.loc[own.index] = np.column_stack([same, near, exchanged, leaked, nearly_leaked])
    return found


def _exact_copies(own: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Which rows repeat an earlier row of their split: as it is, and with chosen and rejected exchanged."""
    same = own.duplicated(["split", "chosen", "rejected"]).to_numpy()
    seen, exchanged = set(), []
    for split, chosen, rejected in zip(own["split"], own["chosen"], own["rejected"], strict=True):
        exchanged.append((split, rejected, chosen) in seen and chosen != rejected)
        seen.add((split, chosen, rejected))
    return same, np.array(exchanged, bool)


def _is_train_pair(test: pd.DataFrame, train: pd.DataFrame) -> pd.Series:
    """Which test rows have the two transcripts of a train row, whichever is the chosen one."""
    pairs = set(map(frozenset, zip(train["chosen"], train["rejected"], strict=True)))
    both = zip(test["chosen"], test["rejected"], strict=True)
    return pd.Series([frozenset(pair) in pairs for pair in both], index=test.index, dtype=bool)


def _shingles(chosen: str, rejected: str) -> np.ndarray:
    """Hashes of the word triples of both transcripts, without punctuation and capitals: sorted, each one once."""
    triples = set()
    for part, text in (("c", chosen), ("r", rejected)):
        words = re.findall(r"\w+", text.lower())
        for start in range(max(1, len(words) - SHINGLE + 1)):
            triple = " ".join(words[start : start + SHINGLE])
            triples.add(crc32(f"{part} {triple}".encode()))  # hash() would differ from process to process
    return np.array(sorted(triples), np.uint32)  # a set of Python's numbers takes ten times the memory


def _similar_rows(shingles: list[np.ndarray], similar: float) -> Iterator[tuple[int, int]]:
    """(later, earlier) for each two proposed rows whose exact Jaccard similarity is at least `similar`."""
    for later, earlier in _proposed(shingles):
        one, other = shingles[later], shingles[earlier]
        # Jaccard similarity: what both have over what either has.
        both = np.intersect1d(one, other, assume_unique=True).size
        if both >= similar * (one.size + other.size - both):
            yield later, earlier


def _proposed(shingles: list[np.ndarray]) -> np.ndarray:
    """Pairs (later, earlier) of rows whose signatures agree in a band, each pair once: shape (pairs, 2)."""
    from datasketch import MinHash

    # Signatures, shape (rows, bands, numbers in a band).
    sketches = MinHash.generator(shingles, num_perm=BANDS * IN_A_BAND, seed=1, hashfunc=int)
    hashes = [sketch.hashvalues.astype(np.uint32) for sketch in sketches]
    signatures = np.array(hashes).reshape(-1, BANDS, IN_A_BAND)
    # One number for each band: a sum with odd random weights, so that equal bands have equal sums. Other bands may have
    # them too, by chance; the exact comparison removes those.
    draws = np.random.default_rng(0).integers(1 << 62, size=IN_A_BAND, dtype=np.uint64)
    weights = draws * np.uint64(2) + np.uint64(1)
    pairs = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        sums = pd.Series((signatures[:, band] * weights).sum(axis=1))
        # Rows with the same sum, each two of them.
        shared = sums[sums.duplicated(keep=False)]
        for rows in shared.groupby(shared).indices.values():
            pairs.append(np.array([(later, earlier) for earlier, later in combinations(shared.index[rows], 2)]))
    return np.unique(np.concatenate(pairs), axis=0)


def shared_first_turns(rows: pd.DataFrame) -> pd.DataFrame:
    """Count the test rows whose first human turn also opens a train row: a weaker leak than a copy.

    rows: whole transcripts, see `row_checks`. Returns a row for each subset: columns subset, rows (with such a first
    turn) and n (all its test rows).
    """
    turns = rows["chosen"].map(first_turn)
    lines = []
    for subset, own in rows.groupby("subset", sort=False):
        train = set(turns[own.index[own["split"] == "train"]])
        test = turns[own.index[own["split"] == "test"]]
        lines.append((subset, int(test.isin(train).sum()), len(test)))
    return pd.DataFrame(lines, columns=["subset", "rows", "n"])
