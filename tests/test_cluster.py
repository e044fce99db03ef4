"""Sweeps as cluster jobs: through submitit's executors of this machine, as far as one without Slurm can tell."""

import sys

import pandas as pd
import pytest

from helpers import experiments
from helpers.core import files
from helpers.core.errors import CourseError, SettingsError
from helpers.experiments import catalogue, cluster, run_one, tables
from helpers.experiments.catalogue import Job
from helpers.pipeline import data_cache

SMALL = {"profile": "smoke", "train_pairs": 8, "heldout_pairs": 4, "dpo_batch_size": 2, "max_new_tokens": 4, "seed": 0}
SMALL |= {"dpo_epochs": 0.5}


@pytest.fixture
def good():
    return Job("good", SMALL | {"run": "good"}, models=())


def test_a_sweep_on_a_cluster_writes_the_table_of_a_sweep_here(good, results, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(data_cache, "enter_in_manifest", lambda: None)
    monkeypatch.setitem(catalogue._EXPERIMENTS, "tried", lambda: [good])
    monkeypatch.setitem(catalogue.MINUTES, "tried", 1.0)
    assert list(experiments.run("tried", cluster="debug")) == ["good"]  # submitit's executor in this very process
    table = pd.read_csv(tmp_path / "tables" / "tried.csv.gz")
    expected = run_one.measure(good).table  # finished: read from results/
    record = files.read_json(tmp_path / "tables" / "tried.json")
    assert {"training/loop.py", "evaluation/metrics.py"} <= record["code"].keys() and "trl" in record["versions"]
    assert len(table) and table.equals(pd.read_csv(pd.io.common.StringIO(expected.to_csv(index=False))))


@pytest.mark.slow
def test_failed_jobs_are_named_and_the_others_kept(good, results):
    bad, found = Job("bad", SMALL | {"run": "bad", "policy": "nowhere"}, models=()), {}
    with pytest.raises(CourseError, match=r"1 of 2 runs failed, first bad: DataError: policy = 'nowhere'") as error:
        for place, measured in cluster.run("tried", [good, bad], 1.0, "local", 2, {}):
            found[place] = measured
    assert "\n" not in str(error.value) and "results/.cluster/tried" in str(error.value)
    assert found.keys() == {0} and found[0].table.equals(run_one.measure(good).table)
    assert len([*(results / ".cluster" / "tried").glob("*_log.err")]) == 2


def test_a_job_that_is_stopped_for_lack_of_time_is_queued_again(good):
    again = cluster._Measure(1).checkpoint(good)
    assert isinstance(again.function, cluster._Measure) and again.args == (good,)


def test_a_job_asks_for_what_it_is_told_to():
    assert cluster.wishes(["timeout_min=90", "slurm_partition=gpu"]) == {"timeout_min": 90, "slurm_partition": "gpu"}
    with pytest.raises(SettingsError, match="'gpu' is nothing to ask"):
        cluster.wishes(["gpu"])
    executor = cluster._executor("tried", 100.0, "local", 1, {"timeout_min": 90})
    assert executor._executor.parameters["timeout_min"] == 90
    assert cluster._executor("tried", 100.0, "local", 1, {})._executor.parameters["timeout_min"] == 400


@pytest.mark.parametrize(
    ("where", "asked", "words"),
    [("slurm", {}, "srun"), ("local", {"gpu": 1}, "'gpu'"), ("local", {"a_b": 1}, "'a'")],
)
def test_a_cluster_that_is_not_there_and_unknown_wishes_are_one_line(results, where, asked, words):
    with pytest.raises(SettingsError, match=words):
        cluster._executor("tried", 1.0, where, 1, asked)


def test_without_submitit_a_cluster_is_refused_in_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "helpers.experiments.cluster")
    monkeypatch.delattr(experiments, "cluster", raising=False)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"need submitit.*pip install"):
        next(experiments.run("seeds", cluster="slurm"))
