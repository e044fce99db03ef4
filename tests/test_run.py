"""Runs: parameters from a notebook, stages that survive kills, damage, full disks and a second process."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import helpers
from helpers.core import quiet, store
from helpers.core.errors import CourseError, DataError, SettingsError, StageError
from helpers.core.profiles import DISK_GB, ROOT
from helpers.pipeline import run as run_module

OWN = textwrap.dedent("""\
    # Parameters: None takes the value of the profile and recipe
    from typing import Optional
    profile: str = "smoke"  # smoke, mini, local, paper
    seed: int = 0
    beta: Optional[float] = None  # DPO
    """)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    for name in (*quiet.QUIET, "HF_HUB_OFFLINE"):  # delete through monkeypatch, so that it also restores
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / "results"


@pytest.fixture
def run():
    return helpers.open_run(profile="smoke")


def write(text="made"):
    def build(folder: Path) -> None:
        build.calls += 1
        (folder / "out.txt").write_text(text)

    build.calls = 0
    return build


# ------------------------------------------------------------------------------------------- parameters


@pytest.fixture(scope="module")
def shell():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def cells(shell):
    """Execute cells in a real IPython shell; returns the last cell's exception, if any."""
    shell.reset()

    def execute(*sources):
        for source in sources:
            result = shell.run_cell(source, store_history=True)
        return result.error_in_exec

    execute.names = shell.user_ns
    return execute


OPEN = "import helpers\nrun = helpers.open_run(globals())"


def test_open_run_in_a_notebook_reads_the_parameter_cells_only(cells):
    assert cells(OWN, "# Parameters\nbeta = 0.3\n", "frame = [1]\nepochs = 3", OPEN) is None
    run = cells.names["run"]
    assert (run.name, run.settings.beta) == ("smoke-beta=0.3", 0.3)
    assert run.resolved.given == {"profile": "smoke", "seed": 0, "beta": 0.3}


def test_open_run_again_after_the_reader_worked_on(cells, capsys):
    cells(OWN, OPEN, "beta = 7.0\nfor seed in range(3): pass\nlog = {}", OPEN)
    assert cells.names["run"].name == "smoke"
    said = capsys.readouterr().out
    assert "note: beta = 7.0 was set after the parameters cell; that cell's None is used" in said


def test_a_mended_parameter_cell_replaces_the_wrong_one(cells):
    error = cells(OWN + "bta = 0.3\n", OPEN)
    assert isinstance(error, SettingsError) and "did you mean 'beta'?" in str(error)
    assert cells(OWN + "lora_rank: int = 4\n", OPEN) is None
    assert isinstance(cells("# Parameters\nlorarank = 4\n", OPEN), SettingsError)
    assert cells("# Parameters\nlora_rank = 5\n", OPEN) is None
    assert cells.names["run"].settings.lora_rank == 5


def test_a_computed_parameter_takes_its_value_from_the_namespace(cells):
    assert cells(OWN + "import os\nlora_rank = int('4') * 2\n", OPEN) is None
    assert cells.names["run"].settings.lora_rank == 8


def test_a_mistake_shows_one_line_in_a_notebook(cells, capsys):
    cells(OWN, "# Parameters\nbeta = 'banana'\n", OPEN)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert shown == ["SettingsError: beta = 'banana': a number is needed"]


def test_outside_a_notebook_the_namespace_is_the_parameters():
    assert helpers.open_run({"profile": "smoke", "beta": 0.3, "_private": 1, "json": json}).settings.beta == 0.3
    with pytest.raises(SettingsError, match="did you mean 'beta'"):
        helpers.open_run({"bta": 0.3})


# -------------------------------------------------------------------------------------------- opening a run


def test_opening_writes_run_json_and_says_what_will_happen(run, results, capsys):
    record = json.loads((results / "smoke" / "run.json").read_text())
    assert record["settings"]["train_pairs"] == 48
    assert record["sources"]["train_pairs"] == "profile smoke"
    run.stage("data", uses={}, build=write())
    capsys.readouterr()
    helpers.open_run(profile="smoke", run="smoke", beta=0.3)
    said = capsys.readouterr().out
    assert "run folder results/smoke" in said and str(results) not in said
    assert "beta = 0.3 instead of 0.1 (default)" in said
    assert "this folder held other settings (run, beta)" in said
    assert "already there: data" in said


