"""The checks that compare rows: copies, near-copies, copies with the label turned, and test rows that train holds.

Near-copies are found without comparing every row with every other. MinHash (Broder 1997) makes a short signature of
each row; signatures are cut into bands, and rows that agree in a whole band are compared exactly. Two rows of Jaccard
similarity s agree in one of b bands of r numbers with chance 1 - (1 - s^r)^b.
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
    """True where a row has a twin before it, in its own split or, for a test row, in train. Columns as in FOUND."""
    found = pd.DataFrame(False, index=rows.index, columns=FOUND)
    for _, own in rows.groupby("subset", sort=False):
        own = own.iloc[np.argsort(own["split"] != "train", kind="stable")]  # train comes first
        test = (own["split"] != "train").to_numpy()
        same, turned = _exact(own)
        leaked = test & _known(own[test], own[~test]).reindex(own.index, fill_value=False).to_numpy()
        fresh = np.flatnonzero(~(same | turned | leaked))
        near, nearly_leaked = np.zeros(len(own), bool), np.zeros(len(own), bool)
        shingles = [_shingles(own["chosen"].iat[i], own["rejected"].iat[i]) for i in fresh]
        for later, earlier in _alike(shingles, similar):
            marks = near if test[fresh[later]] == test[fresh[earlier]] else nearly_leaked
            marks[fresh[later]] = True
        found.loc[own.index] = np.column_stack([same, near, turned, leaked, nearly_leaked])
    return found


def _exact(own: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Rows that were there before in the same split: as they are, and with chosen and rejected turned round."""
    same = own.duplicated(["split", "chosen", "rejected"]).to_numpy()
    seen, turned = set(), []
    for split, chosen, rejected in zip(own["split"], own["chosen"], own["rejected"], strict=True):
        turned.append((split, rejected, chosen) in seen and chosen != rejected)
        seen.add((split, chosen, rejected))
    return same, np.array(turned, bool)


def _known(test: pd.DataFrame, train: pd.DataFrame) -> pd.Series:
    """Test rows whose two transcripts are a train row's, whichever is the chosen one."""
    pairs = set(map(frozenset, zip(train["chosen"], train["rejected"], strict=True)))
    both = zip(test["chosen"], test["rejected"], strict=True)
    return pd.Series([frozenset(pair) in pairs for pair in both], index=test.index, dtype=bool)


def _shingles(chosen: str, rejected: str) -> np.ndarray:
    """Hashes of the word triples of both transcripts, speakers and punctuation aside: sorted, each one once."""
    triples = set()
    for side, text in (("c", chosen), ("r", rejected)):
        words = re.findall(r"\w+", text.lower())
        runs = (" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))
        triples |= {crc32(f"{side} {run}".encode()) for run in runs}  # hash() would differ from process to process
    return np.array(sorted(triples), np.uint32)  # a set of Python's numbers takes ten times the memory


def _alike(shingles: list[np.ndarray], similar: float) -> Iterator[tuple[int, int]]:
    """(later, earlier) of all proposed rows whose exact Jaccard similarity is at least `similar`."""
    for later, earlier in _proposed(shingles):
        one, other = shingles[later], shingles[earlier]
        both = np.intersect1d(one, other, assume_unique=True).size
        if both >= similar * (one.size + other.size - both):
            yield later, earlier


def _proposed(shingles: list[np.ndarray]) -> np.ndarray:
    """Pairs (later, earlier) of rows whose signatures agree in a band, each pair once: shape (pairs, 2)."""
    from datasketch import MinHash

    sketches = MinHash.generator(shingles, num_perm=BANDS * IN_A_BAND, seed=1, hashfunc=int)
    signatures = np.array([sketch.hashvalues.astype(np.uint32) for sketch in sketches]).reshape(-1, BANDS, IN_A_BAND)
    odd = np.random.default_rng(0).integers(1 << 62, size=IN_A_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    pairs = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        buckets = pd.Series((signatures[:, band] * odd).sum(axis=1))  # equal bands, equal sums; the rest is weeded out
        crowded = buckets[buckets.duplicated(keep=False)]
        for rows in crowded.groupby(crowded).indices.values():
            pairs.append(np.array([(b, a) for a, b in combinations(crowded.index[rows], 2)]))
    return np.unique(np.concatenate(pairs), axis=0)


def shared_first_turns(rows: pd.DataFrame) -> pd.DataFrame:
    """Test rows whose first human turn opens a train row too, a weaker leak: one row a subset, count and number."""
    turns = rows["chosen"].map(first_turn)
    lines = []
    for subset, own in rows.groupby("subset", sort=False):
        train = set(turns[own.index[own["split"] == "train"]])
        test = turns[own.index[own["split"] == "test"]]
        lines.append((subset, int(test.isin(train).sum()), len(test)))
    return pd.DataFrame(lines, columns=["subset", "rows", "n"])
