"""Tables of many trainings: what the runs are, and how seeds and prompts enter the intervals."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import experiments
from helpers.core import files, profiles, statistics, store
from helpers.core.errors import DataError, SettingsError
from helpers.core.profiles import BY_RECIPE, RECIPES
from helpers.core.settings import resolve
from helpers.experiments import dpo_puzzle, tables


def test_every_run_of_an_experiment_is_a_valid_run_of_its_own():
    for name in experiments.experiments():
        todo = experiments.jobs(name)
        assert len({job.name for job in todo}) == len({(job.arm, job.settings["seed"]) for job in todo}) == len(todo)
        assert all(resolve(**job.settings).run_name == job.name for job in todo)
    assert len(experiments.jobs("seeds")) == len(RECIPES) * experiments.SEEDS
    assert experiments.SEEDS >= 5 and experiments.PROMPTS_A_SIDE >= 200


def test_the_faults_one_at_a_time_are_together_the_published_recipe():
    """Cut-offs aside, of which every table holds both."""
    arms = {job.arm: resolve(**job.settings).settings for job in experiments.jobs("faults")}
    own = {name: getattr(arms[fault], name) for fault, names in experiments.FAULTS.items() for name in names}
    assert own.keys() == BY_RECIPE.keys() - {"thresholds"}
    assert all(value == BY_RECIPE[name][RECIPES.index("published")] for name, value in own.items())


def test_the_planner_counts_what_is_finished(results):
    assert re.fullmatch(r"puzzle: 48 runs, 0 finished; about 1\.8 hours .* 1 at once.*", experiments.plan("puzzle"))
    todo = experiments.jobs("puzzle")
    for job in todo[:42]:
        code = {"losses.py": "of another day"} if job is todo[40] else {}
        parts = store.Parts({}, {}, code, {"torch": files.version("torch")})
        done = results / job.name / "stages" / "dpo"
        store.make(done, parts, lambda folder: (folder / "log.csv").write_text("x"), "stage dpo")
    (done / "log.csv").write_text("damaged")
    assert "40 finished; about 9 minutes to go with 2 at once" in experiments.plan("puzzle", workers=2)


def test_an_unknown_experiment_is_named():
    with pytest.raises(SettingsError, match=r"'seed'.*choose seeds, puzzle"):
        experiments.jobs("seed")


def test_a_missing_table_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    with pytest.raises(DataError, match="helpers sweep seeds"):
        experiments.load("seeds")


def made_up(better: float, seeds: int = 5, prompts: int = 40) -> pd.DataFrame:
    """Two models; ``better`` is how much more often the second is good."""
    rng = np.random.default_rng(0)
    rows = []
    for model, chance in (("base", 0.3), ("sft", 0.3 + better)):
        for seed in range(seeds):
            for side in ("harmful", "helpful"):
                for prompt in range(prompts):
                    good = int(rng.random() < chance)
                    rows.append(["recommended", seed, model, "greedy", side, prompt, good, good, 0])
    names = ["arm", "seed", "model", "decoding", "side", "prompt", "good", "calibrated", "published"]
    return pd.DataFrame(rows, columns=names)


def test_rates_are_means_over_seeds_with_limits_around_them():
    table = made_up(0.3)
    rates = experiments.rates(table).set_index(["model", "metric", "by"])
    mine = table[(table["model"] == "sft") & (table["side"] == "harmful")]
    row = rates.loc[("sft", "hmr", "oracle")]
    assert row["value"] == pytest.approx(100 * mine["good"].mean(), abs=0.01)
    assert row["low"] < row["value"] < row["high"] and row["least"] <= row["value"] <= row["most"]
    both = rates.loc[[("sft", "hmr", "oracle"), ("sft", "hpr", "oracle")], "value"].mean()
    assert rates.loc[("sft", "cas", "oracle"), "value"] == pytest.approx(both, abs=0.02)
    assert rates.loc[("sft", "cas", "reward model, published cut-offs"), "value"] == 0


def test_a_real_difference_is_told_from_none():
    for better, found in ((0.35, True), (0.0, False)):
        gaps = experiments.differences(made_up(better), "base", "sft").set_index(["metric", "by"])
        row = gaps.loc[("cas", "oracle")]
        assert (row["low"] > 0) == found
        assert row["value"] == pytest.approx(100 * better, abs=12)


@given(st.floats(0, 1), st.integers(2, 6), st.integers(2, 30))
def test_what_does_not_vary_has_no_width(value, seeds, prompts):
    low, high = statistics.crossed_limits([np.full((seeds, prompts), value)])
    assert low == pytest.approx(value) and high == pytest.approx(value)


def test_seeds_that_differ_widen_the_limits():
    rng = np.random.default_rng(1)
    steady = (rng.random((5, 200)) < 0.5).astype(float)
    uneven = (rng.random((5, 200)) < np.linspace(0.1, 0.9, 5)[:, None]).astype(float)
    narrow, wide = (np.ptp(statistics.crossed_limits([values])) for values in (steady, uneven))
    assert wide > 2 * narrow


def test_limits_hold_the_truth_about_as_often_as_they_say():
    """Prompts and seeds both vary; the true mean is 0.5. At least 90 of 100 intervals of 95 % must hold it."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        ease, luck = rng.normal(0, 0.15, 60), rng.normal(0, 0.05, 8)
        values = (rng.random((8, 60)) < np.clip(0.5 + ease + luck[:, None], 0, 1)).astype(float)
        low, high = statistics.crossed_limits([values], resamples=400)
        held += low <= 0.5 <= high
    assert held >= 90


