"""The command line of the course: python -m helpers run | train | plan | rehearse | report | sweep | cache | doctor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from rich.table import Table

    from helpers import console, course
    from helpers.console import explained, near, out
    from helpers.core import distributed, files, store
    from helpers.core.errors import DataError, SettingsError
    from helpers.core.profiles import ROOT, results_root
    from helpers.core.progress import Display
    from helpers.core.settings import resolve
except ModuleNotFoundError as missing:
    if __name__ != "__main__" or str(missing.name).startswith("helpers"):
        raise
    # Without these packages not even `doctor` can say what else is missing.
    package = str(missing.name).partition(".")[0]
    sys.exit(f"every command needs the package {package}, which is not installed: run `make course`")

if TYPE_CHECKING:
    from helpers.pipeline.run import Run

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Preference alignment, end to end."
)
cache = typer.Typer(no_args_is_help=True, help="The embedded data and models in data_cache/.")
app.add_typer(cache, name="cache")

Profile = Annotated[str | None, typer.Option(help="smoke, mini, local or paper")]
Recipe = Annotated[str | None, typer.Option(help="recommended or published")]
Seed = Annotated[str | None, typer.Option(help="a whole number")]
Dataset = Annotated[str | None, typer.Option(help="a folder in HH-RLHF's layout, or a hub id")]
Name = Annotated[str | None, typer.Option("--run", help="name of the run folder in results/")]
AcceptStale = Annotated[bool, typer.Option(help="use what only other code or versions made, and say so")]
Parameter = Annotated[list[str] | None, typer.Option("-p", help="any setting: -p name=value")]


@app.callback()
def one_process(context: typer.Context) -> None:
    """Preference alignment, end to end."""
    if distributed.count() > 1 and context.invoked_subcommand != "train":
        with explained(), distributed.only_first_error():
            raise SettingsError("several processes can share the trainings only: give accelerate `-m helpers train`")


# -------------------------------------------------------------------------------------------------- run


@app.command()
def run(
    profile: Profile = None,
    recipe: Recipe = None,
    seed: Seed = None,
    dataset: Dataset = None,
    name: Name = None,
    only: Annotated[list[str] | None, typer.Option(help="some notebooks: 05 or 05_dpo")] = None,
    force: Annotated[bool, typer.Option(help="execute notebooks again that are up to date")] = False,
    accept_stale: AcceptStale = False,
    parameter: Parameter = None,
) -> None:
    """Execute the notebooks in order; write metrics.json and report.html. What is up to date is not done again."""
    options = {"profile": profile, "recipe": recipe, "seed": seed, "dataset": dataset, "run": name}
    with explained():
        given = console.parameters(options, parameter)
        os.chdir(ROOT)
        _accept(accept_stale)
        done = course.run_course(given, only or (), force)
    if not only:
        metrics = files.read_json(course.results_of(done) / "metrics.json")
        places = "\n".join(near(done.folder / name) for name in ("metrics.json", "report.html"))
        out.print("", _models_table(metrics), "", places, markup=False)


@app.command()
def train(
    profile: Profile = None,
    recipe: Recipe = None,
    seed: Seed = None,
    dataset: Dataset = None,
    name: Name = None,
    only: Annotated[list[str] | None, typer.Option(help="some models: base, reward_model, sft, dpo, sft_orpo")] = None,
    accept_stale: AcceptStale = False,
    parameter: Parameter = None,
) -> None:
    """Train the models of a run without its notebooks; `accelerate launch` does it with several processes (GPUs)."""
    options = {"profile": profile, "recipe": recipe, "seed": seed, "dataset": dataset, "run": name}
    with explained(), distributed.only_first_error():
        from helpers.pipeline.train import train as train_models

        given = console.parameters(options, parameter)
        os.chdir(ROOT)
        _accept(accept_stale)
        train_models(given, only or ())


def _accept(stale: bool) -> None:
    """Let this process and the kernels of its notebooks use stages that other code or versions made."""
    if stale:
        os.environ[store.ACCEPT_STALE] = "1"


def _models_table(metrics: dict[str, Any]) -> Table:
    """The table of metrics.json: one row a model, percent with 95 % intervals."""
    from helpers.core.names import METRIC_NAMES, label

    rule = metrics["thresholds"]["rule"]
    table = Table(
        "model", *METRIC_NAMES.values(), title=f"percent [95 % interval], {rule} thresholds", title_justify="left"
    )
    for model, rates in metrics["models"].items():
        cells = []
        for metric in METRIC_NAMES:
            rate = rates[metric]
            cells.append(f"{rate['value']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]")
        table.add_row(label(model), *cells)
    return table


# ---------------------------------------------------------------------------------------- before a long run


@app.command()
def plan(
    profile: Profile = "paper",
    recipe: Recipe = None,
    dataset: Dataset = None,
    gpu: Annotated[str | None, typer.Option(help="a card, T4 or A100-80GB, or its memory, 16GB; else this one")] = None,
    name: Annotated[str | None, typer.Option("--run", help="a run that is there: planned and measured")] = None,
    parameter: Parameter = None,
) -> None:
    """Say what a run will take on a device: memory, time, disk, download, and what to change for it to fit."""
    with explained():
        from helpers.models.hardware import device_called, this_device
        from helpers.planning import compare, tables
        from helpers.planning import plan as planning

        # A run that is there: what was planned beside what was measured.
        if name is not None:
            out.print(tables.compared_table(compare.side_by_side(_opened(name))), markup=False)
            return
        # A run to come: its plan, and for profile paper those on other cards.
        given = console.parameters({"profile": profile, "recipe": recipe, "dataset": dataset}, parameter)
        settings = resolve(**given).settings
        found = planning.plan(settings, device_called(gpu) if gpu else this_device(settings.device))
        out.print(tables.plan_table(found, settings), markup=False)
        out.print(*tables.remarks(found), sep="\n", markup=False, soft_wrap=True)
        if not gpu and settings.profile == "paper":
            out.print("", tables.cards_table(planning.across_cards(settings)), markup=False)
        if not found.fits:
            raise DataError(
                f"this does not fit into {found.device.name}: lower sft_max_length, dpo_max_length or lora_rank, or "
                "take a larger card"
            )


@app.command()
def rehearse(
    folder: Annotated[Path | None, typer.Option("--out", help="where to (default: results/rehearsal)")] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="a folder with OPT's vocab.json and merges.txt")] = None,
    pairs: Annotated[int, typer.Option(min=100, help="training pairs of the dialogues that are made")] = 2000,
    steps: Annotated[int, typer.Option(min=1, help="of each training; 30 or more where speed is to be measured")] = 3,
    recipe: Recipe = None,
    record: Annotated[bool, typer.Option(help="keep the rates in helpers/planning/ too, for all plans")] = False,
    parameter: Parameter = None,
) -> None:
    """Try profile paper here without the hub: its sizes, random weights, a few steps of every stage; measure them."""
    with explained():
        from helpers.planning import rehearsal, tables

        # Paths are meant as seen from where the command was typed.
        place = (console.START / (folder or results_root() / "rehearsal").expanduser()).resolve()
        source = vocabulary and (console.START / vocabulary.expanduser()).resolve()
        os.chdir(ROOT)
        given = console.parameters({"recipe": recipe}, parameter)
        with Display(["folders", *rehearsal.STAGES]) as display:
            # Folders like the hub's, then every stage in a process of its own.
            with display.working("folders"):
                places = rehearsal.write_folders(place, pairs, source)
                given = rehearsal.settings_of(places, steps, given)
            done = []
            for stage in rehearsal.STAGES:
                with display.working(stage):
                    done += rehearsal.rehearse(place, given, [stage])
        # What was measured, beside what was planned.
        found = rehearsal.summarise(given, done, record)
        out.print("", tables.rehearsal_table(found.rows), "", sep="\n", markup=False)
        out.print(*found.sentences, sep="\n", markup=False, soft_wrap=True)


# --------------------------------------------------------------------------------------- the other commands


@app.command()
def report(
    name: Annotated[str, typer.Option("--run", help="name of the run folder in results/")] = "mini",
    paper_artefacts: Annotated[
        Path | None,
        typer.Option(help="a clone of the paper's repository: read its scores instead of the embedded ones"),
    ] = None,
    accept_stale: AcceptStale = False,
) -> None:
    """Write report.html of a run again."""
    with explained():
        _accept(accept_stale)
        run = _opened(name)
        artefacts = paper_artefacts and (console.START / paper_artefacts.expanduser()).resolve()
        out.print(near(course.write_report(run, run.folder / "report.html", artefacts)), markup=False)


def _opened(name: str) -> Run:
    """A run that is there, opened with its own settings. Raises DataError for a name that is none."""
    from helpers.pipeline.run import open_run

    # The run's own record says which settings were given.
    record = files.read_json(results_root() / name / "run.json")
    if not record:
        there = ", ".join(sorted(path.parent.name for path in results_root().glob("*/run.json"))) or "none yet"
        raise DataError(f"results/{name} is not a run folder; runs: {there}")
    values, sources = record.get("settings"), record.get("sources")
    if not (isinstance(values, dict) and isinstance(sources, dict) and sources.keys() <= values.keys()):
        raise DataError(f"results/{name}/run.json is damaged: python -m helpers run with that run's settings mends it")
    os.chdir(ROOT)
    given = {key: values[key] for key, origin in sources.items() if origin == "you"}
    # A run that was named by hand keeps that name.
    if resolve(**given).run_name != name:
        given["run"] = name
    return open_run(**given)


@app.command()
def refresh() -> None:
    """Save the outputs of the reference run (profile mini) in notebooks/; refuses if that run is not up to date."""
    with explained():
        changed = course.refresh()
    out.print("\n".join(map(near, changed)) or "the notebooks hold these outputs already", markup=False)


@app.command()
def doctor() -> None:
    """Say what this machine can run and what is missing. Needs no network and changes nothing."""
    from helpers.planning.doctor import examine

    with explained():
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
    with explained():
        from helpers import experiments

        # Without a name: which experiments there are.
        if name is None:
            for known, question in experiments.experiments().items():
                out.print(f"{known}: {len(experiments.jobs(known))} runs. {question}", markup=False, soft_wrap=True)
            return
        # Refuse what cannot be done before anything starts.
        todo = experiments.jobs(name)
        if cluster not in (None, "slurm", "local"):
            raise SettingsError(f"no cluster is called {cluster!r}: --cluster slurm, or local to try it out here")
        if ask and not cluster:
            raise SettingsError("--ask is for jobs of a cluster: give --cluster slurm too")
        # Do the runs, then write the table and the card, which states sizes and the table of seeds.
        out.print(experiments.plan(name, workers, cluster), markup=False)
        os.chdir(ROOT)
        with Display([job.name for job in todo]) as display:
            for done in experiments.run(name, workers, cluster, ask or ()):
                display.done(done, "done")
        card()
        out.print(near(experiments.TABLES / f"{name}.csv.gz"), markup=False)


@cache.command()
def build() -> None:
    """Make data_cache/ again from its seeds: the dialogues, the small policy and the small reward model."""
    with explained():
        from helpers.pipeline import data_cache

        data_cache.build()


@cache.command()
def verify() -> None:
    """Check every file of data_cache/ against its manifest."""
    with explained():
        from helpers.pipeline import data_cache

        changed = data_cache.verify()
    out.print("data_cache/ is as its manifest says", *changed, sep="\n", markup=False, soft_wrap=True)


@cache.command()
def card() -> None:
    """Write data_cache/README.md, the card of the embedded world, from its files."""
    with explained():
        from helpers.report import data_card

        out.print(near(data_card.write()), markup=False)


if __name__ == "__main__":
    app(prog_name="python -m helpers")
