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
    """One line before a sweep: how many runs there are, how many are finished, and how long the others may take."""
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
    records = (files.read_json(path) for path in stages.glob(f"[!.]*/{store.MANIFEST}"))
    return all(code.is_unchanged(record.get("code"), record.get("versions")) for record in records)


def _last_stage(job: Job) -> str:
    return f"scores-{job.models[-1]}" if job.models else "dpo"


def run(name: str, workers: int = 1, cluster: str | None = None, asked: Sequence[str] = ()) -> Iterator[str]:
    """Do the runs of an experiment that are not done; yield each one's name.

    ``workers`` at once with a core each, on this machine; or as jobs of a ``cluster`` ("slurm", or "local" to try it
    out), for each of which ``asked`` ("slurm_partition=gpu") is asked. At the end the table and its record (settings,
    seeds, versions, sha256) are written.
    """
    todo, results = jobs(name), {}
    if cluster is None:
        measured = _here(todo, workers)
    else:
        from helpers.experiments import cluster as cluster_module
        from helpers.experiments.cluster import wishes  # needs submitit

        measured = cluster_module.run(name, todo, MINUTES[name], cluster, workers, wishes(asked))
    for place, result in measured:
        results[place] = result
        yield todo[place].name
    _keep(name, todo, [results[i] for i in range(len(todo))])


def _here(todo: list[Job], workers: int) -> Iterator[tuple[int, Measured]]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        working = {pool.submit(measure, job, None if workers == 1 else 1): i for i, job in enumerate(todo)}
        try:
            for done in as_completed(working):
                yield working[done], done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _keep(name: str, todo: list[Job], results: list[Measured]) -> None:
    from helpers.pipeline.data_cache import enter_in_manifest

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
