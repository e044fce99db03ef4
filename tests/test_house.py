"""The rules of the house: formatted code, nothing of one machine in the files, one lock behind every door."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".lock", ".json", ".cff", ".txt", ".cfg", ""}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|private)/[\w.-]+")
# In two halves, so that this file does not name what it forbids.
HOSTS = [
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("anaconda", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("debian", "org"),
]
INDEX_HOST = re.compile("|".join(rf"\b{name}\.{end}\b" for name, end in HOSTS))


def tracked():
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts():
    for path in tracked():
        if path.suffix in TEXT and path.stat().st_size < 8 * 2**20:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_is_content(command):
    places = [name for name in ("helpers", "tests", "notebooks") if (ROOT / name).exists()]
    answer = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", *places], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_imports_point_one_way_and_no_module_is_in_a_circle():
    """The layers in pyproject.toml, held by import-linter."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    answer = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0 and "2 kept, 0 broken" in answer.stdout, answer.stdout + answer.stderr


def test_every_module_has_a_package_but_the_front_door():
    front = {path.name for path in (ROOT / "helpers").glob("*.py")}
    assert front == {"__init__.py", "__main__.py", "console.py", "course.py", "notebooks.py"}
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    named = {name.removeprefix("helpers.") for line in layers[0]["layers"] for name in line.split(" | ")}
    packages = {path.parent.name for path in (ROOT / "helpers").glob("*/__init__.py")}
    assert packages | {name.removesuffix(".py") for name in front - {"__init__.py"}} == named


def test_files_name_no_machine_path():
    found = [f"{name}: {hit.group()}" for name, text in texts() for hit in MACHINE_PATH.finditer(text)]
    assert not found, found[:5]


def test_files_name_no_package_index():
    found = [f"{name}: {hit.group()}" for name, text in texts() for hit in INDEX_HOST.finditer(text)]
    assert not found, found[:5]


def test_data_cache_is_small():
    size = sum(path.stat().st_size for path in tracked() if path.is_relative_to(ROOT / "data_cache"))
    assert size <= 25 * 2**20, f"data_cache holds {size / 2**20:.1f} MiB"


def requirements():
    """name==version -> its hashes, from requirements.lock."""
    found, hashes = {}, []
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if re.match(r"[a-z0-9]", line):
            hashes = found.setdefault(re.match(r"\S+", line)[0] + line.partition(";")[2], [])
        hashes += re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)
    return found


def test_every_line_of_the_lock_is_pinned_and_hashed():
    lock = requirements()
    assert len(lock) > 100
    assert all(re.match(r"[a-z0-9-]+==\d\S*", requirement) for requirement in lock)
    assert [requirement for requirement, hashes in lock.items() if not hashes] == []


def test_the_lock_names_no_index():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    options = {
        word for line in text.splitlines() if not line.startswith("#") for word in re.findall(r"--[a-z-]+", line)
    }
    assert options == {"--hash"}


def test_the_lock_covers_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"] + extras["course"] + extras["test"]}
    locked = {requirement.partition("==")[0] for requirement in requirements()}
    assert asked <= locked, "make lock"


def test_every_door_leads_to_the_same_lock():
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    pip_lines = re.findall(r"^ {6}- (.+)$", environment, flags=re.M)
    assert pip_lines == ["--requirement requirements.lock"]
    assert "requirements.lock" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_the_torch_at_hand_replaces_exactly_the_torch_blocks_of_the_lock():
    """The Makefile's awk filter, on the real lock: what is left has no torch and loses nothing else."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pattern = re.search(r"^TORCH_BLOCKS = (.+)$", makefile, flags=re.M)[1]
    program = f"/^[a-z]/ {{ drop = /{pattern}/ }} !drop"
    kept = subprocess.run(["awk", program, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    left = set(re.findall(r"^[a-z0-9-]+==\S+", kept.stdout, flags=re.M))
    every = set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.M))
    gone = {name.partition("==")[0] for name in every - left}
    assert {"torch", "triton", "cuda-toolkit"} <= gone
    assert all(name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-")) for name in gone)


def test_readme_gives_the_two_commands():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README yet")
    text = readme.read_text(encoding="utf-8")
    assert "make course" in text and "make test" in text
