"""The runner: order, skipping, stopping and resuming, on notebooks made here; and one real run of profile smoke."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers import course
from helpers.__main__ import _models_table, app
from helpers.console import parameters
from helpers.core import files, store
from helpers.core.errors import CourseError, SettingsError
from helpers.core.profiles import ROOT
from helpers.evaluation.metrics import evaluate
from helpers.evaluation.metrics_file import MetricsFile
from helpers.evaluation.thresholds import PUBLISHED
from helpers.notebooks import NotebookFailed
from helpers.pipeline import stages
from helpers.pipeline.run import open_run
from helpers.planning.doctor import Machine, differing_from_lock, obstacles, packages_problem

PARAMETERS = "# Parameters\nprofile: str = 'mini'\nbeta: Optional[float] = None"
OPEN = "run = open_run(globals())"


def notebook(*cells):
    """A notebook as JSON: text that starts with "# " and a title word is a heading, the rest is code."""

    def cell(number, source):
        if source.startswith("## "):
            return {"cell_type": "markdown", "id": f"c{number}", "metadata": {}, "source": source}
        tags = {"tags": ["parameters"]} if source.startswith("# Parameters") else {}
        return {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": tags,
            "execution_count": None,
            "outputs": [],
            "source": source,
        }

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps(
        {"cells": [cell(*c) for c in enumerate(cells)], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    )


@pytest.fixture
def folder(tmp_path):
    """Two tiny notebooks; the second needs a file that does not exist yet. Each run of a notebook leaves a mark."""
    folder = tmp_path / "notebooks {here}"
    folder.mkdir()
    imports = "from typing import Optional\nfrom pathlib import Path\nfrom helpers import open_run"
    mark = "with Path({!r}).open('a') as file: file.write({!r})"
    marks = str(tmp_path / "marks")
    first = [imports, PARAMETERS, OPEN, mark.format(marks, "1"), "print(run.settings.beta)"]
    wait = f"assert Path({str(tmp_path / 'needed')!r}).exists(), 'first line\\nthe last line'"
    second = [imports, PARAMETERS, OPEN, "## The hard part", wait, mark.format(marks, "2")]
    (folder / "01_first.ipynb").write_text(notebook(*first))
    (folder / "02_second.ipynb").write_text(notebook(*second))
    return folder


def write_two(run, folder):
    """Stands in for finish_run: the toy notebooks train nothing."""
    files.write_json(folder / "metrics.json", {"beta": run.settings.beta})
    files.write_json(folder / "report.json", {})


def marks(tmp_path):
    path = tmp_path / "marks"
    return path.read_text() if path.exists() else ""


def test_a_failing_cell_stops_the_run_and_the_next_one_resumes(folder, results, tmp_path, capfd):
    go = lambda **options: course.run_course({}, folder=folder, finish=write_two, **options)  # noqa: E731
    with pytest.raises(NotebookFailed) as stop:
        go()
    assert str(stop.value) == "02_second stopped at cell [4] (The hard part): AssertionError: the last line"
    assert stop.value.copy == results / "mini/notebooks/02_second.failed.ipynb"
    assert stop.value.copy.exists() and not (results / "mini/metrics.json").exists()
    assert marks(tmp_path) == "1"

    (tmp_path / "needed").touch()
    run = go()
    assert marks(tmp_path) == "12", "the first notebook was up to date"
    assert not stop.value.copy.exists()
    written = sorted(path.name for path in (run.folder / "notebooks").glob("*.ipynb"))
    assert written == ["01_first.ipynb", "02_second.ipynb"]
    before = (run.folder / "metrics.json").stat().st_mtime_ns
    go()
    assert marks(tmp_path) == "12" and (run.folder / "metrics.json").stat().st_mtime_ns == before
    (run.folder / "stages/notebook-01_first/01_first.ipynb").write_text("damaged")
    go()
    assert marks(tmp_path) == "121"
    go(only=["2"], force=True)
    assert marks(tmp_path) == "1212"
    said = capfd.readouterr()
    assert "notebook 01_first: damaged: 01_first.ipynb; building it again" in said.out
    assert "up to date" in said.out and "02_second" in said.out
    assert said.err == "", "papermill and its kernels are quiet"


def test_a_dead_kernel_is_named_with_its_cell(folder, results):
    dies = notebook("x = 1", "## Too large", "import os\nos._exit(9)", "y = 2")
    (folder / "00_dies.ipynb").write_text(dies)
    with pytest.raises(NotebookFailed, match=r"^00_dies stopped at cell \[2\] \(Too large\): its Python process"):
        course.run_course({}, folder=folder, only=["0"])


def test_parameters_reach_the_notebooks_and_change_what_is_up_to_date(folder, results, tmp_path):
    (tmp_path / "needed").touch()
    run = course.run_course({"beta": 0.3, "profile": "mini"}, folder=folder, finish=write_two)
    assert run.name == "mini-beta=0.3"
    cells = json.loads((run.folder / "notebooks/01_first.ipynb").read_text())["cells"]
    injected = [cell for cell in cells if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert len(injected) == 1 and "".join(injected[0]["source"]).endswith("beta = 0.3\n")
    assert "profile" not in "".join(injected[0]["source"]), "a default is not injected"
    assert "".join(cells[-1]["outputs"][0]["text"]) == "0.3\n"
    (tmp_path / "marks").unlink()
    course.run_course({"beta": 0.3, "profile": "mini"}, folder=folder, finish=write_two)
    assert marks(tmp_path) == ""
    course.run_course({"beta": 0.2, "run": run.name}, folder=folder, finish=write_two)
    assert marks(tmp_path) == "12"


def test_a_copy_is_the_readers(folder, results, tmp_path):
    (tmp_path / "needed").touch()
    run = course.run_course({}, folder=folder, finish=write_two)
    copies = [run.folder / "notebooks/01_first.ipynb", run.folder / "notebooks/02_second.ipynb"]
    copies[0].write_text("edited")
    copies[1].unlink()
    (run.folder / "metrics.json").unlink()
    course.run_course({}, folder=folder, finish=write_two)
    assert marks(tmp_path) == "12", "what a reader does to a copy damages nothing"
    assert copies[0].read_text() == "edited" and json.loads(copies[1].read_text())["cells"]
    assert json.loads((run.folder / "metrics.json").read_text()) == {"beta": 0.1}
    assert run.stages() == []


def test_other_plots_make_the_notebooks_new_that_import_them(folder, results, tmp_path, edited, capfd):
    draws = notebook(
        "from typing import Optional\nfrom helpers import open_run\nfrom helpers.report.plots import training",
        PARAMETERS,
        OPEN,
    )
    (folder / "02_second.ipynb").write_text(draws)
    go = lambda: course.run_course({}, folder=folder, finish=write_two)  # noqa: E731
    go()
    edited("report/plots/training.py", "return training_curves", "return  training_curves")
    capfd.readouterr()
    go()
    said = capfd.readouterr().out
    assert "notebook 02_second: report/plots code changed since (training); building it again" in said
    assert "notebook 01_first" not in said and marks(tmp_path) == "1"


def test_a_notebook_that_showed_accepted_stages_is_executed_again(folder, results, tmp_path, monkeypatch, capfd):
    """Stage "toy" is made by other code: accepted, it marks the notebook, which is made anew when nothing is."""
    maker = tmp_path / "maker.py"
    maker.write_text("def build(folder):\n    (folder / 'toy.txt').write_text('1')\n")
    lines = [f"import sys; sys.path.insert(0, {str(tmp_path)!r})", "import maker"]
    uses_toy = notebook(
        "from typing import Optional\nfrom helpers import open_run",
        PARAMETERS,
        OPEN,
        "\n".join([*lines, "print(run.stage('toy', uses={}, build=maker.build).joinpath('toy.txt').read_text())"]),
    )
    (folder / "01_first.ipynb").write_text(uses_toy)
    go = lambda: course.run_course({}, folder=folder, only=["1"])  # noqa: E731
    run = go()
    maker.write_text(maker.read_text().replace("'1'", "'2'"))
    thing = run.folder / "stages/notebook-01_first"
    (thing / "01_first.ipynb").unlink()  # so that it is executed again, with the stage as it is
    monkeypatch.setenv(store.ACCEPT_STALE, "1")
    go()
    assert "stage toy: code changed since (maker.build); used as it is (--accept-stale)\n" in capfd.readouterr().out
    assert "stage toy" not in (thing / "01_first.ipynb").read_text()
    assert store.accepted(run.folder / "stages")["toy"].startswith("code changed since")
    capfd.readouterr()
    go()
    assert "made from things of other code (toy); used as it is" in capfd.readouterr().out
    monkeypatch.delenv(store.ACCEPT_STALE)
    with pytest.raises(CourseError, match="not up to date for 01_first"):
        course.refresh(folder)
    go()
    assert "made from things of other code (toy); building it again" in capfd.readouterr().out
    assert (run.folder / "stages/toy/toy.txt").read_text() == "2" and store.accepted(run.folder / "stages") == {}


def test_executed_copies_hold_no_paths_and_no_times(folder, results, tmp_path):
    (tmp_path / "needed").touch()
    run = course.run_course({}, folder=folder, finish=write_two)
    nb = json.loads((run.folder / "notebooks/01_first.ipynb").read_text())
    assert "papermill" not in nb["metadata"] and "version" not in nb["metadata"]["language_info"]
    assert all(set(cell["metadata"]) <= {"tags"} for cell in nb["cells"])
    assert [cell["execution_count"] for cell in nb["cells"]] == [1, 2, 3, 4, 5]


def test_refresh_takes_the_outputs_of_an_up_to_date_reference_run_only(folder, results, tmp_path):
    (tmp_path / "needed").touch()
    with pytest.raises(CourseError, match="not up to date for 01_first, 02_second"):
        course.refresh(folder)
    course.run_course({"beta": 0.3}, folder=folder, finish=write_two)
    with pytest.raises(CourseError, match="not up to date"):
        course.refresh(folder)
    course.run_course({"profile": "mini", "seed": 0}, folder=folder, finish=write_two)
    assert [path.name for path in course.refresh(folder)] == ["01_first.ipynb", "02_second.ipynb"]
    saved = json.loads((folder / "01_first.ipynb").read_text())["cells"]
    assert saved[-1]["outputs"][0]["text"] == ["0.1\n"]
    assert course.refresh(folder) == [], "saved outputs do not make the run stale"


def test_select(folder):
    named = lambda *only: [path.stem for path in course.select(only, folder)]  # noqa: E731
    assert named() == named("1,2") == ["01_first", "02_second"]
    assert named("2") == named("02") == named("02_second.ipynb") == ["02_second"]
    with pytest.raises(SettingsError, match="no notebook is called '07': the course has 01_first, 02_second"):
        named("1", "7")


@pytest.mark.parametrize(
    "pair, value",
    [
        ("beta=5e-2", 0.05),
        ("dpo_learning_rate=5e-5", 5e-5),
        ("seed=3", 3),
        ("completion_only=false", False),
        ("skip_malformed=True", True),
        ("lora_targets=q_v", "q_v"),
        ("policy=none", None),
        ("train_pairs=1.5", "1.5"),  # left as text: resolve says what is wrong
        ("beta=banana", "banana"),
        ("bta=1", "1"),
    ],
)
def test_command_line_values(pair, value):
    parsed = parameters({}, [pair])[pair.split("=")[0]]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "words, message",
    [
        (["-p", "bta=0.3"], "did you mean 'beta'?"),
        (["-p", "beta=banana"], "beta"),
        (["--profile", "papr"], "did you mean 'paper'?"),
        (["-p", "beta"], "write -p name=value"),
        (["-p", "seed=1", "--seed", "2"], "given twice"),
        (["--dataset", "no/such/folder"], "no such folder"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, message, results, monkeypatch):
    monkeypatch.chdir(ROOT)
    answer = CliRunner().invoke(app, ["run", *words])
    assert answer.exit_code == 2
    assert message in answer.stderr and answer.stderr.count("\n") == 1 and "Traceback" not in answer.stderr
    assert not list(results.glob("*/notebooks"))


def test_doctor_gives_reasons():
    fine = Machine(cores=2, memory=8, disk=20, gpu=0, gpu_name="", packages=None, data=None)
    assert obstacles("mini", fine) == obstacles("smoke", fine) == []
    assert any("GPU" in reason for reason in obstacles("paper", fine))
    assert obstacles("mini", fine._replace(memory=1))[0].startswith("needs")
    assert obstacles("mini", fine._replace(data="policy is missing")) and not obstacles(
        "local", fine._replace(data="policy is missing")
    )


def test_doctor_compares_with_the_lock():
    names = ["pytest", "no-such-package"]
    assert differing_from_lock(names, "pytest==0.1 \\\n") == [f"pytest {pytest.__version__} (lock: 0.1)"]
    assert differing_from_lock(names, f"pytest==0.1 \\\npytest=={pytest.__version__} \\\n") == []


def test_doctor_tells_what_only_notebooks_need():
    assert packages_problem([], []) is None
    assert "train runs without" in packages_problem([], ["jupyterlab"])
    assert packages_problem(["torch"], ["jupyterlab"]) == "missing: torch, jupyterlab (make course installs them)"


def test_the_end_of_a_run_is_metrics_and_a_report(results, monkeypatch):
    """finish_run on invented scores: the same inputs give the same bytes, and the command line shows the table."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"side": ["harmful", "helpful"] * 20, "subset": "harmless-base", "line": range(40)})
    rows = rows.assign(
        prompt=[f"\n\nHuman: {n}\n\nAssistant:" for n in range(40)], response=" Yes.", tokens=3, ended=True
    )
    scores = {name: rows.assign(score=random.normal(-2.5, 1, 40)) for name in stages.PAPER_MODELS}
    log = pd.DataFrame(
        {"step": [0, 5, 10], "epoch": [0, 0.5, 1], "split": ["heldout", "train", "heldout"], "loss": 0.69}
    )
    monkeypatch.setattr(stages, "scores", lambda run, name: scores[name])
    monkeypatch.setattr(stages, "training_log", lambda run, name: log)
    monkeypatch.setattr(stages, "evaluation", lambda run: evaluate(scores, PUBLISHED, run.settings.seed))
    monkeypatch.setattr(stages, "truth", lambda run: None)
    run = open_run()

    def made(folder):
        folder.mkdir()
        course.finish_run(run, folder)
        return [(folder / name).read_bytes() for name in ("metrics.json", "report.html")]

    first = made(results / "first")
    assert MetricsFile.model_validate_json(first[0]).models.keys() == set(stages.PAPER_MODELS)
    assert first == made(results / "second")
    assert b"Made by other code" not in first[1]
    monkeypatch.setattr(store, "accepted", lambda things: {"sft": "training code changed since (loop)"})
    assert b"<li>sft (training code changed since (loop))</li>" in made(results / "third")[1]
    shown = Console(width=100, file=io.StringIO())
    shown.print(_models_table(json.loads(first[0])))
    assert "SFT+DPO" in shown.file.getvalue() and re.search(r"\d\d\.\d \[\d\d\.\d, \d\d\.\d\]", shown.file.getvalue())


@pytest.mark.slow
def test_the_course_runs_from_one_command(results, tmp_path):
    if not course.notebooks():
        pytest.skip("no notebooks yet")
    run = lambda: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "helpers", "run", "--profile", "smoke"],
        cwd=ROOT,
        env=os.environ | {"COURSE_RESULTS": str(results)},
        capture_output=True,
        text=True,
    )
    first = run()
    assert first.returncode == 0, first.stdout + first.stderr
    folder = results / "smoke"
    metrics = (folder / "metrics.json").read_bytes()
    assert MetricsFile.model_validate_json(metrics).profile == "smoke"
    assert "SFT+DPO" in (folder / "report.html").read_text(encoding="utf-8")
    executed = [path.name for path in sorted((folder / "notebooks").glob("[0-9]*.ipynb"))]
    assert executed == [path.name for path in course.notebooks()]
    second = run()
    assert second.returncode == 0 and second.stdout.count("up to date") == len(executed) + 1
    assert (folder / "metrics.json").read_bytes() == metrics
