"""The command line of the course: python -m helpers run | report | refresh | sweep | cache | doctor."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from helpers import course, folders, processes
from helpers.errors import CourseError, DataError, SettingsError
from helpers.execution import NotebookFailed
from helpers.progress import Display
from helpers.settings import ROOT, Settings, resolve, results_root

START = Path.cwd()  # where the command was typed; notebooks run in the project root
PLACES = ("dataset", "policy", "reward_model", "outside_labels")  # settings that may be a path

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Preference alignment, end to end."
)
cache = typer.Typer(no_args_is_help=True, help="The embedded data and models in data_cache/.")
app.add_typer(cache, name="cache")
out, err = Console(highlight=False), Console(stderr=True, highlight=False)


@app.callback()
def one_process(context: typer.Context) -> None:
    """Preference alignment, end to end."""
    if processes.count() > 1 and context.invoked_subcommand != "train":
        with _explained(), processes.one_voice():
            raise SettingsError("several processes can share the trainings only: give accelerate `-m helpers train`")


# -------------------------------------------------------------------------------------------------- run


@app.command()
def run(
    profile: Annotated[str | None, typer.Option(help="smoke, mini, local or paper")] = None,
    recipe: Annotated[str | None, typer.Option(help="recommended or published")] = None,
    seed: Annotated[str | None, typer.Option(help="a whole number")] = None,
    dataset: Annotated[str | None, typer.Option(help="a folder in HH-RLHF's layout, or a hub id")] = None,
    name: Annotated[str | None, typer.Option("--run", help="name of the run folder in results/")] = None,
    only: Annotated[list[str] | None, typer.Option(help="some notebooks: 05 or 05_dpo")] = None,
    force: Annotated[bool, typer.Option(help="execute notebooks again that are up to date")] = False,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="any setting: -p name=value")] = None,
) -> None:
    """Execute the notebooks in order; write metrics.json and report.html. What is up to date is not done again."""
    options = {"profile": profile, "recipe": recipe, "seed": seed, "dataset": dataset, "run": name}
    with _explained():
        pairs = [f"{key}={value}" for key, value in options.items() if value is not None] + (parameter or [])
        given = _parameters(pairs)
        os.chdir(ROOT)
        done = course.run_course(given, only or (), force)
    metrics, report = done.folder / "metrics.json", done.folder / "report.html"
    if not only:
        out.print("", _four_models(folders.read_json(metrics)), "", f"{_near(metrics)}\n{_near(report)}", markup=False)


@app.command()
def train(
    profile: Annotated[str | None, typer.Option(help="smoke, mini, local or paper")] = None,
    recipe: Annotated[str | None, typer.Option(help="recommended or published")] = None,
    seed: Annotated[str | None, typer.Option(help="a whole number")] = None,
    dataset: Annotated[str | None, typer.Option(help="a folder in HH-RLHF's layout, or a hub id")] = None,
    name: Annotated[str | None, typer.Option("--run", help="name of the run folder in results/")] = None,
    only: Annotated[list[str] | None, typer.Option(help="some models: base, reward_model, sft, dpo, sft_dpo")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="any setting: -p name=value")] = None,
) -> None:
    """Train the models of a run without its notebooks; `accelerate launch` does it with several processes (GPUs)."""
    options = {"profile": profile, "recipe": recipe, "seed": seed, "dataset": dataset, "run": name}
    with _explained(), processes.one_voice():
        from helpers import launch

        pairs = [f"{key}={value}" for key, value in options.items() if value is not None] + (parameter or [])
        given = _parameters(pairs)
        os.chdir(ROOT)
        launch.train(given, only or ())


def _parameters(pairs: list[str]) -> dict[str, Any]:
    """["beta=5e-2", ...] as typed values. A value that does not fit stays text, so that `resolve` can explain it."""
    given: dict[str, Any] = {}
    for pair in pairs:
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
    if name in PLACES and (place := Path(text).expanduser()).exists():
        return os.path.relpath(place.resolve(), ROOT)
    try:
        return TypeAdapter(field.annotation).validate_strings(text)
    except ValidationError:
        return text


def _four_models(metrics: dict[str, Any]) -> Table:
    """The table of metrics.json: one row a model, percent with 95 % intervals."""
    from helpers.metrics import METRIC_NAMES, label

    rule = metrics["thresholds"]["rule"]
    table = Table(
        "model", *METRIC_NAMES.values(), title=f"percent [95 % interval], {rule} thresholds", title_justify="left"
    )
    for model, rates in metrics["models"].items():
        cells = [f"{r['value']:.1f} [{r['low']:.1f}, {r['high']:.1f}]" for r in (rates[m] for m in METRIC_NAMES)]
        table.add_row(label(model), *cells)
    return table


# --------------------------------------------------------------------------------------- the other commands


@app.command()
def report(
    name: Annotated[str, typer.Option("--run", help="name of the run folder in results/")] = "mini",
    paper_artefacts: Annotated[
        Path | None,
        typer.Option(help="a clone of the paper's repository: read its scores instead of the embedded ones"),
    ] = None,
) -> None:
    """Write report.html of a run again."""
    from helpers.runs import open_run

    with _explained():
        record = folders.read_json(results_root() / name / "run.json")
        if not record:
            there = ", ".join(sorted(path.parent.name for path in results_root().glob("*/run.json"))) or "none yet"
            raise DataError(f"results/{name} is not a run folder; runs: {there}")
        os.chdir(ROOT)
        given = {key: record["settings"][key] for key, origin in record["sources"].items() if origin == "you"}
        if resolve(**given).run_name != name:
            given["run"] = name
        artefacts = paper_artefacts and (START / paper_artefacts.expanduser()).resolve()
        out.print(_near(course.write_report(open_run(**given), artefacts)), markup=False)


@app.command()
def refresh() -> None:
    """Save the outputs of the reference run (profile mini) in notebooks/; refuses if that run is not up to date."""
    with _explained():
        changed = course.refresh()
    out.print("\n".join(map(_near, changed)) or "the notebooks hold these outputs already", markup=False)


@app.command()
def doctor() -> None:
    """Say what this machine can run and what is missing. Needs no network and changes nothing."""
    from helpers.doctor import examine

    with _explained():
        raise typer.Exit(0 if examine(out) else 1)


@app.command()
def sweep(
    name: Annotated[str | None, typer.Argument(help="which experiment; without one, all are named")] = None,
    workers: Annotated[int, typer.Option(min=1, help="runs at once; with more than one, each has one core")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="slurm: each run is a job of the cluster; local: try that")
    ] = None,
    ask: Annotated[list[str] | None, typer.Option(help="what a job needs: --ask slurm_partition=gpu")] = None,
) -> None:
    """Do an experiment of many trainings (hours) and keep its table in data_cache/experiments/. Stopped ones go on."""
    with _explained():
        from helpers import experiments

        if name is None:
            for known, question in experiments.experiments().items():
                out.print(f"{known}: {len(experiments.jobs(known))} runs. {question}", markup=False, soft_wrap=True)
            return
        todo = experiments.jobs(name)
        if cluster not in (None, "slurm", "local"):
            raise SettingsError(f"no cluster is called {cluster!r}: --cluster slurm, or local to try it out here")
        if ask and not cluster:
            raise SettingsError("--ask is for jobs of a cluster: give --cluster slurm too")
        out.print(experiments.plan(name, workers, cluster), markup=False)
        os.chdir(ROOT)
        with Display([job.name for job in todo]) as display:
            for done in experiments.run(name, workers, cluster, ask or ()):
                display.done(done, "done")
        card()  # it states sizes and the table of seeds
        out.print(_near(experiments.TABLES / f"{name}.csv.gz"), markup=False)


@cache.command()
def build() -> None:
    """Make data_cache/ again from its seeds: the dialogues, the small policy and the small reward model."""
    with _explained():
        from helpers import cache as data_cache

        data_cache.build()


@cache.command()
def verify() -> None:
    """Check every file of data_cache/ against its manifest."""
    with _explained():
        from helpers import cache as data_cache

        data_cache.verify()
    out.print("data_cache/ is as its manifest says")


@cache.command()
def card() -> None:
    """Write data_cache/README.md, the card of the embedded world, from its files."""
    with _explained():
        from helpers import card as world_card

        out.print(_near(world_card.write()), markup=False)


# --------------------------------------------------------------------------------------------------- errors


@contextmanager
def _explained() -> Iterator[None]:
    """Errors as one red line. Exit code 2: mend the parameters or the data; 1: it stopped while working."""
    try:
        yield
    except NotebookFailed as error:
        _red(str(error))
        if error.copy:
            err.print(f"what had run: {_near(error.copy)}", markup=False, soft_wrap=True)
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


def _near(path: Path) -> str:
    """A path as seen from where the command was typed, if that is shorter."""
    return min(str(path), os.path.relpath(path, START), key=len)


if __name__ == "__main__":
    app(prog_name="python -m helpers")
