"""Trainings that two processes share: the losses and weights of one where rows fill the steps, whatever ends them
in between."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny
import together
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.data_loader import BatchSamplerShard
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

import helpers
from helpers.core import distributed
from helpers.core.errors import SettingsError, StageError
from helpers.core.profiles import ROOT
from helpers.pipeline import stages
from helpers.training import arguments, checkpoints, samplers

# ------------------------------------------------------------------------------------------- who takes which rows


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_shares_make_up_a_step(batch, accumulate, count, at_once):
    assume(batch * accumulate % count == 0)
    per_device, summed = samplers.share(batch, accumulate, count, at_once)
    assert per_device * summed * count == batch * accumulate
    assert per_device <= min(batch, at_once or batch)


@given(
    st.integers(1, 70), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2)
)
def test_accelerate_gives_a_step_the_rows_that_one_process_takes(rows, batch, accumulate, count, at_once, epoch):
    """What LengthGroups puts into a step stays there, whoever takes it; only an incomplete last step is filled up."""
    assume(batch * accumulate % count == 0)
    per_device, summed = samplers.share(batch, accumulate, count, at_once)
    order = samplers.LengthGroups([i * 7 % 11 for i in range(rows)], batch * accumulate, seed=1)
    order.set_epoch(epoch)
    steps = {}
    for index in range(count):
        shard = BatchSamplerShard(BatchSampler(order, per_device, drop_last=False), count, index)
        for place, own in enumerate(shard):
            steps.setdefault(place // summed, []).extend(own)
    expected = list(order)
    assert sorted(expected) == list(range(rows)) and len(steps) == -(-rows // (batch * accumulate))
    for step, taken in steps.items():
        own = expected[step * batch * accumulate :][: batch * accumulate]
        assert set(own) <= set(taken)
        if len(own) == batch * accumulate:
            assert sorted(taken) == sorted(own)


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # a cluster's environment may say so; a launcher numbers its processes too
    assert (distributed.count(), distributed.index(), distributed.is_main()) == (1, 0, True)
    assert distributed.from_main("x") == "x" and distributed.gathered("x") == ["x"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("RANK", "2")
    assert (distributed.count(), distributed.index(), distributed.is_main()) == (4, 2, False)


def test_parts_of_a_model_need_gpus(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", distributed.SHARDED: "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"FSDP.*take ddp\.yaml"):
        distributed.join(cpu=True)


def test_a_process_takes_one_gpu(tmp_path):
    made = arguments.training_arguments(
        lambda **given: SimpleNamespace(n_gpu=4, **given), tiny.settings(), tmp_path, epochs=1, rate=1, batch=4
    )
    assert made._n_gpu == 1 and made.per_device_train_batch_size == 4


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_config_file_is_as_accelerate_reads_it(name):
    config = load_config_from_file(str(together.CONFIGS / f"{name}.yaml"))
    assert config.num_processes == 2 and config.mixed_precision == "no"
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}[name]
    if name == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def test_checkpoints_of_several_processes(tmp_path, monkeypatch):
    def write(step, *files):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("trainer_state.json", "scheduler.pt", "model.safetensors", *files):
            (folder / name).write_text(json.dumps({"global_step": step}))
        return folder

    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed, "from_main", lambda value: value)
    write(30, "optimizer.pt", "rng_state_0.pth")  # the main process was done, the other one not
    write(25, "optimizer.pt", "rng_state.pth")  # of one process
    whole = write(20, "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth")
    write(10, "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth")
    assert checkpoints.last_checkpoint(tmp_path) == str(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-20"]
    (whole / "optimizer.pt").rename(whole / "optimizer.bin")  # as FSDP calls it
    with pytest.raises(StageError, match=r"checkpoint-20.*in parts \(FSDP\).*config file"):
        checkpoints.last_checkpoint(tmp_path)


# ------------------------------------------------------------------------------------------------ two real processes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the launched processes have: with more, threads wait for each other when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes did, started by accelerate: see together.py. And what one does, in one/."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "said").mkdir()
    shutil.copytree(tiny.policy_folder(), folder / "policy")
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(together.CONFIGS / "ddp.yaml")]
    start += ["--main_process_port", "0", str(ROOT / "tests" / "together.py"), str(folder)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen(start, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for case in together.CASES:
        together.train(case, folder / "one" / case)
    said, _ = launched.communicate(timeout=600)
    (folder / "said" / "launcher").write_text(said)
    (folder / "said" / "launcher.status").write_text(str(launched.returncode))
    return folder


def said(folder, scenario):
    return [(folder / "said" / f"{scenario}.{number}").read_text() for number in (0, 1)]


def statuses(folder, scenario):
    return [int((folder / "said" / f"{scenario}.{number}.status").read_text()) for number in (0, 1)]


def log(out, split=None):
    rows = pd.read_csv(out / "log.csv")
    return rows if split is None else rows[rows["split"] == split]


def hashes(out):
    names = [*out.glob("model/*"), *out.glob("adapter/*"), out / "log.csv", out / "summary.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def assert_same_training(one, two):
    """Equal losses within a relative 1e-5, and equal weights within what float32 sums in another order do to AdamW.

    The steps take the same rows, which fill them. A key's bias has no gradient but rounding errors, and AdamW makes
    steps of full size of those. TRL's entropy and accuracy are not compared: means of the processes' means over tokens.
    """
    measures = ["rewards_margins", "logps_chosen", "logps_rejected", "generated_length", "eos_rate"]
    a, b = log(one), log(two)
    assert a["step"].tolist() == b["step"].tolist() and a["split"].tolist() == b["split"].tolist()
    assert a.columns.equals(b.columns)
    assert b["loss"].to_numpy() == pytest.approx(a["loss"].to_numpy(), rel=1e-5)
    for name in a.columns.intersection(measures):
        assert b[name].to_numpy() == pytest.approx(a[name].to_numpy(), rel=1e-5, abs=1e-5, nan_ok=True)
    before, after = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    assert before.keys() == after.keys() and all(after[name].dtype == before[name].dtype for name in before)
    apart = {name: (before[name] - after[name]).abs() for name in before}
    assert max(values.max() for name, values in apart.items() if "k_proj.bias" not in name) < 1e-5
    assert sum(values.sum() for values in apart.values()) / sum(values.numel() for values in apart.values()) < 1e-7
    one, two = (json.loads((out / "summary.json").read_text()) for out in (one, two))
    assert {name: v for name, v in one.items() if "loss" not in name} == {
        name: v for name, v in two.items() if "loss" not in name
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in together.CASES if "uneven" not in case])
def test_two_processes_train_as_one_does(case, folder):
    assert statuses(folder, "same") == [0, 0] and said(folder, "same") == ["", ""]
    assert_same_training(folder / "one" / case, folder / "two" / case)
    timing = json.loads((folder / "two" / case / "timing.json").read_text())
    assert timing["device"] == "2 x cpu, 1 threads"


@pytest.mark.slow
def test_a_killed_training_of_two_goes_on_to_the_same_bytes(folder):
    first, second = statuses(folder, "killed")
    assert first and second == 9
    assert said(folder, "killed")[0].startswith("another process ended without a word")
    assert [text.count("\n") for text in said(folder, "killed")] == [1, 0]
    assert statuses(folder, "resumed") == [0, 0] and said(folder, "resumed") == ["", ""]
    resumed = json.loads((folder / "killed" / "sft" / "timing.json").read_text())
    assert 0 < resumed["steps"] < log(folder / "two" / "sft")["step"].max() / 2
    assert hashes(folder / "killed" / "sft") == hashes(folder / "two" / "sft")


@pytest.mark.slow
def test_rows_that_do_not_fill_the_last_step_are_trained_on_with_a_few_taken_twice(folder):
    one, two = (log(folder / name / "dpo-uneven") for name in ("one", "two"))
    assert one["step"].tolist() == two["step"].tolist()
    assert two["loss"].iloc[:2].to_numpy() == pytest.approx(math.log(2), abs=1e-4)  # the guard looked at both
    assert two["loss"].iloc[-1] < two["loss"].iloc[0] - 0.01
    assert len(pd.read_csv(folder / "two" / "dpo-uneven" / "log.csv")) == len(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("uneven", "a step of 3 rows cannot be shared evenly by 2 processes"),
        ("notebooks", "give accelerate `-m helpers train`"),
        ("not-sharded", "holds the weights in parts (FSDP)"),
        ("failing", "ValueError: a bug in process 1"),
    ],
)
def test_one_process_says_what_is_wrong(scenario, words, folder):
    assert all(statuses(folder, scenario))
    texts = said(folder, scenario)
    assert sorted(map(bool, texts)) == [False, True]
    (text,) = filter(None, texts)
    assert words in text
    if scenario == "failing":
        assert text.count("Traceback") == 1
    else:
        assert text.count("\n") == 1


@pytest.mark.slow
def test_the_launcher_ends_the_others_when_one_is_killed(folder):
    assert int((folder / "said" / "launcher.status").read_text())
    assert not (folder / "said" / "nobody.ended.me").exists()
    assert "SIGKILL" in (folder / "said" / "launcher").read_text()


@pytest.mark.slow
def test_notebooks_use_what_the_command_trained(folder, monkeypatch):
    for scenario in ("command", "again"):
        assert statuses(folder, scenario) == [0, 0] and said(folder, scenario)[1] == ""
    assert "already there: dpo, pairs, reference-base, sft" in said(folder, "again")[0]
    monkeypatch.setenv("COURSE_RESULTS", str(folder / "results"))
    monkeypatch.setenv("COURSE_ACCEPT_STALE", "1")  # another number of processes made them
    run = helpers.open_run(profile="smoke", **together.SMALL)
    for kind, function in (("sft", "sft.train_sft"), ("dpo", "dpo.train_preferences")):
        monkeypatch.setattr(f"helpers.training.{function}", None)  # what is current is not trained again
        assert stages.policy(run, kind) == run.folder / "stages" / kind / "model"
        assert stages.training_summary(run, kind)["rows_given"] == 6
        assert not list(run.folder.glob("stages/.*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sft", "dpo"])
def test_processes_with_a_part_of_the_weights_each_train_as_one_does(case, folder):
    assert statuses(folder, "sharded") == [0, 0] and said(folder, "sharded") == ["", ""]
    assert_same_training(folder / "one" / case, folder / "sharded" / case)
    files = [sorted(path.name for path in (folder / name / case / "model").iterdir()) for name in ("one", "sharded")]
    assert files[0] == files[1]
    configs = [json.loads((folder / name / case / "model" / "config.json").read_text()) for name in ("one", "sharded")]
    assert configs[0] == configs[1]


@pytest.mark.slow
def test_a_killed_training_with_parts_of_the_weights_goes_on(folder):
    assert statuses(folder, "sharded-killed")[1] == 9
    assert statuses(folder, "sharded-resumed") == [0, 0] and said(folder, "sharded-resumed") == ["", ""]
    assert hashes(folder / "sharded-killed" / "sft") == hashes(folder / "sharded" / "sft")


def test_the_config_files_are_shipped():
    folder = Path(helpers.__file__).parent / "training" / "accelerate_configs"
    assert {path.name for path in folder.iterdir()} == {"ddp.yaml", "fsdp.yaml"}
