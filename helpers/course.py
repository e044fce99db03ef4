"""The whole course as one run: every notebook in order, then metrics.json and report.html.

results/RUN/stages/notebook-05_dpo/         the executed notebook, kept like a stage: see store.py
results/RUN/stages/results/                 metrics.json and report.html, too
results/RUN/notebooks/05_dpo.ipynb          a copy of the executed notebook, to be read and worked in
results/RUN/notebooks/05_dpo.failed.ipynb   what had run when it stopped, error included
results/RUN/metrics.json, report.html       copies of the results

A copy is the reader's: an edited one stays as it is until its notebook is executed again, a missing one is put back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers.core import code, extras, files, store
from helpers.core.errors import CourseError, SettingsError
from helpers.core.files import content_hash, sha256_of_file, sha256_of_json
from helpers.core.methods import PAPER_MODELS, models_of
from helpers.core.profiles import DATA_CACHE, ROOT, results_root
from helpers.core.progress import Display
from helpers.core.settings import Settings, resolve
from helpers.notebooks import execute, write_clean
from helpers.pipeline.parameters import without_defaults
from helpers.pipeline.run import OF_THE_COURSE, Run, open_run
from helpers.pipeline.sources import locate

NOTEBOOKS = ROOT / "notebooks"
RESULTS = "metrics and report"  # the last step of a whole run


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


def parts_of(notebook: Path, settings: Settings) -> store.Parts:
    """What an executed notebook is made from: its cells, the settings, the data, and the code that its cells import."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    made_by = code.of_cells(source for kind, source, _ in shown if kind == "code")
    inputs = {"cells": files.sha256_of_json(shown)} | _data(settings)
    return store.Parts(settings.model_dump(), inputs, made_by.code, made_by.versions)


def _results_parts(settings: Settings, finish: Callable[..., Any]) -> store.Parts:
    """What metrics.json and report.html are made from."""
    made_by = code.of_function(finish)
    return store.Parts(settings.model_dump(), _data(settings), made_by.code, made_by.versions)


def _data(settings: Settings) -> dict[str, str]:
    """The content of data_cache/, by its manifest and its own tables, and of the folders that were given."""
    files = store.files_of(DATA_CACHE)
    inputs = {"data_cache": sha256_of_json({name: entry["sha256"] for name, entry in files.items()})}
    inputs |= {path.name: sha256_of_file(path) for path in sorted(DATA_CACHE.glob("published*"))}
    for name in ("dataset", "policy", "reward_model"):
        source = getattr(settings, name)
        if source and (place := locate(source)):
            inputs[name] = content_hash(place)
    return inputs


def _thing(run: Path, notebook: Path) -> Path:
    """The folder in which the executed notebook of a run is kept."""
    return run / "stages" / f"notebook-{notebook.stem}"


def _publish(thing: Path, names: Iterable[str], out: Path, *, anew: bool) -> None:
    """Copy files of a thing to where they are read; without `anew` only those that are missing there."""
    out.mkdir(exist_ok=True)
    for name in names:
        if anew or not (out / name).exists():
            new = out / f".{name}.new"
            shutil.copyfile(thing / name, new)
            new.replace(out / name)


def run_course(
    given: dict[str, Any],
    only: Sequence[str] = (),
    force: bool = False,
    folder: Path = NOTEBOOKS,
    finish: Callable[[Run, Path], None] | None = None,
) -> Run:
    """Execute the notebooks that are not up to date, in order, and finish with metrics.json and report.html.

    given: the parameters, checked before anything starts. only: some notebooks, see `select`; nothing is finished then.
    force: also what is up to date. finish(run, folder) writes the results into a folder.
    Raises CourseError (packages, settings or data) before anything starts, NotebookFailed at the first failing cell.
    """
    extras.require_notebooks()
    given = without_defaults(given)
    settings, chosen = resolve(**given).settings, select(only, folder)
    if missing := [name for name in PAPER_MODELS if name not in models_of(settings)]:
        raise SettingsError(
            f"models lacks {missing[0]}: the notebooks compare {', '.join(PAPER_MODELS)}; add others after these four "
            "(`python -m helpers train` trains any list)"
        )
    run = open_run(**given)
    print()
    finish = finish or finish_run
    lock = run.folder / "notebooks" / ".course.lock"
    lock.parent.mkdir(exist_ok=True)
    steps = [path.stem for path in chosen] + ([] if only else [RESULTS])
    alone, plainly = files.one_at_a_time(lock, f"run {run.name}"), files.plain_disk_errors("running the course")
    with plainly, alone, Display(steps) as display:
        for path in chosen:
            failed = run.folder / "notebooks" / f"{path.stem}.failed.ipynb"
            made = _step(
                display, path.stem, f"notebook {path.stem}", _thing(run.folder, path), parts_of(path, run.settings),
                lambda thing, path=path, failed=failed: execute(path, given, thing / path.name, failed), force,
            )  # fmt: skip
            _publish(_thing(run.folder, path), [path.name], run.folder / "notebooks", anew=made)
        if not only:
            thing = results_of(run)
            made = _step(
                display, RESULTS, RESULTS, thing, _results_parts(run.settings, finish),
                lambda thing: finish(run, thing), force,
            )  # fmt: skip
            _publish(thing, store.files_of(thing), run.folder, anew=made)
    return run


