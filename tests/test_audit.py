"""The audit finds what was planted, in worlds that it was not written on, and the same rows in every process."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import audit, preferences, stages, synthetic
from helpers.dialogues import ASSISTANT, HUMAN
from helpers.errors import DataError
from helpers.runs import open_run
from helpers.settings import DATA_CACHE

SUBSETS = ["harmless-base", "helpful-base"]


def made_up(seed: int, train: int, test: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, truth = [], []
    for subset in SUBSETS:
        for split, n in (("train", train), ("test", test)):
            pairs, known = synthetic.generate_pairs(seed, subset, split, n)
            rows += [(subset, split, i, p["chosen"], p["rejected"]) for i, p in enumerate(pairs, 1)]
            truth += [{"subset": subset, "split": split, **facts} for facts in known]
    return pd.DataFrame(rows, columns=["subset", "split", "line", "chosen", "rejected"]), pd.DataFrame(truth)


@pytest.fixture(scope="module")
def world() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows, truth = made_up(seed=11, train=1500, test=400)
    return rows, truth, audit.detect(rows)


def test_planted_flaws_are_found_in_a_world_of_another_seed(world):
    _, truth, found = world
    exam = audit.measure(found, truth).set_index("check")
    assert {"empty", "identical", "history_differs", "duplicate", "near_duplicate", "contradictory"} <= set(exam.index)
    for check in ("empty", "identical", "history_differs", "duplicate"):
        assert exam.loc[check, "precision"] == exam.loc[check, "recall"] == 1.0
    for check in ("near_duplicate", "contradictory", "leaked"):
        assert exam.loc[check, "precision"] >= 0.95 and exam.loc[check, "recall"] >= 0.95
    assert exam.loc["truncated", "precision"] >= 0.95 and exam.loc["truncated", "recall"] >= 0.85


def test_sound_rows_are_left_alone(world):
    _, truth, found = world
    marked = found.any(axis=1) & truth["flaw"].isna() & ~audit._later_copies(truth)
    assert marked.mean() < 0.005
    left = audit.clean_index(found)
    assert len(left) == (~found.any(axis=1)).sum() and not found.loc[left].to_numpy().any()


def test_the_report_counts_what_was_found(world):
    rows, _, found = world
    report = audit.report(rows, found)
    assert (
        len(report) == 4 * len(audit.CHECKS)
        and report.groupby("check")["rows"].sum().to_dict() == found.sum().to_dict()
    )
    assert ((report["low"] <= report["percent"]) & (report["percent"] <= report["high"])).all()


def one(chosen: str, rejected: str) -> pd.DataFrame:
    fixed = {"subset": "harmless-base", "split": "train", "line": 1}
    return pd.DataFrame([{**fixed, "chosen": chosen, "rejected": rejected}])


GOOD = f"{HUMAN} How are you?{ASSISTANT} Fine, thank you."


@pytest.mark.parametrize(
    ("chosen", "flaws"),
    [
        (GOOD, set()),
        (f"{HUMAN} How are you?{ASSISTANT}", {"empty"}),
        (f"{HUMAN} How are you?{ASSISTANT}  \n", {"empty"}),
        (f"{HUMAN} How are they?{ASSISTANT} Fine, all of them.", {"history_differs"}),
        (f"{HUMAN} How are you?{HUMAN} Hm?{ASSISTANT} Fine, I said.", {"not_alternating", "history_differs"}),
        (f"{HUMAN} How are you?{ASSISTANT} Fine.\nHuman: And then?", {"marker_inside"}),
        (f"{HUMAN} How are you?{ASSISTANT} Fine, sure. Human: And?", {"marker_inside"}),
        (f"{HUMAN} How are you?{ASSISTANT} Fine, donâ€™t worry.", {"encoding"}),
        (f"{HUMAN} How are you?{ASSISTANT} Fine, caf\ufffd.", {"encoding"}),
        (f"{HUMAN} How are you?{ASSISTANT} Voilà, “fine”, as every human: me too.", set()),
    ],
)
def test_structure(chosen, flaws):
    rejected = f"{HUMAN} How are you?{ASSISTANT} I will not say."
    found = audit.detect(one(chosen, rejected)).iloc[0]
    assert set(found.index[found]) == flaws


def test_an_identical_pair_and_its_turned_copies():
    other = f"{HUMAN} How are you?{ASSISTANT} Who knows, maybe well."
    rows = pd.concat([one(GOOD, GOOD), one(GOOD, other), one(other, GOOD), one(GOOD, other)], ignore_index=True)
    found = audit.detect(rows)
    assert found["identical"].tolist() == [True, False, False, False]
    assert found["contradictory"].tolist() == [False, False, True, True]
    assert found["duplicate"].tolist() == [False, False, False, True]


def test_open_ends_are_no_flaw_where_they_are_usual():
    usual = [one(GOOD, f"{HUMAN} How are you?{ASSISTANT} well {n} times") for n in range(30)]
    assert not audit.detect(pd.concat(usual, ignore_index=True))["truncated"].any()
    rare = [one(GOOD, f"{HUMAN} How are you?{ASSISTANT} Well, {n} times.") for n in range(30)]
    assert audit.detect(pd.concat(usual[:1] + rare, ignore_index=True))["truncated"].sum() == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=6))
def test_any_text_can_be_audited(texts):
    rows = pd.concat([one(HUMAN + a + ASSISTANT + b, HUMAN + a + ASSISTANT + a) for a, b in texts], ignore_index=True)
    assert audit.detect(rows).shape == (len(rows), len(audit.CHECKS))


def test_the_same_rows_are_marked_in_every_process():
    script = "from tests.test_audit import *; print(audit.detect(made_up(3, 300, 50)[0]).to_numpy().nonzero()[0].sum())"
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests'); {script.replace('tests.', '')}"]
    answers = {
        subprocess.run(run, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1 and answers.pop().strip().isdigit()


def test_absent_files_are_named_and_the_rest_is_read(tmp_path):
    (tmp_path / "harmless-base").mkdir()
    (tmp_path / "harmless-base" / "test.jsonl").write_text(f'{{"chosen": "{"x"}", "rejected": "y"}}\n')
    rows, absent = audit.read(tmp_path, SUBSETS)
    assert len(rows) == 1 and absent == ["harmless-base/train", "helpful-base/train", "helpful-base/test"]
    with pytest.raises(DataError, match="holds no file of helpful-base"):
        audit.read(tmp_path, ["helpful-base"])
    assert audit.planted(tmp_path, SUBSETS) is None


def test_the_embedded_truth_has_the_order_of_the_rows():
    rows, absent = audit.read(DATA_CACHE / "mini_hh", SUBSETS)
    truth = audit.planted(DATA_CACHE / "mini_hh", SUBSETS)
    assert not absent and len(truth) == len(rows)
    assert (truth["subset"] == rows["subset"]).all() and (truth["row"] + 1 == rows["line"]).all()


def test_doubted_labels_are_more_often_wrong(world):
    rows, truth, found = world
    left = audit.clean_index(found)
    probability = audit.label_probability(rows.loc[left])
    assert probability.between(0, 1).all() and probability.equals(audit.label_probability(rows.loc[left]))
    wrong = ~truth.loc[left, "label_agrees"].astype(bool)
    issues = audit.label_issues(probability)
    assert wrong[issues].mean() > 1.5 * wrong.mean()
    curve = audit.precision_recall(probability, wrong)
    assert curve["recall"].is_monotonic_increasing and curve["recall"].iloc[-1] == 1
    assert curve["precision"].iloc[-1] == pytest.approx(wrong.mean())


def test_labels_from_elsewhere_are_found_more_often_than_by_chance(world):
    rows, _, found = world
    elsewhere, truth = made_up(seed=12, train=300, test=10)
    sound = elsewhere[truth["flaw"].isna() & truth["label_agrees"].astype(bool)]
    hits, n = audit.outside_agreement(rows.loc[audit.clean_index(found)], sound)
    assert n == len(sound) and hits > 0.6 * n


def test_a_row_is_judged_by_a_model_that_has_not_seen_it(world):
    """Random labels cannot be foretold: with the row in the training data they could."""
    rows = world[0].loc[audit.clean_index(world[2])].head(800).copy()
    swap = np.random.default_rng(0).random(len(rows)) < 0.5
    rows.loc[swap, ["chosen", "rejected"]] = rows.loc[swap, ["rejected", "chosen"]].to_numpy()
    assert 0.4 < (audit.label_probability(rows) > 0.5).mean() < 0.6


def test_training_can_leave_out_what_the_audit_marks(results, capsys):
    pairs = {
        clean: stages.pairs(open_run(profile="smoke", clean=clean, train_pairs=0))
        for clean in ("no", "marked", "labels")
    }
    assert pairs["no"].counts["train pairs left out by the audit"] == 0
    sizes = [len(pairs[clean].train) for clean in ("no", "marked", "labels")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    rows = preferences.load_transcripts(DATA_CACHE / "mini_hh", SUBSETS, "train")
    marked = rows[audit.detect(rows).any(axis=1)]
    lines = set(zip(pairs["marked"].train["subset"], pairs["marked"].train["line"], strict=True))
    assert not lines & set(zip(marked["subset"], marked["line"], strict=True))
