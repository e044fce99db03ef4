"""Doubtful labels: the probability that a second model gives to each preference label, and the labels it contradicts.

A label cannot be seen to be wrong; it can only be compared with another opinion. Here that comes from a small
preference model that was trained on other rows, or from a reward model that has not seen the rows.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from helpers.core.errors import DataError
from helpers.data.audit.row_checks import split
from helpers.data.transcripts import ASSISTANT, HUMAN, first_turn


def label_probability(rows: pd.DataFrame, folds: int = 5, seed: int = 0) -> pd.Series:
    """P(the chosen reply is the better one), from 0 to 1, by a preference model that was trained without the row.

    rows: whole transcripts, see `row_checks`. folds: into how many parts they are divided; the rows of each part are
    predicted by a model that is trained on the other parts. seed: of the division. Returns one probability a row, index
    as in `rows`.

    The model is a logistic regression on the difference of the two replies in words, word pairs (tf-idf) and length.
    Rows with the same first human turn are in the same part, so that no model has seen a copy of a row it predicts.
    """
    from sklearn.model_selection import GroupKFold

    # A classifier needs two classes, so half of the pairs are exchanged.
    _, features = _difference_features(rows)
    exchanged = _random_half(len(rows), seed)
    features, labels = _exchange(features, exchanged), (~exchanged).astype(int)
    # Predict each part from the others.
    probability = np.full(len(rows), np.nan)
    first_turns = rows["chosen"].map(first_turn)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(features, labels, first_turns):
        model = _preference_model(features[train], labels[train])
        first_is_better = model.predict_proba(features[test])[:, 1]
        probability[test] = np.where(exchanged[test], 1 - first_is_better, first_is_better)
    return pd.Series(probability, index=rows.index, name="label_probability")


def predicted_probability(train: pd.DataFrame, rows: pd.DataFrame, seed: int = 0) -> pd.Series:
    """P(the chosen reply is the better one) for `rows`, by one preference model that is trained on all of `train`.

    Model and result are those of `label_probability`.
    """
    # Train, half of the pairs exchanged.
    words, features = _difference_features(train)
    exchanged = _random_half(len(train), seed)
    model = _preference_model(_exchange(features, exchanged), (~exchanged).astype(int))
    # Predict, with the word weights of the training rows.
    _, features = _difference_features(rows, words)
    return pd.Series(model.predict_proba(features)[:, 1], index=rows.index, name="label_probability")


def from_scores(scores: pd.DataFrame) -> pd.Series:
    """P(the chosen reply is the better one) by a reward model: sigmoid of the difference of its scores.

    scores: columns chosen_score and rejected_score. The formula is Bradley and Terry's (1952).
    """
    return expit(scores["chosen_score"] - scores["rejected_score"]).rename("label_probability")


def read_outside(path: str | Path) -> pd.DataFrame:
    """Read comparisons that other people have labelled: columns chosen, rejected (whole transcripts).

    path: a .jsonl file, or a folder of such files, whose lines hold prompt, chosen and rejected, as in the HHH
    evaluation (Askell et al. 2021). Raises DataError where there are none.
    """
    place = Path(path)
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    try:
        tables = [pd.read_json(file, lines=True, dtype=False) for file in files]
        comparisons = pd.concat(tables, ignore_index=True)[["prompt", "chosen", "rejected"]]
    except (OSError, ValueError, KeyError):
        raise DataError(
            f"outside_labels = {str(path)!r} holds no comparisons: give JSON lines with prompt, chosen and rejected"
        ) from None
    # A prompt that is one question becomes a human turn.
    is_dialogue = comparisons["prompt"].str.startswith(HUMAN)
    dialogue = comparisons["prompt"].where(is_dialogue, f"{HUMAN} " + comparisons["prompt"])
    prompt = dialogue + ASSISTANT + " "
    return pd.DataFrame({"chosen": prompt + comparisons["chosen"], "rejected": prompt + comparisons["rejected"]})


def _difference_features(rows: pd.DataFrame, words=None) -> tuple:
    """The features of each pair: chosen minus rejected, in words, word pairs and log-length.

    rows: whole transcripts. words: a fitted TfidfVectorizer; None to fit one on these rows. Returns it, and a sparse
    matrix of shape (pairs, words + 1).
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    replies = split(rows)
    if words is None:
        texts = pd.concat([replies["chosen"], replies["rejected"]])
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True).fit(texts)
    word_gap = words.transform(replies["chosen"]) - words.transform(replies["rejected"])
    lengths = replies[["chosen", "rejected"]].apply(lambda texts: np.log1p(texts.str.len()))
    length_gap = (lengths["chosen"] - lengths["rejected"]).to_numpy()
    return words, sparse.hstack([word_gap, sparse.csr_matrix(length_gap[:, None])]).tocsr()


def _random_half(n: int, seed: int) -> np.ndarray:
    """True for about half of n pairs, drawn at random; shape (n,)."""
    return np.random.default_rng(seed).random(n) < 0.5


def _exchange(features, exchanged: np.ndarray):
    """The features of pairs with chosen and rejected exchanged where `exchanged` is True: they change their sign."""
    from scipy import sparse

    return sparse.diags(np.where(exchanged, -1.0, 1.0)) @ features


def _preference_model(features, labels: np.ndarray):
    """A logistic regression, trained. Without an intercept: exchanging a pair must give 1 minus its probability."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=2.0, fit_intercept=False, max_iter=200).fit(features, labels)


def label_issues(probability: pd.Series, seed: int = 0) -> pd.Series:
    """True for rows that confident learning (Northcutt et al. 2021, by cleanlab) takes for mislabelled.

    probability: that the chosen reply is the better one, by a model that has not seen the row. seed: decides which half
    of the pairs is exchanged, as the method needs two classes. It takes pairs that are merely close for errors too.
    """
    from cleanlab.filter import find_label_issues

    exchanged = _random_half(len(probability), seed)
    first_is_better = np.where(exchanged, 1 - probability, probability)
    both_classes = np.column_stack([1 - first_is_better, first_is_better])
    # One process: cleanlab's own workers cannot see its data where processes are spawned instead of forked.
    issues = find_label_issues((~exchanged).astype(int), both_classes, filter_by="prune_by_noise_rate", n_jobs=1)
    return pd.Series(issues, index=probability.index, name="label_issue")


def precision_recall(probability: pd.Series, wrong: pd.Series) -> pd.DataFrame:
    """How well a low probability of the label finds wrong labels.

    probability: that the chosen reply is the better one. wrong: True where the label is wrong in truth, same index.
    Rows are marked one after the other, those of lowest probability first. Returns a row for each number of marked
    rows: columns marked, precision (share of them that are wrong) and recall (share of the wrong ones that are marked).
    """
    order = probability.sort_values(kind="stable").index
    right = wrong[order].astype(int).cumsum().to_numpy()
    marked = np.arange(1, len(order) + 1)
    return pd.DataFrame({"marked": marked, "precision": right / marked, "recall": right / max(1, right[-1])})
