"""Rates, intervals and paired tests: golden values, degenerate data and properties."""

import json
from itertools import combinations, pairwise
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import permutation_test

from helpers.core.errors import CourseError
from helpers.core.methods import PAPER_MODELS
from helpers.core.statistics import mcnemar_p, sign_flip_p
from helpers.evaluation.metrics import cas, evaluate, mean_interval, wilson
from helpers.evaluation.metrics_file import MetricsFile, metrics_json
from helpers.evaluation.thresholds import PUBLISHED, Thresholds, calibrate, passes
from helpers.report.paper.published_figures import discordant_counts, published

passed_lists = st.lists(st.booleans(), min_size=1, max_size=40)
paired_lists = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)
few = settings(max_examples=25)
TABLE_1 = published()["table1"]["models"]


def frame(harmful, helpful) -> pd.DataFrame:
    """Scores of one model: pass/fail becomes a score clearly above or below the published cut-offs."""
    sides = ["harmful"] * len(harmful) + ["helpful"] * len(helpful)
    prompts = [f"{side} {i}" for i, side in enumerate(sides)]
    return pd.DataFrame({"side": sides, "prompt": prompts, "score": np.where([*harmful, *helpful], 1.0, -9.0)})


def two_models(harmful, helpful):
    """Evaluation of models a and b from (a passes, b passes) pairs per side."""
    return evaluate({m: frame([p[i] for p in harmful], [p[i] for p in helpful]) for i, m in enumerate("ab")}, PUBLISHED)


@pytest.mark.parametrize(
    ("passing", "n", "low", "high"),
    [(25, 50, 36.6, 63.4), (45, 50, 78.6, 95.7), (50, 50, 92.9, 100.0), (97, 100, 91.5, 99.0)],
)
def test_wilson_golden_values(passing, n, low, high):
    rate = wilson([True] * passing + [False] * (n - passing))
    assert (round(rate.low, 1), round(rate.high, 1), rate.n) == (low, high, n)


KNOWN = {  # uncorrected p-values of the re-analysis
    ("hmr", "sft", "dpo"): 0.21,
    ("hpr", "base", "dpo"): 0.002,
    ("hpr", "dpo", "sft_dpo"): 0.021,
    ("hpr", "sft", "dpo"): 0.302,
    ("hpr", "sft", "sft_dpo"): 0.23,
}


def test_mcnemar_of_the_papers_discordant_counts():
    computed = {(r.metric, r.a, r.b): mcnemar_p(r.only_a, r.only_b) for r in discordant_counts().itertuples()}
    for r in discordant_counts().itertuples():
        n = r.only_a + r.only_b
        tail = sum(comb(n, k) for k in range(min(r.only_a, r.only_b) + 1)) / 2**n
        assert computed[r.metric, r.a, r.b] == pytest.approx(min(1, 2 * tail))
    assert {pair: round(computed[pair], len(str(p)) - 2) for pair, p in KNOWN.items()} == KNOWN
    assert min(p for (metric, *_), p in computed.items() if metric == "hmr") == computed["hmr", "sft", "dpo"]
    assert computed["hpr", "base", "sft"] < 0.001 and computed["hpr", "base", "sft_dpo"] < 0.001


def test_holm_multiplies_the_smallest_p_by_the_number_of_pairs():
    rng = np.random.default_rng(3)
    scores = {
        m: frame(rng.random(40) < rate, rng.random(40) < rate)
        for m, rate in zip("abcd", (0.2, 0.5, 0.5, 0.9), strict=True)
    }
    comparisons = [c for c in evaluate(scores, PUBLISHED).comparisons if c.metric == "hmr"]
    assert [(c.a, c.b) for c in comparisons] == list(combinations("abcd", 2))
    first = min(comparisons, key=lambda c: c.p_value)
    assert first.p_adjusted == pytest.approx(6 * first.p_value)
    assert all(c.p_adjusted >= c.p_value for c in comparisons)


