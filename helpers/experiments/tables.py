"""Tables of figures from many trainings, read and summarised. One row a response, or one row a training."""

import numpy as np
import pandas as pd

from helpers.core import files, statistics
from helpers.core.errors import DataError
from helpers.core.names import METRICS, SIDES
from helpers.core.profiles import DATA_CACHE
from helpers.experiments.catalogue import Job

TABLES = DATA_CACHE / "experiments"
COLUMNS = [
    "arm", "seed", "model", "decoding", "side", "prompt", "score", "calibrated", "published", "kind", "good",
    "truth", "tokens", "ended",
]  # fmt: skip
MEASURED_BY = {"oracle": "good", "reward model": "calibrated", "reward model, published cut-offs": "published"}


def load(name: str) -> pd.DataFrame:
    """The table of an experiment. Raises DataError when it is not there."""
    if not there(name):
        raise DataError(f"the table of experiment {name!r} is missing: python -m helpers sweep {name}")
    return pd.read_csv(TABLES / f"{name}.csv.gz")


def there(name: str) -> bool:
    """Whether the table of an experiment and its record are there."""
    return (TABLES / f"{name}.csv.gz").is_file() and bool(record(name))


def record(name: str) -> dict:
    """How a table was made: command, date, runs with their settings, versions, sha256; {} when there is none."""
    return files.read_json(TABLES / f"{name}.json")


def rows_of(table: pd.DataFrame, job: Job) -> pd.DataFrame:
    """The rows of one run, found by the settings that are columns of the table."""
    for name in (name for name in job.settings if name in table):
        table = table[table[name] == job.settings[name]]
    return table


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Mean HmR, HpR and CAS over the seeds, in percent, with 95 % limits over seeds and prompts.

    Rows: arm, decoding, model, metric, by (who says what is good), value, low, high, least, most (over the seeds).
    """
    rows = []
    for (arm, decoding, model), part in table.groupby(["arm", "decoding", "model"], sort=False):
        for by, column in MEASURED_BY.items():
            sides = _by_seed_and_prompt(part, column)
            for metric in METRICS:
                rows.append([arm, decoding, model, metric, by, *_summary(_of_metric(sides, metric))])
    names = ["arm", "decoding", "model", "metric", "by", "value", "low", "high", "least", "most"]
    return pd.DataFrame(rows, columns=names)


def differences(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Model b minus model a on the same seeds and prompts: columns as in `rates`, in points."""
    rows = []
    for (arm, decoding), part in table.groupby(["arm", "decoding"], sort=False):
        for by, column in MEASURED_BY.items():
            first, second = (_by_seed_and_prompt(part[part["model"] == model], column) for model in (a, b))
            gaps = {side: second[side] - first[side] for side in SIDES}
            for metric in METRICS:
                rows.append([arm, decoding, metric, by, *_summary(_of_metric(gaps, metric))])
    return pd.DataFrame(rows, columns=["arm", "decoding", "metric", "by", "value", "low", "high", "least", "most"])


def changes(table: pd.DataFrame, baseline: str, model: str) -> pd.DataFrame:
    """Every other arm minus the baseline for one model, greedy, same seeds and prompts: columns as in `rates`."""
    own = table[(table["model"] == model) & (table["decoding"] == "greedy")]
    rows = []
    for by, column in MEASURED_BY.items():
        sides = {arm: _by_seed_and_prompt(part, column) for arm, part in own.groupby("arm", sort=False)}
        for arm in (arm for arm in sides if arm != baseline):
            gaps = {side: sides[arm][side] - sides[baseline][side] for side in SIDES}
            rows += [[arm, metric, by, *_summary(_of_metric(gaps, metric))] for metric in METRICS]
    return pd.DataFrame(rows, columns=["arm", "metric", "by", "value", "low", "high", "least", "most"])


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