def test_opening_leaves_no_network_and_quiet_libraries(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    helpers.open_run(profile="smoke")
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TQDM_DISABLE"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"


def test_opening_imports_no_torch():
    code = "import sys, helpers; helpers.open_run(profile='smoke'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("profile", ["mini", "local", "paper"])
def test_a_missing_folder_is_named(profile):
    with pytest.raises(DataError, match=r"dataset = '\./nowhere'"):
        helpers.open_run(profile=profile, dataset="./nowhere")


def test_only_profile_paper_names_hub_ids(monkeypatch):
    monkeypatch.setattr(run_module, "DISK_GB", dict.fromkeys(DISK_GB, 0.001))
    helpers.open_run(profile="paper", policy="someone/something")
    assert "HF_HUB_OFFLINE" not in os.environ
    with pytest.raises(DataError, match="use profile paper"):
        helpers.open_run(profile="mini", policy="someone/something")


def test_a_full_disk_is_noticed_before_work_starts(monkeypatch):
    monkeypatch.setattr(run_module, "DISK_GB", dict.fromkeys(DISK_GB, 10**9))
    with pytest.raises(StageError, match="MB more than are free"):
        helpers.open_run(profile="smoke")


def test_json_is_written_whole_and_inside_the_run(run):
    run.write_json("metrics.json", {"a": 1})
    with pytest.raises(ValueError):
        run.write_json("metrics.json", {"a": float("nan")})
    assert json.loads((run.folder / "metrics.json").read_text()) == {"a": 1}
    assert [p.name for p in run.folder.glob(".*")] == []
    with pytest.raises(StageError):
        run.write_json("../outside.json", {})


# -------------------------------------------------------------------------------------------------- stages


def test_a_stage_is_built_once_and_again_when_something_changed(run, tmp_path):
    source, build = tmp_path / "in.txt", write()
    source.write_text("one")
    for uses in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        folder = run.stage("data", uses=uses, needs=[source], build=build)
    assert build.calls == 1 and run.ready("data") and run.stages() == ["data"]
    assert folder == run.folder / "stages" / "data" and (folder / "out.txt").read_text() == "made"
    run.stage("data", uses={"a": 2, "b": 2}, needs=[source], build=build)
    assert build.calls == 2
    source.write_text("two")
    run.stage("data", uses={"a": 2, "b": 2}, needs=[source], build=build)
    assert build.calls == 3
    assert not [p.name for p in folder.parent.glob(".*") if not p.name.endswith(".lock")]


def test_a_change_travels_along_the_stages(run):
    later = write("later")

    def both(value):
        first = run.stage("first", uses={"value": value}, build=write(f"text {value}"))
        run.stage("second", uses={}, needs=[first], build=later)

    both(1)
    both(1)
    assert later.calls == 1
    both(2)
    assert later.calls == 2


def test_the_manifest_lists_what_was_made_without_checkpoints(run):
    def build(folder):
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"123")
        (folder / "checkpoints" / "5").mkdir(parents=True)
        (folder / "checkpoints" / "5" / "state").write_text("x")

    folder = run.stage("sft", uses={"lr": 0.1}, build=build)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model/weights"]["bytes"] == 3 and len(manifest["files"]) == 1
    assert manifest["uses"] == {"lr": 0.1} and manifest["inputs"] == {}
    assert list(manifest["code"]) == [f"{__name__}.build"]
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("harm", ["remove", "change", "manifest"])
def test_a_damaged_stage_is_built_again_and_said_so(run, harm, capsys):
    build = write()
    folder = run.stage("data", uses={}, build=build)
    if harm == "remove":
        (folder / "out.txt").unlink()
    else:
        (folder / ("out.txt" if harm == "change" else "manifest.json")).write_text("evil")
    assert not run.ready("data")
    capsys.readouterr()
    run.stage("data", uses={}, build=build)
    assert build.calls == 2 and run.ready("data")
    assert capsys.readouterr().out.count("\n") == 1


def test_a_failed_build_keeps_the_old_stage_and_goes_on_where_it_stopped(run):
    run.stage("data", uses={"v": 1}, build=write("old"))
    seen = []

    def build(folder):
        seen.append((folder / "step").exists())
        (folder / "step").write_text("1")
        if len(seen) == 1:
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run.stage("data", uses={"v": 2}, build=build)
    assert (run.folder / "stages" / "data" / "out.txt").read_text() == "old"
    run.stage("data", uses={"v": 2}, build=build)
    assert seen == [False, True]


