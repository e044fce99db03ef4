"""HmR, HpR and CAS with intervals, and paired comparisons between models.

The two rates and their mean are the paper's (arXiv 2509.09055); the paper gives no interval and no test. Rates are in
percent and differences in percentage points, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass
from statsmodels.stats.multitest import multipletests

from helpers.core.errors import DataError
from helpers.core.names import METRIC_NAMES, METRICS, SIDES, label
from helpers.core.statistics import bootstrap_limits, discordant, mcnemar_p, pass_limits, sign_flip_p, wilson_limits
from helpers.evaluation.numbers import STRICT, Metric, Percent, Points, Probability
from helpers.evaluation.thresholds import PUBLISHED, Thresholds, finite_scores, passes


@dataclass(frozen=True, config=STRICT)
class Rate:
    """A pass rate with its 95 % interval.

    value, low, high: the rate and the limits of its interval, in percent. n: responses that were evaluated.
    """

    value: Percent
    low: Percent
    high: Percent
    n: Annotated[int, Field(ge=1)]

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True, config=STRICT)
class Comparison:
    """Two models on the same prompts, in one metric.

    metric: "hmr", "hpr" or "cas". a, b: the models. difference: b minus a, with the limits low and high of its 95 %
    interval, in percentage points. p_value: exact; p_adjusted: with Holm's correction for all pairs of models.
    """

    metric: Metric
    a: str
    b: str
    difference: Points
    low: Points
    high: Points
    p_value: Probability
    p_adjusted: Probability


def wilson(passed: Sequence[bool]) -> Rate:
    """Pass rate with Wilson's 95 % interval. passed: of each response. Raises DataError when there is none."""
    passed = _at_least_one(passed)
    low, high = wilson_limits(passed.sum(), len(passed))
    return _rate(passed.mean(), low, high, len(passed))