@given(st.floats(0.01, 4), st.floats(0.05, 0.3))
def test_noise_alone_lifts_the_loss_as_far_as_the_formula_says(sigma, beta):
    exact, by_series = dpo_puzzle.expected_loss(sigma, beta), dpo_puzzle.LN_2 + (beta * sigma) ** 2 / 8
    assert dpo_puzzle.LN_2 < exact <= by_series + 1e-12  # the next term is negative
    assert by_series - exact < (beta * sigma) ** 4 / 50
    assert dpo_puzzle.implied_sigma(by_series, beta) == pytest.approx(sigma, rel=1e-6)


def test_the_expected_loss_is_the_mean_over_drawn_margins():
    margins = np.random.default_rng(0).normal(-1.5, 9.0, 400_000)
    assert dpo_puzzle.expected_loss(9.0, 0.1, -1.5) == pytest.approx(np.logaddexp(0, -0.1 * margins).mean(), abs=2e-3)
    assert dpo_puzzle.expected_loss(0.0, 0.1) == dpo_puzzle.LN_2


def fake_puzzle(rewrite=lambda row: row) -> pd.DataFrame:
    """A table in which every prediction holds, before `rewrite` changes its rows."""
    rows = []
    for job in experiments.jobs("puzzle"):
        own = {name: job.settings[name] for name in ("dropout", "dpo_learning_rate", "lora_targets", "dpo_reference")}
        noise = 0.1 if own["dropout"] else 0.0
        bold = own["dpo_learning_rate"] == dpo_puzzle.HIGH and own["lora_targets"] == "all-linear"
        end = dpo_puzzle.LN_2 - (0.05 if bold else 0.001) + (noise / 10 if bold else 0)
        for split, step, loss in (
            ("train", 1, dpo_puzzle.LN_2 + noise),
            ("train", 60, end + noise),
            ("heldout", 60, end),
        ):
            row = {"step": step, "split": split, "loss": loss, "rewards_margins": 0.0, "rewards_accuracies": 0.5}
            rows.append(rewrite(row | own | {"seed": job.settings["seed"]}))
    return pd.DataFrame(rows)


def test_predictions_can_hold_and_can_fail():
    assert dpo_puzzle.predictions(fake_puzzle())["held"].all()
    effects = dpo_puzzle.effects(dpo_puzzle.summarise(fake_puzzle()))
    assert list(effects.loc["dropout: 0.0 to 0.1"].str.split(" ").str[0]) == ["+0.1025", "+0.0025"]
    flat = dpo_puzzle.predictions(fake_puzzle(lambda row: row | {"loss": dpo_puzzle.LN_2}))
    assert flat["held"].tolist() == [True, False, False, True, True, False, False, False]


@pytest.mark.parametrize("name", [name for name in experiments.experiments() if experiments.there(name)])
def test_a_shipped_table_is_that_of_its_experiment(name):
    table, record = experiments.load(name), experiments.record(name)
    todo = experiments.jobs(name)
    assert record["runs"] == [{"arm": job.arm, **job.settings} for job in todo]
    assert record["models"] == {
        part: files.content_hash(profiles.DATA_CACHE / part) for part in ("policy", "reward_model", "mini_hh")
    }
    assert len(table) == record["rows"] and not any(isinstance(v, str) and len(v) > 40 for v in table.iloc[0])
    if todo[0].models:
        decodings = 1 + todo[0].sampled
        prompts = todo[0].settings["eval_prompts"]
        assert list(table.columns) == experiments.COLUMNS
        assert len(table) == len(todo) * len(todo[0].models) * decodings * 2 * prompts
        assert (table.groupby(["arm", "seed", "model", "decoding", "side"]).size() == prompts).all()
    else:
        assert dpo_puzzle.summarise(table).shape[0] == len(todo)


def test_the_card_is_what_the_files_say():
    from helpers.report import data_card

    assert (profiles.DATA_CACHE / "README.md").read_text("utf-8") == data_card.render()
