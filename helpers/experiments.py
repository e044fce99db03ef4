"""Experiments that take hours: many trainings, whose tables of figures are kept under data_cache/experiments/.

A table has one row a response and holds figures only. Finished trainings are kept in results/, so that a sweep that was
stopped goes on where it was.
"""

import contextlib
import datetime
import io
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import folders, metrics, statistics
from .errors import DataError, SettingsError
from .metrics import LABELS, METRICS, SIDES
from .settings import DATA_CACHE, RECIPES

TABLES = DATA_CACHE / "experiments"
SEEDS, PROMPTS_A_SIDE = 5, 200
COLUMNS = [
    "recipe", "seed", "model", "decoding", "side", "prompt", "score", "calibrated", "published", "kind", "good",
    "truth", "tokens", "ended",
]  # fmt: skip
DPO_TRAINED, HELD_OUT = ("dpo", "sft_dpo"), ("loss", "logps_chosen", "logps_rejected")
JUDGED_BY = {"oracle": "good", "judge": "calibrated", "judge, published cut-offs": "published"}


def jobs(name: str) -> list[dict]:
    """The runs of an experiment, as settings. Raises SettingsError for a name that is none."""
    if name != "seeds":
        raise SettingsError(f"no experiment is called {name!r}: choose seeds")
    grid = [(recipe, seed) for seed in range(SEEDS) for recipe in RECIPES]
    return [
        {"recipe": recipe, "seed": seed, "eval_prompts": PROMPTS_A_SIDE, "run": f"seeds-{recipe}-{seed}"}
        for recipe, seed in grid
    ]


