"""The labels: how sure a second opinion is of each one, and which ones confident learning doubts.

A label cannot be seen to be wrong; it can only be doubted by somebody. Here that is a small preference model, trained
on the other rows, and any reward model that has not seen the rows.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from helpers.core.errors import DataError
from helpers.data.audit.row_checks import split
from helpers.data.transcripts import ASSISTANT, HUMAN, first_turn


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


def foretold(train: pd.DataFrame, rows: pd.DataFrame, seed: int = 0) -> pd.Series:
    """The same probability for `rows`, by one preference model that is trained on all of `train`."""
    words, features = _difference_features(train)
    turned = _half(len(train), seed)
    model = _preference_model(_turn(features, turned), (~turned).astype(int))
    _, theirs = _difference_features(rows, words)
    return pd.Series(model.predict_proba(theirs)[:, 1], index=rows.index, name="label_probability")


def from_scores(scores: pd.DataFrame) -> pd.Series:
    """The same probability from a reward model's chosen_score and rejected_score (Bradley and Terry 1952)."""
    return expit(scores["chosen_score"] - scores["rejected_score"]).rename("label_probability")


def read_outside(path: str | Path) -> pd.DataFrame:
    """Comparisons that other people have labelled: columns chosen, rejected (whole transcripts).

    path: a .jsonl file, or a folder with them, whose lines hold prompt, chosen and rejected, as the HHH evaluation does
    (Askell et al. 2021). Raises DataError where there are none.
    """
    place = Path(path)
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    try:
        read = pd.concat([pd.read_json(file, lines=True, dtype=False) for file in files], ignore_index=True)
        read = read[["prompt", "chosen", "rejected"]]
    except (OSError, ValueError, KeyError):
        raise DataError(
            f"outside_labels = {str(path)!r} holds no comparisons: give JSON lines with prompt, chosen and rejected"
        ) from None
    opened = read["prompt"].map(lambda text: text if text.startswith(HUMAN) else f"{HUMAN} {text}") + ASSISTANT + " "
    return pd.DataFrame({side: opened + read[side] for side in ("chosen", "rejected")})


def _difference_features(rows: pd.DataFrame, words=None) -> tuple:
    """The word weights (fitted here unless given) and one row a pair: chosen minus rejected, words and log-length."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    replies = split(rows)
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
    # One process: cleanlab's own workers cannot see its data where processes are spawned instead of forked.
    issues = find_label_issues((~turned).astype(int), both, filter_by="prune_by_noise_rate", n_jobs=1)
    return pd.Series(issues, index=probability.index, name="label_issue")


def precision_recall(probability: pd.Series, wrong: pd.Series) -> pd.DataFrame:
    """How well a low P(label) finds wrong labels, worst rows first: columns marked (rows so far), precision, recall."""
    order = probability.sort_values(kind="stable").index
    right = wrong[order].astype(int).cumsum().to_numpy()
    marked = np.arange(1, len(order) + 1)
    return pd.DataFrame({"marked": marked, "precision": right / marked, "recall": right / max(1, right[-1])})
