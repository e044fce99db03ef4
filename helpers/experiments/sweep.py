"""A whole experiment: its runs one by one or side by side, then the table and the record of how it was made."""

import datetime
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import pandas as pd

from helpers.core import code, files, store
from helpers.core.profiles import DATA_CACHE, results_root
from helpers.experiments import tables
from helpers.experiments.catalogue import MINUTES, Job, jobs
from helpers.experiments.run_one import Measured, measure


def plan(name: str, workers: int = 1, cluster: str | None = None) -> str:
    """One line before a sweep: how many runs there are, how many are finished, and how long the others may take.

    name, workers, cluster: as in `run`. Raises SettingsError for an unknown name.
    """
    todo = jobs(name)
    finished = sum(map(_is_finished, todo))
    if cluster == "slurm":
        return f"{name}: {len(todo)} runs, {finished} finished; each is a job, of about {MINUTES[name]} minutes here"
    hours = (len(todo) - finished) * MINUTES[name] / 60 / workers
    time = f"about {hours:.1f} hours" if hours >= 1 else f"about {60 * hours:.0f} minutes"
    return f"{name}: {len(todo)} runs, {finished} finished; {time} to go with {workers} at once, on cores like ours"


def _is_finished(job: Job) -> bool:
    """Whether a run's last stage is there and whole, and all its stages were made by the code and libraries of now."""
    stages = results_root() / job.name / "stages"
    if store.damage(stages / _last_stage(job)):
        return False
    for path in stages.glob(f"[!.]*/{store.MANIFEST}"):
        record = files.read_json(path)
        if not code.is_unchanged(record.get("code"), record.get("versions")):
            return False
    return True


def _last_stage(job: Job) -> str:
    return f"scores-{job.models[-1]}" if job.models else "dpo"


def run(name: str, workers: int = 1, cluster: str | None = None, asked: Sequence[str] = ()) -> Iterator[str]:
    """Do the runs of an experiment that are not done; yield each one's name, then write the table and its record.

    workers: runs at once, with a core each where it is more than one. cluster: "slurm" for jobs of a cluster, "local"
    to try that out here, None for processes of this machine. asked: what a job of a cluster needs, such as
    "slurm_partition=gpu". Raises SettingsError for an unknown name or a cluster that is not there.
    """
    todo = jobs(name)
    # Where the runs are done.
    if cluster is None:
        measured = _here(todo, workers)
    else:
        from helpers.experiments.cluster import run as run_on_cluster  # needs submitit
        from helpers.experiments.cluster import wishes

        measured = run_on_cluster(name, todo, MINUTES[name], cluster, workers, wishes(asked))
    # They end in any order; the table has the order of the catalogue.
    results: dict[int, Measured] = {}
    for place, result in measured:
        results[place] = result
        yield todo[place].name
    _keep(name, todo, [results[place] for place in range(len(todo))])


def _here(todo: list[Job], workers: int) -> Iterator[tuple[int, Measured]]:
    """Do the runs in processes of this machine; yield (place in `todo`, what was measured) as they finish."""
    threads = None if workers == 1 else 1
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        working = {pool.submit(measure, job, threads): place for place, job in enumerate(todo)}
        try:
            for done in as_completed(working):
                yield working[done], done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _keep(name: str, todo: list[Job], results: list[Measured]) -> None:
    """Write the table, the record of how it was made, and both into the manifest of data_cache/."""
    from helpers.pipeline.data_cache import enter_in_manifest

    # The table is the same file for the same figures, whenever it is written.
    table = pd.concat([result.table for result in results], ignore_index=True)
    tables.TABLES.mkdir(exist_ok=True)
    path = tables.TABLES / f"{name}.csv.gz"
    table.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
    record = {
        "command": f"python -m helpers sweep {name}",
        "date": datetime.date.today().isoformat(),
        "rows": len(table),
        "thresholds": results[0].cuts,
        "sha256": files.sha256_of_content(path),
        "models": {part: files.content_hash(DATA_CACHE / part) for part in ("policy", "reward_model", "mini_hh")},
        **code.of_function(measure)._asdict(),
        "runs": [{"arm": job.arm, **job.settings} for job in todo],
        "held_out": [row for result in results for row in result.held_out],
    }
    files.write_json(tables.TABLES / f"{name}.json", record)
    enter_in_manifest()