def test_what_was_left_for_other_inputs_is_thrown_away(run):
    def fails(folder):
        (folder / "step").write_text("1")
        raise ValueError

    with pytest.raises(ValueError):
        run.stage("data", uses={"v": 1}, build=fails)
    folder = run.stage("data", uses={"v": 2}, build=write())
    assert not (folder / "step").exists()


KILLED = """
import os, sys, time, helpers
run = helpers.open_run(profile="smoke")
def build(folder):
    done = int((folder / "step").read_text()) if (folder / "step").exists() else 0
    (folder / "log").open("a").write(f"start at {done}\\n")
    for step in range(done, 5):
        if step == 3 and sys.argv[1] == "hang":
            print("HANGING", flush=True); time.sleep(60)
        (folder / "step").write_text(str(step + 1))
print((run.stage("sft", uses={"a": 1}, build=build) / "log").read_text())
"""


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(process, word):
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"the process ended before it said {word}")


def test_after_kill_9_the_next_call_resumes(results):
    first = start(KILLED, "hang")
    until(first, "HANGING")
    first.send_signal(signal.SIGKILL)
    first.wait()
    stages = results / "smoke" / "stages"
    assert not (stages / "sft").exists() and (stages / ".sft.partial" / "step").read_text() == "3"
    said, _ = start(KILLED, "finish").communicate(timeout=60)
    assert "start at 0\nstart at 3\n" in said
    assert (stages / "sft" / "step").read_text() == "5" and not (stages / ".sft.partial").exists()


def test_a_kill_between_the_last_two_renames_costs_nothing(run, monkeypatch):
    build = write()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "swap_in", killed)
        run.stage("data", uses={}, build=build)
    run.stage("data", uses={}, build=build)
    assert build.calls == 1 and run.ready("data")


SLOW = """
import time, helpers
run = helpers.open_run(profile="smoke")
def build(folder):
    print("BUILDING", flush=True)
    time.sleep(5)
    (folder / "out").write_text("x")
run.stage("data", uses={}, build=build)
"""


def test_two_processes_build_a_stage_once():
    first = start(SLOW)
    until(first, "BUILDING")
    said, _ = start(SLOW).communicate(timeout=60)
    assert first.wait(timeout=60) == 0
    assert "another process is building it" in said and "BUILDING" not in said


def test_two_threads_build_a_stage_once(run):
    calls = []

    def build(folder):
        calls.append(1)
        time.sleep(0.3)
        (folder / "out").write_text("x")

    threads = [
        threading.Thread(target=run.stage, args=("data",), kwargs={"uses": {}, "build": build}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_the_same_stage_of_another_run_is_linked_not_built(run):
    folder, build = run.stage("data", uses={"v": 1}, build=write()), write()
    other = helpers.open_run(profile="smoke", beta=0.3)
    linked = other.stage("data", uses={"v": 1}, build=build)
    assert build.calls == 0 and linked != folder and other.ready("data")
    assert (linked / "out.txt").samefile(folder / "out.txt")
    other.stage("data", uses={"v": 2}, build=write("new"))
    assert (folder / "out.txt").read_text() == "made"


def test_a_full_disk_while_building_is_one_line(run):
    def build(folder):
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))

    with pytest.raises(StageError, match="stage data: the disk is full"):
        run.stage("data", uses={}, build=build)
    run.stage("data", uses={}, build=write())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"needs": [Path("nowhere.txt")]}, "needs nowhere.txt, which is missing"),
        ({"build": lambda folder: None}, "made no file"),
        ({"name": "../evil"}, "cannot name a stage"),
    ],
)
def test_a_stage_that_cannot_be_built_says_why(run, arguments, words):
    call = {"name": "data", "uses": {}, "build": write()} | arguments
    with pytest.raises(StageError, match=words) as caught:
        run.stage(call.pop("name"), **call)
    assert isinstance(caught.value, CourseError)


def test_a_results_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "file"))
    with pytest.raises(StageError, match="opening the run"):
        helpers.open_run(profile="smoke")
