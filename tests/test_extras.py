"""What an installation without the extra `course` can do, and what it says about the rest."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import bare
import pytest

from helpers import course
from helpers.core import extras
from helpers.core.errors import CourseError

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
EXTRAS = tomllib.loads(PYPROJECT)["project"]["optional-dependencies"]


def in_bare_python(*words):
    """`python -m WORDS` where the extra `course` is not installed."""
    return subprocess.run(
        [sys.executable, ROOT / "tests" / "bare.py", *words], cwd=ROOT, capture_output=True, text=True
    )


def test_the_bare_python_lacks_the_whole_extra():
    assert {re.match(r"[\w-]+", line)[0] for line in EXTRAS["course"]} <= set(bare.ABSENT)
    answer = in_bare_python("timeit", "-n1", "-r1", "import ipykernel")
    assert answer.returncode and "No module named 'ipykernel'" in answer.stderr


@pytest.mark.slow
def test_the_models_are_trained_without_what_only_notebooks_need(results):
    answer = in_bare_python("helpers", "train", "--profile", "smoke")
    assert answer.returncode == 0, answer.stderr
    summaries = list(results.rglob("summary.json"))
    assert {json.loads(path.read_text())["steps"] > 0 for path in summaries} == {True} and len(summaries) >= 3


def test_a_plan_needs_no_notebook_package(results):
    answer = in_bare_python("helpers", "plan", "--gpu", "T4")
    assert answer.returncode == 0 and "T4" in answer.stdout, answer.stderr


def test_rehearsal_and_benchmarks_are_read_without_notebook_packages():
    names = ["helpers.planning.rehearsal", *(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py"))]
    assert len(names) > 4
    answer = in_bare_python("timeit", "-n1", "-r1", f"import {', '.join(names)}")
    assert answer.returncode == 0, answer.stderr


def test_the_doctor_names_the_missing_extra_and_a_run_is_refused_with_one_line(results):
    answer = in_bare_python("helpers", "doctor")
    assert "jupyterlab" in answer.stdout and "only notebooks need" in " ".join(answer.stdout.split())
    answer = in_bare_python("helpers", "run", "--profile", "smoke")
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1, answer.stderr
    assert "papermill" in answer.stderr and "make course" in answer.stderr
    assert not list(results.glob("*/notebooks"))


@pytest.mark.parametrize("package", ["typer", "rich", "pydantic", "packaging"])
def test_without_a_package_that_every_command_needs_there_is_one_line(package):
    code = f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv = ['helpers', 'doctor']; "
    code += "runpy.run_module('helpers', run_name='__main__')"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1, answer.stderr
    assert f"needs the package {package}, which is not installed" in answer.stderr


def test_a_run_asks_for_the_notebooks_packages_before_it_starts(results, monkeypatch):
    monkeypatch.setattr(extras, "missing", lambda names: [name for name in names if name == "cleanlab"])
    with pytest.raises(CourseError, match=r"not installed \(cleanlab\)"):
        course.run_course({"profile": "smoke"})
    assert not list(results.glob("*"))


def test_needed_packages_are_those_of_this_system():
    elsewhere = "only-elsewhere>=1; sys_platform == 'somewhere'"
    text = f'[project]\ndependencies = ["pytest>=9", "{elsewhere}"]\n'
    text += '[project.optional-dependencies]\nmore = ["no-such>=1"]'
    assert extras.needed(text) == ["pytest"] and extras.needed(text, "more") == ["no-such"]
    assert extras.missing(["pytest", "no-such"]) == ["no-such"]
