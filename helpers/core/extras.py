"""Packages that only the notebooks need: the extra `course` of pyproject.toml."""

from __future__ import annotations

import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from helpers.core.errors import CourseError
from helpers.core.profiles import ROOT


def needed(pyproject: str, extra: str | None = None) -> list[str]:
    """Names of the packages that the text of a pyproject.toml asks for on this system: those of an extra, or the rest.

    Raises KeyError for an extra that is not there.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    wanted = map(Requirement, lines)
    return [line.name for line in wanted if line.marker is None or line.marker.evaluate()]


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
