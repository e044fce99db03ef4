"""The whole course as one run: every notebook in order, then metrics.json and report.html.

results/RUN/notebooks/05_dpo.ipynb          the executed notebook
results/RUN/notebooks/05_dpo.failed.ipynb   what had run when it stopped, error included
results/RUN/notebooks/course.json           what each result was made from: an unchanged one is not made again
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from helpers import folders
from helpers.errors import CourseError, SettingsError
from helpers.execution import execute, write_clean
from helpers.methods import PAPER_MODELS, models_of
from helpers.progress import Display
from helpers.runs import Run, locate, open_run
from helpers.settings import DATA_CACHE, ROOT, Resolved, Settings, resolve, results_root

NOTEBOOKS = ROOT / "notebooks"
LEDGER = "notebooks/course.json"
RESULTS = "metrics and report"  # the last step of a whole run
# Code that decides how the course is run and shown, not what a notebook computes.
NOT_INSIDE_NOTEBOOKS = {
    *("card.py", "card.md.j2", "console.py", "course.py", "doctor.py", "execution.py", "progress.py", "rehearsal.py"),
    "__main__.py",
}
SWITCHES = ("profile", "recipe", "seed", "device")


# ---------------------------------------------------------------------------------------------- which notebooks


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks of the course in their order: NN_title.ipynb."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def select(only: Sequence[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks that `only` names by number ("5", "05") or name ("05_dpo"); all of them when it names none.

    Raises SettingsError for a name without a notebook and for a folder without notebooks.
    """
    course = notebooks(folder)
    if not course:
        raise SettingsError(f"there is no notebook in {folder.name}/: run from a complete checkout of the course")
    wanted = {name.removesuffix(".ipynb").zfill(2) for text in only for name in text.split(",")}
    chosen = [path for path in course if {path.stem, path.stem[:2]} & wanted]
    unknown = wanted - {key for path in chosen for key in (path.stem, path.stem[:2])}
    if unknown:
        names = ", ".join(path.stem for path in course)
        raise SettingsError(f"no notebook is called {min(unknown)!r}: the course has {names}")
    return chosen if only else course


# ------------------------------------------------------------------------------------------- what is up to date


def fingerprint(notebook: Path, resolved: Resolved) -> str:
    """What an executed notebook depends on, as one sha256: its cells, the settings, the helpers and the data."""
    cells = [
        [cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])]
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    ]
    given = _own_sources(resolved.settings)
    return folders.sha256_of_json([cells, resolved.settings.model_dump(), _helpers_and_data(), given])


@cache
def _helpers_and_data() -> list[str]:
    """sha256 of everything in helpers/ that makes results and of data_cache/'s manifests; read once a process."""
    sources = [path for path in sorted((ROOT / "helpers").rglob("*.*")) if path.suffix in {".py", ".toml", ".j2"}]
    used = [path for path in sources if path.name not in NOT_INSIDE_NOTEBOOKS]
    return [folders.sha256_of_file(path) for path in [*used, *sorted(DATA_CACHE.glob("*.[cj]s*"))]]


def _own_sources(settings: Settings) -> list[tuple[str, int, int]]:
    """Files of a dataset or model folder that was given, by name, size and time: reading them all would be slow."""
    given = (getattr(settings, name) for name in ("dataset", "policy", "reward_model"))
    places = [place for source in given if source and (place := locate(source))]
    files = [path for place in places for path in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]


