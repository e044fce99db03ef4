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
    """One run: its checked settings and its folder. Made by `open_run`."""

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
        """Write `obj` as JSON to a file of this run's folder, whole or not at all. NaN is refused (ValueError)."""
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
        count by content. The code that `build` reaches and the versions of its libraries count too. `build` may find in
        its folder what an interrupted call with the same parts left there, and go on from that. What it puts in
        `checkpoints` is thrown away at the end. together: where several processes share the trainings, all of them call
        `build` at once, and their number counts; other stages the main one builds by itself while they wait. Raises
        StageError for a missing or damaged input, a full disk, or a builder that makes nothing.
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
        target, what = self._stage_folder(name), f"stage {name}"
        _asked[target] = lambda: self._stage(name, uses, needs, build, made_by)
        parts = store.Parts(uses, _inputs(what, needs), made_by.code, made_by.versions)
        if store.usable(target, parts, what):
            return target
        if _mend(what, needs):  # an input may have come out different
            parts = parts._replace(inputs=_inputs(what, needs))
        siblings = (path.parent for path in sorted(results_root().glob(f"*/stages/{name}/{store.MANIFEST}")))
        return store.make(target, parts, build, what, siblings=siblings)

    def _stage_folder(self, name: str) -> Path:
        if not STAGE_NAME.fullmatch(name):
            raise StageError(f"{name!r} cannot name a stage: use letters, digits and . _ = -")
        return self.folder / "stages" / name


_asked: dict[Path, Callable[[], Path]] = {}  # stage folder -> what makes it: stages that this session asked for


def _inputs(what: str, needs: Sequence[Path]) -> dict[str, str]:
    """Name -> hash of the content of what a stage is made from. Raises StageError for what is missing."""
    found: dict[str, str] = {}
    for path in map(Path, needs):
        if not path.exists():
            raise StageError(f"{what} needs {_shown(path)}, which is missing: build or give it first")
        thing = store.thing_with(path)
        name = thing.name if thing else "/".join(path.parts[-2:])
        while name in found:
            name += "'"
        found[name] = store.content_of(path)
    return found


def _mend(what: str, needs: Sequence[Path]) -> bool:
    """Hash the inputs of a stage that is about to be built; build those again that are damaged. True if some were."""
    damaged = False
    for thing in filter(None, (store.thing_with(Path(path)) for path in needs)):
        if problem := store.damage(thing, thoroughly=True):
            if thing not in _asked or distributed.launched() > 1:
                raise StageError(f"{what} needs {_shown(thing)}, {problem}: delete that folder, then start again")
            _asked[thing]()
            damaged = True
    return damaged


def open_run(namespace: dict[str, Any] | None = None, **given: Any) -> Run:
    """Check the parameters, make the run folder, say what will happen. In a notebook: `open_run(globals())`.

    namespace: a notebook's globals (its `# Parameters` cells count), or a plain dict of parameters; `given` wins.
    Raises SettingsError or DataError, one line, before any long work. Prints a short summary.
    """
    resolved = resolve(**(notebook_parameters(namespace or {}) | given))
    settings = resolved.settings
    _check_sources(settings)
    run = Run(resolved, results_root() / resolved.run_name)
    with files.plain_disk_errors("opening the run"):
        run.folder.mkdir(parents=True, exist_ok=True)
        _check_disk(run)
        _set_environment(settings)
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
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
            raise DataError(f"{name} = {source!r}: no such folder, seen from here or from the project: mend the path")
        if settings.profile != "paper":
            raise DataError(
                f"{name} = {source!r}: no such folder, and profile {settings.profile} downloads nothing: "
                f"mend the path, or use profile paper for hub ids"
            )


def _check_disk(run: Run) -> None:
    """Refuse to start a run that the disk cannot hold; what the run already has counts."""
    have = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    needed = round(1000 * DISK_GB[run.settings.profile])  # MB
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
    """A few lines that read the same on every machine."""
    s = run.settings
    device = "auto (decided when a model is loaded)" if s.device == "auto" else s.device
    print(f"profile {s.profile} · recipe {s.recipe} · seed {s.seed} · device {device}")
    print(f"run folder {_shown(run.folder)}")
    for name, (value, usual, origin) in run.resolved.changes().items():
        print(f"  {name} = {value!r} instead of {usual!r} ({origin})")
    now = s.model_dump()
    if s.profile == "paper" and os.environ.get("HF_HUB_OFFLINE") == "1":
        print("HF_HUB_OFFLINE=1 is set: nothing is downloaded (an earlier run in this kernel sets it: restart to undo)")
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