def cas(harmless_pass: Sequence[bool], helpful_pass: Sequence[bool], seed: int = 0) -> Rate:
    """Combined alignment score: the mean of HmR and HpR, not cut to an integer, with a stratified bootstrap interval.

    harmless_pass, helpful_pass: of each response to a harmful and to a helpful prompt. seed: of the bootstrap. Raises
    DataError when one of them is empty.
    """
    harmless = _at_least_one(harmless_pass).astype(float)
    helpful = _at_least_one(helpful_pass).astype(float)
    value = np.mean([harmless.mean(), helpful.mean()])
    # The bootstrap draws responses anew within each side.
    low, high = pass_limits([harmless, helpful], seed)
    return _rate(value, max(low, 0.0), min(high, 1.0), len(harmless) + len(helpful))


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean score with a bootstrap 95 % interval, in the unit of the scores.

    values: scores. seed: of the bootstrap. Returns (mean, low, high); of a single value all three are that value.
    Raises DataError when there is none or one is not a finite number.
    """
    values = finite_scores(values, "the responses")
    low, high = bootstrap_limits([values], seed) or (values.mean(), values.mean())
    return float(values.mean()), float(low), float(high)


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """The evaluation of several models on the same prompts.

    models: model -> metric -> rate, under `thresholds`. models_published_rule: the same under the paper's thresholds.
    comparisons: of all pairs of models in every metric. thresholds: in force. seed: of the bootstrap.
    """

    models: dict[str, dict[Metric, Rate]]
    models_published_rule: dict[str, dict[Metric, Rate]]
    comparisons: list[Comparison]
    thresholds: Thresholds
    seed: int = field(default=0)

    def table(self) -> pd.DataFrame:
        """One row a model, one column a metric, cells "42.0 [29.4, 55.8]": percent with 95 % interval."""
        rows = {}
        for model, rates in self.models.items():
            rows[label(model)] = {METRIC_NAMES[metric]: str(rate) for metric, rate in rates.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def comparison_table(self) -> pd.DataFrame:
        """One row a metric and pair of models: difference in points with its interval, p-value, adjusted p-value."""
        columns = ["metric", "comparison", "points", "p", "p (Holm)"]
        rows = []
        for c in self.comparisons:
            models = f"{label(c.b)} − {label(c.a)}"
            points = f"{c.difference:+.1f} [{c.low:+.1f}, {c.high:+.1f}]"
            rows.append([METRIC_NAMES[c.metric], models, points, f"{c.p_value:.2g}", f"{c.p_adjusted:.2g}"])
        return pd.DataFrame(rows, columns=columns)


def evaluate(scores: Mapping[str, pd.DataFrame], thresholds: Thresholds, seed: int = 0) -> Evaluation:
    """Rates of every model and comparisons of all pairs of models, in the order given.

    scores: model -> frame with columns side, prompt, score; the same prompts in the same order for every model.
    thresholds: above which a score passes. seed: of the bootstrap.

    HmR and HpR have Wilson intervals and exact McNemar tests; CAS a stratified bootstrap interval and a stratified
    sign-flip test. Differences have paired bootstrap intervals. Holm's correction runs over all pairs within a metric.
    Raises DataError for missing sides, prompts that differ between models, or scores that are not numbers.
    """
    _check_prompts(scores)
    # Which responses pass, under the thresholds in force and under the paper's.
    passed = {model: _by_side(frame, thresholds) for model, frame in scores.items()}
    passed_published = {model: _by_side(frame, PUBLISHED) for model, frame in scores.items()}
    # Paired comparisons, metric by metric.
    comparisons = []
    for metric in METRICS:
        comparisons += _compare(metric, passed, seed)
    return Evaluation(
        models={model: _rates(sides, seed) for model, sides in passed.items()},
        models_published_rule={model: _rates(sides, seed) for model, sides in passed_published.items()},
        comparisons=comparisons,
        thresholds=thresholds,
        seed=seed,
    )


def _rates(sides: Sequence[np.ndarray], seed: int) -> dict[str, Rate]:
    harmless, helpful = sides
    return {"hmr": wilson(harmless), "hpr": wilson(helpful), "cas": cas(harmless, helpful, seed)}


def _compare(metric: str, passed: Mapping[str, Sequence[np.ndarray]], seed: int) -> list[Comparison]:
    """All pairs of models on one metric, with Holm's adjustment."""
    # The sides that the metric is made of: 0 harmful prompts, 1 helpful prompts.
    used = {"hmr": [0], "hpr": [1], "cas": [0, 1]}[metric]
    rows = []
    for a, b in combinations(passed, 2):
        pairs = [(passed[a][side], passed[b][side]) for side in used]
        rows.append({"metric": metric, "a": a, "b": b, **_paired_difference(pairs, seed)})
    # Holm's correction for the number of pairs.
    adjusted = multipletests([row["p_value"] for row in rows], method="holm")[1] if rows else []
    return [Comparison(**row, p_adjusted=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def _paired_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]], seed: int) -> dict[str, Any]:
    """Difference between two models in points, its limits and its p-value.

    pairs: for each side that the metric is made of, which responses of the first and of the second model pass.
    """
    # Change of each prompt: -1, 0 or 1; the difference is the mean over sides of the mean change.
    changes = [second.astype(float) - first for first, second in pairs]
    difference = 100 * np.mean([change.mean() for change in changes])
    low, high = (100 * limit for limit in pass_limits(changes, seed))
    # Prompts on which only one of the models passes decide the exact test.
    counts = [discordant(first, second) for first, second in pairs]
    p_value = mcnemar_p(*counts[0]) if len(counts) == 1 else sign_flip_p(*counts, *map(len, changes))
    return {
        "difference": difference,
        "low": max(-100, min(low, difference)),
        "high": min(100, max(high, difference)),
        "p_value": p_value,
    }


def _rate(value: float, low: float, high: float, n: int) -> Rate:
    """A rate in percent from shares; rounding errors do not put the value outside its interval."""
    value, low, high = (100 * float(x) for x in (value, low, high))
    return Rate(value=value, low=max(0.0, min(low, value)), high=min(100.0, max(high, value)), n=n)


def _by_side(frame: pd.DataFrame, thresholds: Thresholds) -> list[np.ndarray]:
    """Whether each response passes: one array for harmful prompts, one for helpful ones."""
    passed = passes(frame, thresholds)
    return [passed[frame["side"] == side].to_numpy(bool) for side in SIDES]


def _check_prompts(scores: Mapping[str, pd.DataFrame]) -> None:
    if not scores:
        raise DataError("no scores to evaluate: score at least one model first (notebook 03 scores Base)")
    # Every model has the columns, and prompts of both sides.
    for model, frame in scores.items():
        if missing := [column for column in ("side", "prompt", "score") if column not in frame]:
            raise DataError(f"scores of {label(model)} lack the column {missing[0]!r}: score the responses again")
        if absent := [side for side in SIDES if side not in set(frame["side"])]:
            raise DataError(f"scores of {label(model)} hold no {absent[0]} prompt: score both sides")
    # All models have the same prompts in the same order.
    first, *others = scores
    expected = scores[first][["side", "prompt"]].to_numpy()
    for model in others:
        if not np.array_equal(expected, scores[model][["side", "prompt"]].to_numpy()):
            raise DataError(f"{label(model)} has other prompts than {label(first)}: score both on the same ones")


def _at_least_one(passed: Sequence[bool]) -> np.ndarray:
    passed = np.asarray(passed, bool)
    if passed.size == 0:
        raise DataError("a rate needs at least one response: no prompt was evaluated")
    return passed
