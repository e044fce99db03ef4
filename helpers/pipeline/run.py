"""A run is a folder: its settings, and its stages, each built once and kept while what it is made from stays the same.

results/RUN/run.json              settings, where they came from, versions
results/RUN/stages/NAME/          what a stage made, with manifest.json: see `helpers.core.store`
results/RUN/stages/.NAME.partial/ a stage that was interrupted, handed to its builder again
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.core import code, distributed, files, store
from helpers.core.errors import DataError, StageError
from helpers.core.profiles import DATA_CACHE, DISK_GB, ROOT, results_root
from helpers.core.quiet import QUIET
from helpers.core.settings import Resolved, Settings, resolve
from helpers.pipeline.parameters import notebook_parameters
from helpers.pipeline.sources import locate

if TYPE_CHECKING:
    from pandas import DataFrame


OF_THE_COURSE = ("notebook-", "results")  # how the names of folders begin that the course keeps among the stages
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


@dataclass(frozen=True, repr=False)
class Run:
    """One run: its checked settings with their origins (`resolved`), and its folder. Made by `open_run`."""

    resolved: Resolved
    folder: Path

    def __repr__(self) -> str:
        return f"<run {self.name}>"

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    @property
    def name(self) -> str:
        return self.folder.name

    def table(self) -> DataFrame:
        """All settings with value, origin and meaning."""
        return self.resolved.table()

    def write_json(self, relative: str | Path, obj: Any) -> Path:
        """Write `obj` as JSON to a file of this run's folder, whole or not at all.

        relative: the file, as seen from the run folder. Returns its full path. Raises StageError for a path outside the
        run folder or a full disk, ValueError for NaN.
        """
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder):
            raise StageError(f"{relative} lies outside the run folder: give a path inside it")
        with files.plain_disk_errors(f"writing {relative}"):
            files.write_json(path, obj)
        return path

    def ready(self, name: str) -> bool:
        """True if the stage was finished and its files are all there (its inputs may have changed since)."""
        return store.damage(self._stage_folder(name)) is None

    def stages(self) -> list[str]:
        """Names of the finished stages, sorted; without the executed notebooks and the results, which lie there too."""
        names = sorted(path.parent.name for path in self.folder.glob(f"stages/[!.]*/{store.MANIFEST}"))
        return [name for name in names if not name.startswith(OF_THE_COURSE) and self.ready(name)]

    def stage(
        self,
        name: str,
        *,
        uses: dict[str, Any],
        needs: Sequence[Path] = (),
        build: Callable[[Path], None],
        together: bool = False,
    ) -> Path:
        """Folder of the finished stage `name`; calls `build(folder)` only if it is missing or not up to date.

        uses: settings and other JSON values that the result depends on. needs: files or folders it is made from; they
        count by content. build: fills a folder; its code and the versions of its libraries count too. It may find there
        what an interrupted call with the same parts left, and go on from that; what it puts in `checkpoints` is thrown
        away at the end. together: where several processes share the trainings, all of them call `build` at once, and
        their number counts; any other stage is built by the main one while the others wait. Raises StageError for a
        missing or damaged input, a full disk, or a builder that makes nothing.
        """
        made_by = code.of_builder(build)
        if together and distributed.launched() > 1:
            made_by.versions["processes"] = str(distributed.launched())
        if distributed.count() == 1:
            return self._stage(name, uses, needs, build, made_by)
        distributed.led_by_main(lambda builder: self._stage(name, uses, needs, builder, made_by), build, together)
        if not self.ready(name):
            raise StageError(
                f"process {distributed.index()} does not see {_shown(self.folder)}: all need the same disk"
            )
        return self._stage_folder(name)

    def _stage(
        self, name: str, uses: dict[str, Any], needs: Sequence[Path], build: Callable[[Path], None], made_by: code.Code
    ) -> Path:
        """`stage` in one process: what is there is checked, what is missing or out of date is built."""
        target, what = self._stage_folder(name), f"stage {name}"
        _builders[target] = lambda: self._stage(name, uses, needs, build, made_by)
        parts = store.Parts(uses, _inputs(what, needs), made_by.code, made_by.versions)
        if store.usable(target, parts, what):
            return target
        # It will be built: its inputs must be whole. One that was built again may have come out different.
        if _build_damaged_again(what, needs):
            parts = parts._replace(inputs=_inputs(what, needs))
        # Another run may have this stage already.
        siblings = (path.parent for path in sorted(results_root().glob(f"*/stages/{name}/{store.MANIFEST}")))
        return store.make(target, parts, build, what, siblings=siblings)

    def _stage_folder(self, name: str) -> Path:
        if not STAGE_NAME.fullmatch(name):
            raise StageError(f"{name!r} cannot name a stage: use letters, digits and . _ = -")
        return self.folder / "stages" / name


_builders: dict[Path, Callable[[], Path]] = {}  # stage folder -> what builds it, of all stages this session called for


def _inputs(what: str, needs: Sequence[Path]) -> dict[str, str]:
    """Name -> hash of the content of what a stage is made from. Raises StageError for what is missing.

    what: the stage, in words for the message.
    """
    found: dict[str, str] = {}
    for path in map(Path, needs):
        if not path.exists():
            raise StageError(f"{what} needs {_shown(path)}, which is missing: build or give it first")
        # A stage is called by its name, another folder by the end of its path; equal names are told apart.
        thing = store.thing_with(path)
        name = thing.name if thing else "/".join(path.parts[-2:])
        while name in found:
            name += "'"
        found[name] = store.content_of(path)
    return found


def _build_damaged_again(what: str, needs: Sequence[Path]) -> bool:
    """Hash the inputs of a stage that is about to be built; build those again that are damaged. True if some were."""
    some_were_damaged = False
    for path in needs:
        thing = store.thing_with(Path(path))
        problem = store.damage(thing, thoroughly=True) if thing else None
        if not problem:
            continue
        # Only one process alone can build it, and only what it has the builder of.
        if thing not in _builders or distributed.launched() > 1:
            raise StageError(f"{what} needs {_shown(thing)}, {problem}: delete that folder, then start again")
        _builders[thing]()
        some_were_damaged = True
    return some_were_damaged


def open_run(namespace: dict[str, Any] | None = None, **given: Any) -> Run:
    """Check the parameters, make the run folder, say what will happen. In a notebook: `open_run(globals())`.

    namespace: a notebook's globals (its `# Parameters` cells count), or a plain dict of parameters; `given` wins.
    Prints a short summary. Raises SettingsError or DataError, one line, before any long work; StageError where the disk
    is too small.
    """
    # Check the parameters, and that the folders which they name exist.
    resolved = resolve(**(notebook_parameters(namespace or {}) | given))
    settings = resolved.settings
    _check_sources(settings)
    run = Run(resolved, results_root() / resolved.run_name)
    with files.plain_disk_errors("opening the run"):
        run.folder.mkdir(parents=True, exist_ok=True)
        _check_disk(run)
        _set_environment(settings)
        # Record the settings; those of an earlier call are for the summary.
        record = {
            "name": run.name,
            "seed": settings.seed,
            "settings": settings.model_dump(),
            "sources": resolved.source,
            "versions": files.versions(),
        }
        before = files.read_json(run.folder / "run.json")
        settings_before = before.get("settings")
        if before != record and distributed.is_main():
            run.write_json("run.json", record)
    if distributed.is_main():
        _print_summary(run, settings_before if isinstance(settings_before, dict) else {})
    return run


def _check_sources(settings: Settings) -> None:
    """Folders that were given exist; only profile paper may name something on the hub."""
    for name in ("dataset", "policy", "reward_model"):
        source = getattr(settings, name)
        if source is None or locate(source):
            continue
        # It is no folder. Has it the form of a hub id, OWNER/NAME?
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
            raise DataError(f"{name} = {source!r}: no such folder, seen from here or from the project: mend the path")
        if settings.profile != "paper":
            raise DataError(
                f"{name} = {source!r}: no such folder, and profile {settings.profile} downloads nothing: "
                f"mend the path, or use profile paper for hub ids"
            )


def _check_disk(run: Run) -> None:
    """Refuse to start a run that the disk cannot hold; what the run already has counts."""
    # Bytes that there are; the others are MB.
    have = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    needed = round(1000 * DISK_GB[run.settings.profile])
    missing = needed - (have + shutil.disk_usage(run.folder).free) // 10**6
    if missing > 0:
        raise StageError(
            f"profile {run.settings.profile} needs about {needed} MB of disk under "
            f"{_shown(run.folder)}, {missing} MB more than are free: free some, or set COURSE_RESULTS to another disk"
        )


def _set_environment(settings: Settings) -> None:
    """Quiet libraries, and no network except for profile paper. What you set yourself stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm asks for widgets that it is told not to use
    if settings.profile != "paper":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _print_summary(run: Run, before: dict[str, Any]) -> None:
    """Print profile, run folder, changed settings and what is there; the lines are the same on every machine."""
    s = run.settings
    device = "auto (decided when a model is loaded)" if s.device == "auto" else s.device
    print(f"profile {s.profile} · recipe {s.recipe} · seed {s.seed} · device {device}")
    print(f"run folder {_shown(run.folder)}")
    for name, (value, usual, origin) in run.resolved.changes().items():
        print(f"  {name} = {value!r} instead of {usual!r} ({origin})")
    if s.profile == "paper" and os.environ.get("HF_HUB_OFFLINE") == "1":
        print("HF_HUB_OFFLINE=1 is set: nothing is downloaded (an earlier run in this kernel sets it: restart to undo)")
    # Settings of an earlier call with this run folder.
    now = s.model_dump()
    other = [name for name in now if before and before.get(name) != now[name]]
    if other:
        print(f"this folder held other settings ({', '.join(other)}): what depends on them is built again")
    print(f"already there: {', '.join(run.stages()) or 'nothing yet'}")


def _shown(path: Path) -> str:
    """A path without the part that differs between machines."""
    for base, name in ((results_root(), "results"), (DATA_CACHE, "data_cache"), (ROOT, ".")):
        if path.is_relative_to(base):
            return str(Path(name) / path.relative_to(base))
    return str(path)
