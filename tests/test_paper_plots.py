"""Figures about the paper, the experiments and the audit: their alt text gives the numbers that are drawn."""

import numpy as np
import pandas as pd

from helpers.data import audit
from helpers.report.paper import published_figures, reanalysis
from helpers.report.plots import audit as audit_plots
from helpers.report.plots import paper as paper_plots
from helpers.report.plots.style import Picture

ROWS = published_figures.scores()


def test_differences_say_which_hold():
    alt = paper_plots.differences(reanalysis.evaluate(ROWS), "Pairs").alt
    assert alt.count("(holds)") == 5 and alt.count("(not told apart)") == 13
    assert "CAS SFT+DPO − SFT 3 (not told apart)" in alt


def test_the_map_marks_the_papers_cut_offs():
    lead = reanalysis.threshold_map(ROWS, np.array([-4.0, -3.0, -2.0]), np.array([-3.0, -2.0]))
    assert "3 at the paper's cut-offs" in paper_plots.threshold_map(lead).alt


def test_losses_are_counted_against_ln_2():
    curves = {"dpo": {"tenths": [0.7] * 9 + [0.6]}, "sft_dpo": {"tenths": [0.6] * 10}}
    alt = paper_plots.published_losses(curves).alt
    assert "DPO from 0.7 to 0.6, 9 of 10 tenths above ln 2" in alt and "0 of 10 tenths" in alt


def test_an_arm_of_the_puzzle_is_named_with_its_losses():
    keys = ["dropout", "dpo_learning_rate", "lora_targets", "dpo_reference", "seed"]
    rows = [(0.1, 2e-5, "q_v", "live", seed, 0.9, 0.6931) for seed in range(3)]
    runs = pd.DataFrame(rows, columns=[*keys, "train_loss", "heldout_loss"])
    assert "q_v, rate 2e-05, dropout 0.1, live: 0.900 in training, 0.693 held out" in paper_plots.puzzle(runs).alt


def test_arms_are_drawn_by_reward_model_and_oracle():
    rows = [("no cue", by, value, value - 1, value + 1) for by, value in (("reward model", -3.0), ("oracle", -5.0))]
    changes = pd.DataFrame(rows, columns=["arm", "by", "value", "low", "high"])
    assert "no cue by the oracle −5 [−6, −4]" in paper_plots.arms(changes, "Faults").alt


def test_audit_figures_give_rates_and_shares():
    rows = [("helpful-base", "test", check, 3 * (check == "empty"), 100) for check in audit.CHECKS]
    report = pd.DataFrame(rows, columns=["subset", "split", "check", "rows", "n"])
    report = report.assign(percent=report["rows"], low=0.0, high=6.0)
    assert "helpful-base test: empty 3.00 %." in audit_plots.flaw_rates(report).alt
    probability = pd.Series([0.2, 0.45, 0.55, 0.9])
    assert "50% between 0.4 and 0.6, 50% below 0.5" in audit_plots.strengths(probability).alt
    curve = audit.precision_recall(pd.Series(np.linspace(0, 1, 100)), pd.Series([True] * 50 + [False] * 50))
    assert "at recall 0.5 precision 1.00, by chance 0.50" in audit_plots.precision_recall({"flipped": curve}).alt
    cost = pd.DataFrame({"rows": [10, 1_000], "microseconds_a_row": [7, 8], "peak_mib": [90, 99]})
    assert "1,000 rows 8 µs a row, 99 MiB" in audit_plots.scaling(cost).alt


def test_every_figure_is_a_picture_that_can_be_saved():
    figure = paper_plots.score_and_length(ROWS)
    assert isinstance(figure, Picture) and figure.svg() == figure.svg() and len(figure.alt) > 80
