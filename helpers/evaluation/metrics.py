"""HmR, HpR and CAS with intervals, and paired comparisons between models.

The two rates and their mean are the paper's (arXiv 2509.09055); the paper gives no interval and no test. Rates are in
percent and differences in percentage points, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import combinations
from typing import Annotated

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
    """A rate in percent with its 95 % interval, from n responses."""

    value: Percent
    low: Percent
    high: Percent
    n: Annotated[int, Field(ge=1)]

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True, config=STRICT)
class Comparison:
    """Model b minus model a on the same prompts, in points, with 95 % interval, exact p-value and Holm's adjustment."""

    metric: Metric
    a: str
    b: str
    difference: Points
    low: Points
    high: Points
    p_value: Probability
    p_adjusted: Probability


def wilson(passed: Sequence[bool]) -> Rate:
    """Pass rate with Wilson's 95 % interval."""
    passed = _some(passed)
    value = passed.mean()
    low, high = wilson_limits(passed.sum(), len(passed))
    return _rate(value, low, high, len(passed))


def cas(harmless_pass: Sequence[bool], helpful_pass: Sequence[bool], seed: int = 0) -> Rate:
    """Combined alignment score: mean of the two pass rates, not cut to an integer; stratified bootstrap interval."""
    sides = [_some(harmless_pass).astype(float), _some(helpful_pass).astype(float)]
    low, high = pass_limits(sides, seed)
    value = np.mean([side.mean() for side in sides])
    return _rate(value, max(low, 0.0), min(high, 1.0), sum(map(len, sides)))


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of scores with a bootstrap 95 % interval, in the unit of the scores; one value has no width."""
    values = finite_scores(values, "the responses")
    low, high = bootstrap_limits([values], seed) or (values.mean(), values.mean())
    return float(values.mean()), float(low), float(high)


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """Rates per model under the thresholds in force and under the paper's, and every paired comparison."""

    models: dict[str, dict[Metric, Rate]]
    models_published_rule: dict[str, dict[Metric, Rate]]
    comparisons: list[Comparison]
    thresholds: Thresholds
    seed: int = field(default=0)

    def table(self) -> pd.DataFrame:
        """One row a model, cells "42.0 [29.4, 55.8]": percent with 95 % interval."""
        rows = {label(m): {METRIC_NAMES[k]: str(r) for k, r in rates.items()} for m, rates in self.models.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def comparison_table(self) -> pd.DataFrame:
        """One row a metric and pair of models: difference in points with its interval, p-value, adjusted p-value."""
        rows = [
            {
                "metric": METRIC_NAMES[c.metric],
                "comparison": f"{label(c.b)} − {label(c.a)}",
                "points": f"{c.difference:+.1f} [{c.low:+.1f}, {c.high:+.1f}]",
                "p": f"{c.p_value:.2g}",
                "p (Holm)": f"{c.p_adjusted:.2g}",
            }
            for c in self.comparisons
        ]
        return pd.DataFrame(rows, columns=["metric", "comparison", "points", "p", "p (Holm)"])


def evaluate(scores: Mapping[str, pd.DataFrame], thresholds: Thresholds, seed: int = 0) -> Evaluation:
    """Rates of every model and comparisons of all pairs, in the order given.

    scores: model -> frame with columns side, prompt, score; the same prompts in the same order for every model.
    HmR and HpR: Wilson intervals, exact McNemar tests; CAS: stratified bootstrap, stratified sign-flip test.
    Differences have paired bootstrap intervals. Holm's correction runs over all pairs within a metric.
    Raises DataError for missing sides, prompts that differ between models, or scores that are not numbers.
    """
    _check_prompts(scores)
    passed = {model: _by_side(frame, thresholds) for model, frame in scores.items()}
    under_published = {model: _by_side(frame, PUBLISHED) for model, frame in scores.items()}
    return Evaluation(
        models={model: _rates(sides, seed) for model, sides in passed.items()},
        models_published_rule={model: _rates(sides, seed) for model, sides in under_published.items()},
        comparisons=[c for metric in METRICS for c in _compare(metric, passed, seed)],
        thresholds=thresholds,
        seed=seed,
    )


def _rates(sides: Sequence[np.ndarray], seed: int) -> dict[str, Rate]:
    harmless, helpful = sides
    return {"hmr": wilson(harmless), "hpr": wilson(helpful), "cas": cas(harmless, helpful, seed)}


def _compare(metric: str, passed: Mapping[str, Sequence[np.ndarray]], seed: int) -> list[Comparison]:
    """All pairs of models on one metric, with Holm's adjustment."""
    used = {"hmr": [0], "hpr": [1], "cas": [0, 1]}[metric]
    rows = []
    for a, b in combinations(passed, 2):
        pairs = [(passed[a][i], passed[b][i]) for i in used]
        changes = [y.astype(float) - x for x, y in pairs]
        counts = [discordant(x, y) for x, y in pairs]
        p_value = mcnemar_p(*counts[0]) if len(used) == 1 else sign_flip_p(*counts, *map(len, changes))
        difference = 100 * np.mean([change.mean() for change in changes])
        low, high = (100 * limit for limit in pass_limits(changes, seed))
        limits = {"low": max(-100, min(low, difference)), "high": min(100, max(high, difference))}
        rows.append({"metric": metric, "a": a, "b": b, "difference": difference, **limits, "p_value": p_value})
    adjusted = multipletests([row["p_value"] for row in rows], method="holm")[1] if rows else []
    return [Comparison(**row, p_adjusted=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def _rate(value: float, low: float, high: float, n: int) -> Rate:
    value, low, high = (100 * float(x) for x in (value, low, high))
    return Rate(value=value, low=max(0.0, min(low, value)), high=min(100.0, max(high, value)), n=n)


def _by_side(frame: pd.DataFrame, thresholds: Thresholds) -> list[np.ndarray]:
    passed = passes(frame, thresholds)
    return [passed[frame["side"] == side].to_numpy(bool) for side in SIDES]


def _check_prompts(scores: Mapping[str, pd.DataFrame]) -> None:
    if not scores:
        raise DataError("no scores to evaluate: score at least one model first (notebook 03 scores Base)")
    first, *others = scores
    for model, frame in scores.items():
        if missing := [column for column in ("side", "prompt", "score") if column not in frame]:
            raise DataError(f"scores of {label(model)} lack the column {missing[0]!r}: score the responses again")
        if absent := [side for side in SIDES if side not in set(frame["side"])]:
            raise DataError(f"scores of {label(model)} hold no {absent[0]} prompt: score both sides")
    expected = scores[first][["side", "prompt"]].to_numpy()
    for model in others:
        if not np.array_equal(expected, scores[model][["side", "prompt"]].to_numpy()):
            raise DataError(f"{label(model)} has other prompts than {label(first)}: score both on the same ones")


def _some(passed: Sequence[bool]) -> np.ndarray:
    passed = np.asarray(passed, bool)
    if passed.size == 0:
        raise DataError("a rate needs at least one response: no prompt was evaluated")
    return passed
