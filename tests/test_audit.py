"""The audit finds what was planted, in worlds that it was not written on, and the same rows in every process."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.core.errors import DataError, SettingsError
from helpers.core.profiles import DATA_CACHE
from helpers.data import audit, synthetic
from helpers.data.audit.detector_quality import later_copies
from helpers.data.audit.duplicates import _shingles, _similar_rows
from helpers.data.pairs import load_transcripts
from helpers.data.transcripts import ASSISTANT, HUMAN
from helpers.pipeline import stages
from helpers.pipeline.run import open_run

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
    marked = found.any(axis=1) & truth["flaw"].isna() & ~later_copies(truth)
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


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=6))
def test_any_text_can_be_audited(texts):
    rows = pd.concat([one(HUMAN + a + ASSISTANT + b, HUMAN + a + ASSISTANT + a) for a, b in texts], ignore_index=True)
    assert audit.detect(rows).shape == (len(rows), len(audit.CHECKS))


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
    sound = elsewhere[audit.is_sound(truth)]
    opinion = audit.predicted_probability(rows.loc[audit.clean_index(found)], sound)
    assert opinion.index.equals(sound.index) and (opinion > 0.5).mean() > 0.6


def test_scores_become_probabilities():
    scores = pd.DataFrame(
        {"chosen_score": [1.0, 0.0, 500.0], "rejected_score": [1.0, np.log(3), -500.0]}, index=[4, 2, 9]
    )
    assert audit.from_scores(scores).round(6).to_dict() == {4: 0.5, 2: 0.25, 9: 1.0}


def test_labels_of_other_people_are_read_as_transcripts(tmp_path):
    lines = '{"prompt": "Hm?", "chosen": "Yes.", "rejected": "No.", "subset": "other"}\n'
    (tmp_path / "some.jsonl").write_text(lines)
    rows = audit.read_outside(tmp_path)
    assert rows.to_dict("records") == [
        {"chosen": f"{HUMAN} Hm?{ASSISTANT} Yes.", "rejected": f"{HUMAN} Hm?{ASSISTANT} No."}
    ]
    for wrong in (tmp_path / "absent", tmp_path / "some.txt", tmp_path):
        (tmp_path / "some.jsonl").write_text('{"question": "Hm?"}\n')
        with pytest.raises(DataError, match="holds no comparisons: give JSON lines with prompt, chosen and rejected"):
            audit.read_outside(wrong)


def test_a_test_row_that_resembles_a_train_row_is_nearly_leaked():
    words = " ".join(f"word{i}" for i in range(40))
    train = one(f"{HUMAN} {words}?{ASSISTANT} Yes, it is.", f"{HUMAN} {words}?{ASSISTANT} No, never.")
    changed = train.map(lambda text: text.replace("word7 ", "worrd7 ") if isinstance(text, str) else text)
    rows = pd.concat([changed.assign(split="test"), train, train.assign(split="test")], ignore_index=True)
    found = audit.detect(rows)
    assert found["nearly_leaked"].tolist() == [True, False, False] and found["leaked"].tolist() == [False, False, True]
    assert not found["near_duplicate"].any() and not audit.detect(rows, similar=0.95)["nearly_leaked"].any()


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 60), min_size=8, max_size=30), min_size=2, max_size=12))
def test_the_bands_lose_few_of_the_rows_that_are_alike(texts):
    """Against the plain way, every row with every other: nothing too much, and nothing lost that is nearly equal."""
    rows = [one(f"{HUMAN} {' '.join(map(str, words))}?{ASSISTANT} Yes.", "no transcript") for words in texts]
    shingles = [_shingles(row["chosen"].iat[0], row["rejected"].iat[0]) for row in rows]
    alike = dict.fromkeys(_similar_rows(shingles, 0.6))
    for later in range(len(shingles)):
        for earlier in range(later):
            a, b = set(shingles[later].tolist()), set(shingles[earlier].tolist())
            share = len(a & b) / len(a | b)
            assert share >= 0.6 or (later, earlier) not in alike
            assert share < 0.85 or (later, earlier) in alike  # lost with a chance of one in ten million


def test_a_spawned_process_finds_the_same(world, monkeypatch):
    """Strings hash differently there, and cleanlab's own workers would not find their data."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    rows = world[0].head(300)
    probability = pd.Series(np.linspace(0.05, 0.95, 60))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(audit.detect, rows), pool.submit(audit.label_issues, probability)
        pd.testing.assert_frame_equal(there[0].result(), audit.detect(rows))
        pd.testing.assert_series_equal(there[1].result(), audit.label_issues(probability))


def test_training_can_leave_out_what_the_audit_marks(results, capsys):
    pairs = {
        clean: stages.pairs(open_run(profile="smoke", clean=clean, train_pairs=0))
        for clean in ("no", "marked", "labels", "truth")
    }
    assert pairs["no"].counts["train pairs left out by the audit"] == 0
    sizes = [len(pairs[clean].train) for clean in ("no", "marked", "labels")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert 0 < len(pairs["truth"].train) < sizes[1]
    rows = load_transcripts(DATA_CACHE / "mini_hh", SUBSETS, "train")
    marked = rows[audit.detect(rows).any(axis=1)]
    lines = set(zip(pairs["marked"].train["subset"], pairs["marked"].train["line"], strict=True))
    assert not lines & set(zip(marked["subset"], marked["line"], strict=True))


def test_nobody_knows_the_truth_about_other_dialogues(results, tmp_path):
    for subset in SUBSETS:
        shutil.copytree(DATA_CACHE / "mini_hh" / subset, tmp_path / subset)
    run = open_run(profile="smoke", dataset=str(tmp_path), clean="truth", run="other")
    with pytest.raises(SettingsError, match="nobody knows the truth about"):
        stages.pairs(run)