def _step(
    display: Display, step: str, what: str, thing: Path, parts: store.Parts, build: Callable[[Path], None], force: bool
) -> bool:
    """One step of a run, shown: True if it was done, False if it is up to date or accepted as it is."""
    if not force and store.usable(thing, parts, what):
        display.done(step, "up to date" if store.is_current(thing, parts.fingerprint) else "used as it is")
        return False

    def other_code() -> dict[str, str]:
        """Stages that other code made, of those that are there: what was shown may come from them."""
        names = [name for name in store.accepted(thing.parent) if not name.startswith(OF_THE_COURSE)]
        return {store.OTHER_CODE: ", ".join(names)} if names else {}

    with display.working(step):
        store.make(thing, parts, build, what, again=force, also=other_code)
    return True


def results_of(run: Run) -> Path:
    """The folder in which metrics.json and report.html of a run are kept."""
    return run.folder / "stages" / "results"


def finish_run(run: Run, folder: Path) -> None:
    """Write metrics.json and report.html of a run into a folder, from its stages; missing ones are built."""
    from helpers.evaluation.metrics_file import metrics_json
    from helpers.pipeline import stages
    from helpers.planning import throughput
    from helpers.planning.compare import learned
    from helpers.report.paper.published_figures import published

    s = run.settings
    rates_of_paper = published()["table1"]["models"]
    content = metrics_json(stages.evaluation(run), profile=s.profile, recipe=s.recipe, published=rates_of_paper)
    files.write_json(folder / "metrics.json", content)
    write_report(run, folder / "report.html")  # it says what was planned, so it comes before what was learned
    throughput.keep_rates(learned(run), results_root() / throughput.RATES.name)


def write_report(run: Run, path: Path, paper_artefacts: Path | None = None) -> Path:
    """Write the report of a run whose stages are there to `path`; missing stages are built.

    paper_artefacts: a clone of the authors' repository, from which the paper's scores are read; else embedded ones.
    """
    from helpers.pipeline import stages
    from helpers.planning.compare import side_by_side
    from helpers.report import page, sections

    paper = sections.gather(paper_artefacts)  # first: it tells at once when the folder is wrong
    return page.write_report(
        path,
        name=run.name,
        settings_table=run.table(),
        evaluation=stages.evaluation(run),
        scores={name: stages.scores(run, name) for name in stages.models(run)},
        logs={name: stages.training_log(run, name) for name in stages.trained(run)},
        methods={name: stages.method(run, name) for name in stages.trained(run)},
        scales={name: stages.method(run, name).scale(run.settings) for name in stages.trained(run)},
        versions=files.versions(),
        truth=stages.truth(run),
        costs=side_by_side(run),
        paper=paper,
        other_code=store.accepted(run.folder / "stages"),  # last: what is asked for above may be accepted
    )


def refresh(folder: Path = NOTEBOOKS) -> list[Path]:
    """Copy the executed reference run (profile mini, recommended, seed 0) over the notebooks; returns what changed.

    Raises CourseError if that run is incomplete, or its notebooks would come out different now.
    """
    resolved = resolve()
    run = results_root() / resolved.run_name
    made_from = {path: parts_of(path, resolved.settings).fingerprint for path in notebooks(folder)}
    stale = [path.stem for path in made_from if not store.is_current(_thing(run, path), made_from[path])]
    if stale:
        raise CourseError(f"the reference run is not up to date for {', '.join(stale)}: run `make course` first")
    changed = []
    for path in notebooks(folder):
        before = path.read_bytes()
        write_clean(_thing(run, path) / path.name, path)
        changed += [path] if path.read_bytes() != before else []
    return changed
