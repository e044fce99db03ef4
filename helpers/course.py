"""The whole course as one run: every notebook in order, then metrics.json and report.html.

results/RUN/stages/notebook-05_dpo/         the executed notebook, kept like a stage: see `helpers.core.store`
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
from functools import partial
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
    # A notebook is called by its number of two digits or by its whole name.
    wanted = {name.removesuffix(".ipynb").zfill(2) for text in only for name in text.split(",")}
    chosen, known = [], set()
    for path in course:
        own = {path.stem, path.stem[:2]}
        known |= own
        if own & wanted:
            chosen.append(path)
    if wanted - known:
        names = ", ".join(path.stem for path in course)
        raise SettingsError(f"no notebook is called {min(wanted - known)!r}: the course has {names}")
    return chosen if only else course


def parts_of(notebook: Path, settings: Settings) -> store.Parts:
    """What an executed notebook is made from: its cells, the settings, the data, and the code that its cells import."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    # Of a cell its kind, text and tags count; outputs do not.
    counted = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    made_by = code.of_cells(source for kind, source, _ in counted if kind == "code")
    inputs = {"cells": files.sha256_of_json(counted)} | _data(settings)
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


def _folder_of(run: Path, notebook: Path) -> Path:
    """The folder in which the executed notebook of a run is kept. run: the run folder."""
    return run / "stages" / f"notebook-{notebook.stem}"


def _publish(kept: Path, names: Iterable[str], out: Path, *, anew: bool) -> None:
    """Copy files from where they are kept to where they are read; without `anew` only those that are missing there."""
    out.mkdir(exist_ok=True)
    for name in names:
        if anew or not (out / name).exists():
            # The copy is whole before it takes the place of the old one.
            new = out / f".{name}.new"
            shutil.copyfile(kept / name, new)
            new.replace(out / name)


def run_course(
    given: dict[str, Any],
    only: Sequence[str] = (),
    force: bool = False,
    folder: Path = NOTEBOOKS,
    finish: Callable[[Run, Path], None] | None = None,
) -> Run:
    """Execute the notebooks that are not up to date, in order, and finish with metrics.json and report.html.

    given: the parameters, checked before anything starts. only: some notebooks, see `select`; metrics.json and
    report.html are not written then. force: also execute notebooks that are up to date. folder: where the notebooks
    are. finish(run, folder): writes the results into a folder; None: `finish_run`. Returns the run. Raises CourseError
    (packages, settings or data) before anything starts, NotebookFailed at the first failing cell.
    """
    # Refuse what cannot be done.
    extras.require_notebooks()
    given = without_defaults(given)
    settings, chosen = resolve(**given).settings, select(only, folder)
    missing = [name for name in PAPER_MODELS if name not in models_of(settings)]
    if missing:
        raise SettingsError(
            f"models lacks {missing[0]}: the notebooks compare {', '.join(PAPER_MODELS)}; add others after these four "
            "(`python -m helpers train` trains any list)"
        )
    run = open_run(**given)
    print()
    finish = finish or finish_run
    # Two courses must not execute the notebooks of one run at once.
    lock = run.folder / "notebooks" / ".course.lock"
    lock.parent.mkdir(exist_ok=True)
    steps = [path.stem for path in chosen] + ([] if only else [RESULTS])
    alone, plainly = files.one_at_a_time(lock, f"run {run.name}"), files.plain_disk_errors("running the course")
    with plainly, alone, Display(steps) as display:
        for path in chosen:
            kept = _folder_of(run.folder, path)
            build = partial(_execute_into, notebook=path, given=given, copies=run.folder / "notebooks")
            made = _step(display, path.stem, f"notebook {path.stem}", kept, parts_of(path, run.settings), build, force)
            _publish(kept, [path.name], run.folder / "notebooks", anew=made)
        if not only:
            kept = results_of(run)
            parts = _results_parts(run.settings, finish)
            made = _step(display, RESULTS, RESULTS, kept, parts, partial(finish, run), force)
            _publish(kept, store.files_of(kept), run.folder, anew=made)
    return run


def _execute_into(folder: Path, *, notebook: Path, given: dict[str, Any], copies: Path) -> None:
    """Execute a notebook into a folder; where it fails, what had run is left among the copies."""
    execute(notebook, given, folder / notebook.name, copies / f"{notebook.stem}.failed.ipynb")


def _step(
    display: Display, step: str, what: str, kept: Path, parts: store.Parts, build: Callable[[Path], None], force: bool
) -> bool:
    """One step of a run, shown: True if it was done, False if it is up to date or accepted as it is.

    what: the step in words, for messages. kept: the folder that `build` fills.
    """
    if not force and store.usable(kept, parts, what):
        display.done(step, "up to date" if store.is_current(kept, parts.fingerprint) else "used as it is")
        return False

    def other_code() -> dict[str, str]:
        """Stages that other code made, of those that are there: what was shown may come from them."""
        names = [name for name in store.accepted(kept.parent) if not name.startswith(OF_THE_COURSE)]
        return {store.OTHER_CODE: ", ".join(names)} if names else {}

    with display.working(step):
        store.make(kept, parts, build, what, again=force, also=other_code)
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
    # The report says what was planned before this run: new rates are kept only after it is written.
    write_report(run, folder / "report.html")
    throughput.keep_rates(learned(run), results_root() / throughput.RATES.name)


def write_report(run: Run, path: Path, paper_artefacts: Path | None = None) -> Path:
    """Write the report of a run whose stages are there to `path`; missing stages are built.

    paper_artefacts: a clone of the authors' repository, from which the paper's scores are read; None: the embedded ones
    are. Returns path.
    """
    from helpers.pipeline import stages
    from helpers.planning.compare import side_by_side
    from helpers.report import page, sections

    # First of all, since it raises at once when the folder is wrong.
    paper = sections.gather(paper_artefacts)
    trained = stages.trained(run)
    methods = {name: stages.method(run, name) for name in trained}
    return page.write_report(
        path,
        name=run.name,
        settings_table=run.table(),
        evaluation=stages.evaluation(run),
        scores={name: stages.scores(run, name) for name in stages.models(run)},
        logs={name: stages.training_log(run, name) for name in trained},
        methods=methods,
        scales={name: method.scale(run.settings) for name, method in methods.items()},
        versions=files.versions(),
        truth=stages.truth(run),
        costs=side_by_side(run),
        paper=paper,
        other_code=store.accepted(run.folder / "stages"),  # last: the stages above may be among them
    )


def refresh(folder: Path = NOTEBOOKS) -> list[Path]:
    """Copy the executed reference run (profile mini, recommended, seed 0) over the notebooks; returns what changed.

    Raises CourseError if that run is incomplete, or its notebooks would come out different now.
    """
    resolved = resolve()
    run = results_root() / resolved.run_name
    # All of them must be up to date.
    stale = []
    for path in notebooks(folder):
        parts = parts_of(path, resolved.settings)
        if not store.is_current(_folder_of(run, path), parts.fingerprint):
            stale.append(path.stem)
    if stale:
        raise CourseError(f"the reference run is not up to date for {', '.join(stale)}: run `make course` first")
    # Copy them.
    changed = []
    for path in notebooks(folder):
        before = path.read_bytes()
        write_clean(_folder_of(run, path) / path.name, path)
        if path.read_bytes() != before:
            changed.append(path)
    return changed