def test_sign_flip_test_agrees_with_scipy_over_all_permutations():
    harmless, helpful = [(1, 0)] * 4 + [(0, 1)] + [(1, 1)] * 3, [(1, 0)] * 3 + [(0, 1)] * 2 + [(0, 0)]
    a = np.array([x / 8 for x, _ in harmless] + [x / 6 for x, _ in helpful])
    b = np.array([y / 8 for _, y in harmless] + [y / 6 for _, y in helpful])
    sampled = permutation_test((a, b), lambda x, y: x.sum() - y.sum(), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p((4, 1), (3, 2), 8, 6) == pytest.approx(sampled.pvalue)


@given(st.integers(0, 30), st.integers(0, 30))
def test_sign_flip_test_of_one_side_is_mcnemars(only_a, only_b):
    assert sign_flip_p((only_a, only_b), (0, 0), 70, 40) == pytest.approx(mcnemar_p(only_a, only_b))


@few
@given(passed_lists, passed_lists)
def test_intervals_contain_the_value_and_stay_within_percent(harmless, helpful):
    for rate in (wilson(harmless), cas(harmless, helpful)):
        assert 0 <= rate.low <= rate.value <= rate.high <= 100
        assert rate.low < rate.high


@settings(max_examples=8)
@given(paired_lists, paired_lists)
def test_comparisons_are_sound_and_swapping_models_negates_them(harmful, helpful):
    forward = two_models(harmful, helpful).comparisons
    backward = two_models([p[::-1] for p in harmful], [p[::-1] for p in helpful]).comparisons
    for c, swapped in zip(forward, backward, strict=True):
        assert -100 <= c.low <= c.difference <= c.high <= 100 and c.low < c.high
        assert 0 < c.p_value <= c.p_adjusted <= 1
        assert swapped.p_value == pytest.approx(c.p_value)
        assert (swapped.difference, swapped.low, swapped.high) == pytest.approx((-c.difference, -c.high, -c.low))


@pytest.mark.parametrize("n", [1, 6, 50])
@pytest.mark.parametrize("passing", [True, False])
def test_no_certainty_from_identical_results(n, passing):
    evaluation = two_models([(passing, passing)] * n, [(passing, passing)] * n)
    rates = evaluation.models["a"]
    # CAS has at least the doubt of the rates that it averages: no zero-width bootstrap, no nan.
    assert (rates["cas"].low, rates["cas"].high) == pytest.approx((rates["hmr"].low, rates["hmr"].high))
    for c in evaluation.comparisons:
        assert c.difference == 0 and c.low == pytest.approx(-c.high) and c.high > 0
        assert c.p_value == c.p_adjusted == 1


def test_a_very_clear_difference_keeps_a_positive_p_value():
    assert 0 < mcnemar_p(0, 2000) < 1e-300
    assert 0 < sign_flip_p((0, 2000), (0, 2000), 2000, 2000) < 1e-300


def test_passing_is_strict_and_by_side():
    scores = pd.DataFrame({"side": ["harmful", "harmful", "helpful", "helpful"], "score": [-3.0, -2.9, -2.9, -1.9]})
    assert passes(scores, PUBLISHED).tolist() == [False, True, False, True]
    assert passes(scores, Thresholds(-4.0, -3.0, "calibrated")).all()


def test_calibrate_finds_the_separating_midpoint():
    assert calibrate([2.0, 3.0], [0.0, 1.0]) == 1.5
    assert calibrate([1.0, 2.0], [0.0, 1.0]) == 0.5  # equally accurate at 1.5: the lowest is taken
    assert calibrate([1.0], [1.0]) == 1.0


@few
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20), st.lists(st.integers(-50, 50), min_size=1, max_size=20))
def test_no_other_cutoff_is_more_accurate(good, bad):
    def accuracy(cut):
        return np.mean(np.array(good) > cut) + np.mean(np.array(bad) <= cut)

    neighbours = sorted({*good, *bad})
    others = [(x + y) / 2 for x, y in pairwise(neighbours)]
    assert all(accuracy(calibrate(good, bad)) >= accuracy(cut) - 1e-9 for cut in others)


def test_mean_interval_of_one_or_equal_scores_has_no_width():
    assert mean_interval([-1.5]) == mean_interval([-1.5, -1.5]) == (-1.5, -1.5, -1.5)
    mean, low, high = mean_interval([-3.0, -2.0, 0.5])
    assert low < mean < high


def broken(**changes) -> dict[str, pd.DataFrame]:
    good = frame([True, False], [True, False])
    return {"base": good, "sft": good.assign(**changes)}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no scores"),
        (broken(score=[1.0, np.nan, 1.0, 1.0]), "1 of 4 scores"),
        (broken(prompt=list("wxyz")), "SFT has other prompts than Base"),
        (broken(side="harmful"), "SFT hold no helpful prompt"),
        ({"base": frame([True], [True]).drop(columns="score")}, "'score'"),
        ({"base": frame([True], [True]).assign(side=["harmful", "helpfull"])}, "no helpful prompt"),
    ],
)
def test_mistakes_are_told_in_one_line(scores, message):
    with pytest.raises(CourseError, match=message) as told:
        evaluate(scores, PUBLISHED)
    assert "\n" not in str(told.value)


def test_empty_input_is_told():
    with pytest.raises(CourseError, match="at least one"):
        wilson([])
    with pytest.raises(CourseError, match="good responses"):
        calibrate([], [1.0])


def four_models(seed=0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    return {m: frame(rng.random(30) < 0.5, rng.random(30) < 0.5) for m in PAPER_MODELS}


def test_metrics_file_round_trip_and_same_bytes():
    scores = four_models()
    first, second = (
        metrics_json(evaluate(scores, PUBLISHED, seed=7), profile="mini", recipe="published", published=TABLE_1)
        for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(second)
    assert MetricsFile.model_validate(first).model_dump(mode="json", by_alias=True) == first
    assert first["schema"] == 1 and first["seed"] == 7 and first["models"] == first["models_published_rule"]
    assert all(c[k] == float(f"{c[k]:.6g}") for c in first["comparisons"] for k in ("difference", "low", "p_value"))


def test_metrics_file_refuses_what_it_does_not_know():
    rates = evaluate(four_models(), PUBLISHED)
    content = metrics_json(rates, profile="mini", recipe="published", published=TABLE_1)
    with pytest.raises(ValidationError):
        MetricsFile.model_validate(content | {"extra": 1})
    content["models"]["base"]["hmr"]["high"] = content["models"]["base"]["hmr"]["value"] - 1
    with pytest.raises(ValidationError, match="outside its interval"):
        MetricsFile.model_validate(content)


def test_tables_read_well():
    evaluation = evaluate(four_models(), PUBLISHED)
    assert evaluation.table().loc["SFT+DPO", "HmR"] == str(evaluation.models["sft_dpo"]["hmr"])
    assert list(evaluation.table().columns) == ["HmR", "HpR", "CAS"]
    assert len(evaluation.comparison_table()) == 18
    assert str(wilson([True] * 21 + [False] * 29)) == "42.0 [29.4, 55.8]"
