"""One notebook through papermill: its executed copy is whole or absent, and a failure says where and why."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.core import files, store
from helpers.core.errors import CourseError
from helpers.core.profiles import ROOT


class NotebookFailed(CourseError):
    """A cell raised an error or the kernel died. `copy` is the notebook as far as it ran, None if nothing ran."""

    def __init__(self, notebook: str, where: str, reason: str, copy: Path | None) -> None:
        super().__init__(f"{notebook} stopped at {where}: {reason}")
        self.copy = copy


def execute(notebook: Path, parameters: dict[str, Any], out: Path, failed: Path) -> None:
    """Run one notebook from the project root with this Python and write it to `out`, whole or not at all.

    parameters: what papermill puts after the parameters cell. Raises NotebookFailed at the first failing cell, and
    leaves what had run as `failed`, which a later success removes.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.partial.ipynb")
    partial.unlink(missing_ok=True)
    try:
        with _kernel() as kernel:
            papermill.execute_notebook(
                _braces_kept(notebook),
                _braces_kept(partial),
                parameters,
                progress_bar=False,
                start_timeout=300,  # seconds: a busy machine is slow to start a kernel
                log_output=False,
                record_timing=False,
                store_widget_state=False,
                cwd=ROOT,
                **kernel,
            )
    except (PapermillExecutionError, DeadKernelError, CellTimeoutError, RuntimeError) as error:
        # Where it stopped: papermill has written what had run, if anything had.
        where, reason = "its start", _last_line(str(error)) or type(error).__name__
        if partial.exists():
            os.replace(partial, failed)
            where = _failing_cell(json.loads(failed.read_text(encoding="utf-8"))["cells"])
        # Why: the cell's own error, or the end of its process.
        if isinstance(error, PapermillExecutionError):
            reason = f"{error.ename}: {_last_line(error.evalue)}"
        elif isinstance(error, DeadKernelError):
            reason = "its Python process died, most often for want of memory"
        raise NotebookFailed(out.stem, where, reason, failed if failed.exists() else None) from error
    write_clean(partial, out)
    partial.unlink()
    failed.unlink(missing_ok=True)


@contextmanager
def _kernel() -> Iterator[dict[str, Any]]:
    """Options for papermill: a kernel of this environment, silent on the console, reached without any network.

    Kernels talk over TCP by default, which fails where even the loopback device is down; socket files do not.
    """
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a python3 kernel installed for the user would come first
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="course-") as private:
        warnings.simplefilter("ignore")
        config = Config()
        if os.name == "posix" and len(private) < 90:  # a socket's path has about 100 characters at most
            config.KernelManager.transport, config.KernelManager.ip = "ipc", f"{private}/kernel"
        with _messages_shown(Path(private) / "messages"):
            yield {"kernel_name": "python3", "config": config, "extra_arguments": ["--IPKernelApp.log_level=50"]}


@contextmanager
def _messages_shown(file: Path) -> Iterator[None]:
    """Print here, when the kernel has ended, why it built stages again: in its notebook that would be chance."""
    os.environ[store.MESSAGES] = str(file)
    try:
        yield
    finally:
        del os.environ[store.MESSAGES]
        if file.exists():
            print(file.read_text(encoding="utf-8"), end="")


def _braces_kept(path: Path) -> str:
    """Papermill fills {parameters} into paths; a brace that is part of the path must be doubled."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _failing_cell(cells: list[dict]) -> str:
    """The cell that stopped, the last one that papermill started, as "cell [7] (Heading above it)"."""
    # Its place among all cells.
    last = -1
    for place, cell in enumerate(cells):
        if cell["metadata"].get("papermill", {}).get("start_time"):
            last = place
    # Its number among code cells, as Jupyter shows it, and the last heading before it.
    heading, number = "", 0
    for cell in cells[: last + 1]:
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ +(.+)$", "".join(cell["source"]), flags=re.M)
            heading = found[-1] if found else heading
        elif "".join(cell["source"]).strip():
            number += 1
    if not number:
        return "its start"
    return f"cell [{number}] ({heading})" if heading else f"cell [{number}]"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def write_clean(source: Path, target: Path) -> None:
    """Copy an executed notebook without what differs from run to run: paths, durations and widget state."""
    nb = json.loads(source.read_text(encoding="utf-8"))
    for key in ("papermill", "widgets"):
        nb["metadata"].pop(key, None)
    nb["metadata"].get("language_info", {}).pop("version", None)
    for cell in nb["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        # Papermill gives every cell a list of tags; an empty one goes.
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]
    files.write_json(target, nb)