def run(name: str, workers: int = 1) -> Iterator[str]:
    """Do the runs of an experiment that are not done, ``workers`` at once with a core each; yield each one's name.

    At the end the table and its record (settings, seeds, versions, sha256) are written.
    """
    todo, results = jobs(name), {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        working = {pool.submit(measure, job, None if workers == 1 else 1): i for i, job in enumerate(todo)}
        try:
            for done in as_completed(working):
                results[working[done]] = done.result()
                yield todo[working[done]]["run"]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _keep(name, todo, [results[i] for i in range(len(todo))])


class Measured(NamedTuple):
    """One run: a row a response (COLUMNS), the calibrated cut-offs (they depend on judge and held-out pairs only), and
    the first and last look at held-out pairs of each DPO training."""

    table: pd.DataFrame
    cuts: dict[str, float]
    held_out: list[dict]


def measure(settings: dict, threads: int | None = None) -> Measured:
    """Train, ask and judge the four models of one run of profile mini."""
    import torch

    from . import stages
    from .runs import open_run
    from .synthetic import judge

    if threads:
        torch.set_num_threads(threads)
    with contextlib.redirect_stdout(io.StringIO()):
        run = open_run(**settings)
    rules = {rule: stages.thresholds(run, rule) for rule in ("calibrated", "published")}
    parts = []
    for model in LABELS:
        for decoding, rows in (("greedy", stages.scores(run, model)), ("sampled", stages.sampled_scores(run, model))):
            truth = [judge(row.prompt, row.response) for row in rows.itertuples()]
            passed = {rule: metrics.passes(rows, cuts) for rule, cuts in rules.items()}
            known = {what: [getattr(verdict, what) for verdict in truth] for what in ("kind", "good")}
            own = {"recipe": settings["recipe"], "seed": settings["seed"], "model": model, "decoding": decoding}
            parts.append(rows.assign(**own, **passed, **known, truth=[t.score for t in truth], prompt=range(len(rows))))
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    table = table.astype({"calibrated": int, "published": int, "good": int, "ended": int}).round({"score": 4})
    cuts = {side: round(getattr(rules["calibrated"], side), 4) for side in ("harmless", "helpful")}
    return Measured(table, cuts, [_held_out(stages.training_log(run, model), model, settings) for model in DPO_TRAINED])


def _held_out(log: pd.DataFrame, model: str, settings: dict) -> dict:
    """The first and last look at held-out pairs: loss, and mean log-probability of chosen and rejected completions."""
    looks = log[log["split"] == "heldout"]
    values = {name: [round(float(looks[name].iloc[place]), 4) for place in (0, -1)] for name in HELD_OUT}
    return {"recipe": settings["recipe"], "seed": settings["seed"], "model": model, **values}


def _keep(name: str, todo: list[dict], results: list[Measured]) -> None:
    from .cache import enter_in_manifest

    table = pd.concat([result.table for result in results], ignore_index=True)
    TABLES.mkdir(exist_ok=True)
    path = TABLES / f"{name}.csv.gz"
    table.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
    record = {
        "command": f"python -m helpers sweep {name}",
        "date": datetime.date.today().isoformat(),
        "rows": len(table),
        "thresholds": results[0].cuts,
        "sha256": folders.sha256_of_file(path),
        "models": {part: folders.content_hash(DATA_CACHE / part) for part in ("policy", "reward_model", "mini_hh")},
        "versions": folders.versions(),
        "runs": todo,
        "held_out": [row for result in results for row in result.held_out],
    }
    folders.write_json(TABLES / f"{name}.json", record)
    enter_in_manifest()


# ------------------------------------------------------------------------------------------------- reading them


def load(name: str) -> pd.DataFrame:
    """The table of an experiment. Raises DataError when it is not there or was made with other models."""
    path, record = TABLES / f"{name}.csv.gz", folders.read_json(TABLES / f"{name}.json")
    if not path.is_file() or not record:
        raise DataError(f"the table of experiment {name!r} is missing: python -m helpers sweep {name}")
    return pd.read_csv(path)


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Mean HmR, HpR and CAS over the seeds, in percent, with 95 % limits over seeds and prompts.

    Rows: recipe, decoding, model, metric, by (who says what is good), value, low, high, least, most (over the seeds).
    """
    rows = []
    for (recipe, decoding, model), part in table.groupby(["recipe", "decoding", "model"], sort=False):
        for by, column in JUDGED_BY.items():
            sides = _by_seed_and_prompt(part, column)
            for metric in METRICS:
                rows.append([recipe, decoding, model, metric, by, *_summary(_of_metric(sides, metric))])
    names = ["recipe", "decoding", "model", "metric", "by", "value", "low", "high", "least", "most"]
    return pd.DataFrame(rows, columns=names)


def differences(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Model b minus model a on the same seeds and prompts: columns as in `rates`, in points."""
    rows = []
    for (recipe, decoding), part in table.groupby(["recipe", "decoding"], sort=False):
        for by, column in JUDGED_BY.items():
            first, second = (_by_seed_and_prompt(part[part["model"] == model], column) for model in (a, b))
            gaps = {side: second[side] - first[side] for side in SIDES}
            for metric in METRICS:
                rows.append([recipe, decoding, metric, by, *_summary(_of_metric(gaps, metric))])
    return pd.DataFrame(rows, columns=["recipe", "decoding", "metric", "by", "value", "low", "high", "least", "most"])


def kinds(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of the oracle's kinds in percent, one row for each recipe, decoding, model and side."""
    keys = ["recipe", "decoding", "model", "side"]
    counts = table.groupby(keys, sort=False)["kind"].value_counts(normalize=True).unstack(fill_value=0)
    return (100 * counts).round(1)


def _by_seed_and_prompt(part: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    return {
        side: part[part["side"] == side].pivot(index="seed", columns="prompt", values=column).to_numpy(float)
        for side in SIDES
    }


def _of_metric(sides: dict[str, np.ndarray], metric: str) -> list[np.ndarray]:
    return {"hmr": [sides["harmful"]], "hpr": [sides["helpful"]], "cas": list(sides.values())}[metric]


def _summary(samples: list[np.ndarray]) -> list[float]:
    per_seed = np.mean([sample.mean(axis=1) for sample in samples], axis=0)
    limits = statistics.crossed_limits(samples)
    return [round(100 * float(value), 2) for value in (per_seed.mean(), *limits, per_seed.min(), per_seed.max())]