class Ledger:
    """Which results of a run are there, and what they were made from. Kept in LEDGER, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, dict[str, Any]] = folders.read_json(folder / LEDGER)

    def is_current(self, name: str, made_from: str) -> bool:
        """True if the result was made from the same things and its files are as they were written."""
        entry = self.entries.get(name, {})
        if entry.get("fingerprint") != made_from:
            return False
        return all(self._hash(file) == expected for file, expected in entry["files"].items())

    def enter(self, name: str, made_from: str, files: Iterable[str]) -> None:
        """Note that `name` is made: its fingerprint and the sha256 of its files (relative to the run folder)."""
        self.entries[name] = {"fingerprint": made_from, "files": {file: self._hash(file) for file in files}}
        folders.write_json(self.folder / LEDGER, self.entries)

    def _hash(self, file: str) -> str | None:
        path = self.folder / file
        return folders.sha256_of_file(path) if path.is_file() else None


# ------------------------------------------------------------------------------------------------ the whole run


def run_course(
    given: dict[str, Any],
    only: Sequence[str] = (),
    force: bool = False,
    folder: Path = NOTEBOOKS,
    finish: Callable[[Run], Sequence[str]] | None = None,
) -> Run:
    """Execute the notebooks that are not up to date, in order, and finish with metrics.json and report.html.

    given: the parameters, checked before anything starts. only: some notebooks, see `select`; nothing is finished then.
    force: also what is up to date. finish(run) makes the results and returns their files, relative to the run folder.
    Raises SettingsError or DataError before anything starts, NotebookFailed at the first failing cell.
    """
    given = without_defaults(given)
    resolved, chosen = resolve(**given), select(only, folder)
    if missing := [name for name in PAPER_MODELS if name not in models_of(resolved.settings)]:
        raise SettingsError(
            f"models lacks {missing[0]}: the notebooks compare {', '.join(PAPER_MODELS)}; add others after these four "
            "(`python -m helpers train` trains any list)"
        )
    run = open_run(**given)
    print()
    lock = run.folder / "notebooks" / ".course.lock"
    lock.parent.mkdir(exist_ok=True)
    steps = [path.stem for path in chosen] + ([] if only else [RESULTS])
    alone, plainly = folders.one_at_a_time(lock, f"run {run.name}"), folders.plain_disk_errors("running the course")
    with plainly, alone, Display(steps) as display:
        ledger, made_from = Ledger(run.folder), {path.stem: fingerprint(path, resolved) for path in chosen}
        for path in chosen:
            if not force and ledger.is_current(path.stem, made_from[path.stem]):
                display.done(path.stem, "up to date")
                continue
            with display.working(path.stem):
                execute(path, given, run.folder / "notebooks" / path.name)
            ledger.enter(path.stem, made_from[path.stem], [f"notebooks/{path.name}"])
        everything = folders.sha256_of_json(made_from)
        if only:
            return run
        if not force and ledger.is_current(RESULTS, everything):
            display.done(RESULTS, "up to date")
            return run
        with display.working(RESULTS):
            files = (finish or finish_run)(run)
        ledger.enter(RESULTS, everything, files)
    return run


def without_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Drop `profile="mini"` and the like, so that the reference run is the same run however it is asked for."""
    usual = {name: Settings.model_fields[name].default for name in SWITCHES}
    return {n: v for n, v in given.items() if v is not None and not (n in usual and v == usual[n])}


def finish_run(run: Run) -> list[str]:
    """Write metrics.json and report.html of a run from its stages; returns their names."""
    from helpers import stages
    from helpers.planning import rates
    from helpers.planning.compare import learned

    s = run.settings
    content = stages.evaluation(run).to_json(profile=s.profile, recipe=s.recipe)
    run.write_json("metrics.json", content)
    report = write_report(run)  # it says what was planned, so it comes before what was learned
    rates.enter(learned(run), results_root() / rates.RATES.name)
    return ["metrics.json", report.name]


def write_report(run: Run, paper_artefacts: Path | None = None) -> Path:
    """Write report.html of a run whose stages are there; missing stages are built.

    paper_artefacts: a clone of the authors' repository, from which the paper's scores are read; else embedded ones.
    """
    from helpers import evidence, report, stages
    from helpers.planning.compare import side_by_side

    paper = evidence.gather(paper_artefacts)  # first: it tells at once when the folder is wrong
    return report.write_report(
        run.folder / "report.html",
        settings_table=run.table(),
        evaluation=stages.evaluation(run),
        scores={name: stages.scores(run, name) for name in stages.models(run)},
        logs={name: stages.training_log(run, name) for name in stages.trained(run)},
        methods={name: stages.method(run, name) for name in stages.trained(run)},
        scales={name: stages.method(run, name).scale(run.settings) for name in stages.trained(run)},
        versions=folders.versions(),
        truth=stages.truth(run),
        costs=side_by_side(run),
        paper=paper,
    )


# --------------------------------------------------------------------------------------------- the reference run


def refresh(folder: Path = NOTEBOOKS) -> list[Path]:
    """Copy the executed reference run (profile mini, recommended, seed 0) over the notebooks; returns what changed.

    Raises CourseError if that run is incomplete or older than the notebooks, helpers or data.
    """
    resolved = resolve()
    run = results_root() / resolved.run_name
    ledger = Ledger(run)
    stale = [p.stem for p in notebooks(folder) if not ledger.is_current(p.stem, fingerprint(p, resolved))]
    if stale:
        raise CourseError(f"the reference run is not up to date for {', '.join(stale)}: run `make course` first")
    changed = []
    for path in notebooks(folder):
        before = path.read_bytes()
        write_clean(run / "notebooks" / path.name, path)
        changed += [path] if path.read_bytes() != before else []
    return changed
