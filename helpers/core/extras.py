"""Packages that only the notebooks need: the extra `course` of pyproject.toml."""

from __future__ import annotations

import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from helpers.core.errors import CourseError
from helpers.core.profiles import ROOT


def needed(pyproject: str, extra: str | None = None) -> list[str]:
    """Names of the packages that a project needs on this system.

    pyproject: the text of its pyproject.toml. extra: an optional group; None for what is always needed. Raises KeyError
    for an extra that it does not have.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    names = []
    for requirement in map(Requirement, lines):
        # A marker restricts a package to some systems or Python versions.
        if requirement.marker is None or requirement.marker.evaluate():
            names.append(requirement.name)
    return names


def missing(names: list[str]) -> list[str]:
    """Those of the named packages that are not installed."""
    absent = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    return absent


def require_notebooks() -> None:
    """Make sure that the notebooks can run. Raises CourseError that names what is not installed."""
    absent = missing(needed((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "course"))
    if absent:
        raise CourseError(
            f"the notebooks need packages that are not installed ({', '.join(absent)}): run `make course`, or "
            "`pip install --editable '.[course]'`; `python -m helpers train` trains without them"
        )
