"""What the commands share: parameters as they are typed, errors as one line, paths as seen from where one stands."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from helpers.core.errors import CourseError, DataError, SettingsError
from helpers.core.profiles import ROOT
from helpers.core.settings import Settings
from helpers.notebooks import NotebookFailed

START = Path.cwd()  # where the command was typed; notebooks run in the project root
PLACES = ("dataset", "policy", "reward_model", "outside_labels")  # settings that may be a path
out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def parameters(options: dict[str, str | None], pairs: list[str] | None = None) -> dict[str, Any]:
    """Parameters of a command by name, as values of their settings' types.

    options: named options, None where one was not given. pairs: what -p was given, ["beta=5e-2", ...]. A value that
    does not fit its setting stays text: `resolve` says what is wrong with it. Raises SettingsError for a text without a
    name, or a parameter that has two values.
    """
    given: dict[str, Any] = {}
    texts = [f"{key}={value}" for key, value in options.items() if value is not None]
    for pair in texts + (pairs or []):
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise SettingsError(f"{pair!r} is not a parameter: write -p name=value, such as -p beta=0.3")
        value = _typed(key, text)
        if given.setdefault(key, value) != value:
            raise SettingsError(f"{key} is given twice, as {given[key]!r} and as {value!r}: give it once")
    return given


def _typed(name: str, text: str) -> Any:
    """The value that `text` stands for in the setting `name`: here 5e-5 is a number and true is True."""
    field = Settings.model_fields.get(name)
    if field is None:
        return text
    if text.lower() in {"none", "null"}:
        return None
    # A folder is kept as seen from the project, where runs look for it.
    if name in PLACES and (place := Path(text).expanduser()).exists():
        return os.path.relpath(place.resolve(), ROOT)
    try:
        return TypeAdapter(field.annotation).validate_strings(text)
    except ValidationError:
        return text


@contextmanager
def explained() -> Iterator[None]:
    """Inside, an error becomes one red line. Exit code 2: mend the parameters or the data; 1: it stopped at work."""
    try:
        yield
    except NotebookFailed as error:
        _red(str(error))
        if error.copy:
            err.print(f"what had run: {near(error.copy)}", markup=False, soft_wrap=True)
        err.print(f"finished work is kept; to go on: {_resume()}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except CourseError as error:
        _red(str(error))
        raise typer.Exit(2 if isinstance(error, SettingsError | DataError) else 1) from None
    except KeyboardInterrupt:
        err.print(f"\nstopped; finished work is kept; to go on: {_resume()}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None


def _red(line: str) -> None:
    err.print(line, style="red", markup=False, soft_wrap=True)


def _resume() -> str:
    """The command that was typed, without --force, which would start from the beginning."""
    return "python -m helpers " + shlex.join(word for word in sys.argv[1:] if word != "--force")


def near(path: Path) -> str:
    """A path as seen from where the command was typed, if that is shorter."""
    return min(str(path), os.path.relpath(path, START), key=len)
