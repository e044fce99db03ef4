"""What this machine can run, and what is missing. It changes no file and needs no network."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from helpers.core import extras
from helpers.core.errors import CourseError
from helpers.core.profiles import BY_PROFILE, DATA_CACHE, DISK_GB, MEMORY_GB, PROFILES, ROOT, results_root
from helpers.core.text import GB
from helpers.models.hardware import memory

GPU_MEMORY = 8  # GB: the planner fits every stage of profile paper into it (python -m helpers plan)


class Machine(NamedTuple):
    """What was found here; sizes in GB, `gpu` 0 without one, `packages` and `data` None when all is well."""

    cores: int
    memory: float
    disk: float
    gpu: float
    gpu_name: str
    packages: str | None
    data: str | None


def examine(console: Console) -> bool:
    """Print what is here and which profiles can run; True if profile mini can."""
    machine, differing = look()
    # What there is.
    facts = Table("what", "found", "remark")
    facts.add_row("Python", platform.python_version(), "" if sys.version_info >= (3, 11) else "3.11 or newer is needed")
    facts.add_row("packages", machine.packages or "all installed", differing)
    facts.add_row("CPU cores", str(machine.cores), "")
    facts.add_row("memory", f"{machine.memory:.0f} GB", "")
    facts.add_row("free disk", f"{machine.disk:.0f} GB", "where results/ lies")
    facts.add_row("GPU", f"{machine.gpu:.0f} GB" if machine.gpu else "none", machine.gpu_name)
    facts.add_row("data_cache/", "not whole" if machine.data else "as its manifest says", machine.data or "")
    console.print(facts, markup=False)
    # Which profiles that is enough for.
    verdicts = {profile: obstacles(profile, machine) for profile in PROFILES}
    profiles = Table("profile", "runs here", "why not, or what else it needs")
    for profile, found in verdicts.items():
        profiles.add_row(profile, "no" if found else "yes", "; ".join(found) or _also_needs(profile))
    console.print(profiles, markup=False)
    return not verdicts["mini"]


def obstacles(profile: str, machine: Machine) -> list[str]:
    """Reasons why a profile cannot run on a machine; [] if it can."""
    found = [machine.packages] if machine.packages else []
    if machine.data and profile in ("smoke", "mini"):
        found.append(f"data_cache/: {machine.data}")
    if machine.memory < MEMORY_GB[profile]:
        found.append(f"needs {MEMORY_GB[profile]} GB of memory")
    if machine.disk < DISK_GB[profile]:
        found.append(f"needs {DISK_GB[profile]} GB of disk")
    if profile == "paper" and machine.gpu < GPU_MEMORY:
        found.append(f"needs a GPU with {GPU_MEMORY} GB")
    return found


def look() -> tuple[Machine, str]:
    """The machine, and a remark on packages whose versions differ from the lock ("" if none does)."""
    # Packages: those that everything needs, and those that only notebooks need.
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    always, notebooks = extras.needed(pyproject), extras.needed(pyproject, "course")
    differing = differing_from_lock(always + notebooks, lock)
    gpu_name, gpu = _gpu()
    # The disk is that of the results folder, which may not exist yet.
    root = results_root()
    existing = next(place for place in (root, *root.parents) if place.exists())
    machine = Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory() / GB,
        disk=shutil.disk_usage(existing).free / GB,
        gpu=gpu / GB,
        gpu_name=gpu_name,
        packages=packages_problem(extras.missing(always), extras.missing(notebooks)),
        data=_data_problem(),
    )
    return machine, f"not as in requirements.lock: {', '.join(differing)}" if differing else ""


def packages_problem(always: list[str], notebooks: list[str]) -> str | None:
    """What to say about missing packages, those that everything needs and those that only notebooks need."""
    if always:
        return f"missing: {', '.join(always + notebooks)} (make course installs them)"
    if notebooks:
        return (
            f"missing: {', '.join(notebooks)}, which only notebooks need (make course installs them; "
            "python -m helpers train runs without)"
        )
    return None


def differing_from_lock(names: list[str], lock: str) -> list[str]:
    """Of the named packages those that are installed in another version than the lock's, with both versions."""
    # One name may have several versions in the lock, for several Pythons.
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, flags=re.M):
        locked.setdefault(name, []).append(version)
    differing = []
    for name in set(names) - set(extras.missing(names)):
        installed = metadata.version(name)
        if installed not in locked.get(name, []):
            differing.append(f"{name} {installed} (lock: {' or '.join(locked.get(name, ['-']))})")
    return sorted(differing)


def _gpu() -> tuple[str, int]:
    """(name, bytes of memory) of the first CUDA device; (why there is none, 0) without one."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed", 0
    import torch

    if not torch.cuda.is_available():
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        return f"torch {torch.__version__}, built for {built_for}", 0
    device = torch.cuda.get_device_properties(0)
    return device.name, device.total_memory


def _data_problem() -> str | None:
    """What is wrong with data_cache/, in a few words; None if it is whole."""
    if not DATA_CACHE.is_dir():
        return "it is missing: use a complete checkout, or python -m helpers cache build"
    try:
        from helpers.pipeline import data_cache

        for part in (data_cache.DIALOGUES, data_cache.POLICY, data_cache.REWARD_MODEL):
            if not (DATA_CACHE / part).is_dir():
                return f"{part}/ is missing: use a complete checkout, or python -m helpers cache build"
        data_cache.verify()
    except CourseError as error:
        return str(error)
    return None


def _also_needs(profile: str) -> str:
    """What the user or the network must give to a profile; "" where it needs nothing."""
    if profile == "local":
        return "--dataset: a folder in HH-RLHF's layout"
    if profile == "paper":
        column = PROFILES.index("paper")
        downloads = [BY_PROFILE[name][column] for name in ("dataset", "policy", "reward_model")]
        return f"downloads {', '.join(downloads)}"
    return ""
