"""The versions that pyproject.toml allows: `make test-oldest` and `make test-newest` install them and say so."""

import os
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@pytest.mark.skipif(os.environ.get("COURSE_PACKAGES") != "oldest", reason="for make test-oldest")
def test_every_lower_bound_is_a_version_that_can_be_installed():
    """A bound that other packages overrule promises what nobody can have."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for requirement in map(Requirement, project["dependencies"] + extras["course"] + extras["test"]):
        if requirement.marker is None or requirement.marker.evaluate():
            (bound,) = requirement.specifier
            parts = len(Version(bound.version).release)
            installed = Version(metadata.version(requirement.name)).release
            assert bound.operator == ">=" and installed[:parts] == Version(bound.version).release, requirement.name
