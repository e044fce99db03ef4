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
SUMMARY = ["value", "low", "high", "least", "most"]
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
    for name, value in job.settings.items():
        if name in table:
            table = table[table[name] == value]
    return table


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Mean HmR, HpR and CAS over the seeds, in percent, with 95 % limits over seeds and prompts.

    Rows: arm, decoding, model, metric, by (who says what is good), value, low, high, least, most (over the seeds).
    """
    rows = []
    for (arm, decoding, model), part in table.groupby(["arm", "decoding", "model"], sort=False):
        for by, column in MEASURED_BY.items():
            passed = _by_seed_and_prompt(part, column)
            for metric in METRICS:
                rows.append([arm, decoding, model, metric, by, *_summary(_of_metric(passed, metric))])
    return pd.DataFrame(rows, columns=["arm", "decoding", "model", "metric", "by", *SUMMARY])


def differences(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Model b minus model a on the same seeds and prompts: columns as in `rates`, in percentage points."""
    rows = []
    for (arm, decoding), part in table.groupby(["arm", "decoding"], sort=False):
        for by, column in MEASURED_BY.items():
            first = _by_seed_and_prompt(part[part["model"] == a], column)
            second = _by_seed_and_prompt(part[part["model"] == b], column)
            gaps = _minus(second, first)
            for metric in METRICS:
                rows.append([arm, decoding, metric, by, *_summary(_of_metric(gaps, metric))])
    return pd.DataFrame(rows, columns=["arm", "decoding", "metric", "by", *SUMMARY])


def changes(table: pd.DataFrame, baseline: str, model: str) -> pd.DataFrame:
    """Every other arm minus the baseline for one model, greedy, same seeds and prompts.

    Columns as in `rates`, in percentage points.
    """
    own = table[(table["model"] == model) & (table["decoding"] == "greedy")]
    rows = []
    for by, column in MEASURED_BY.items():
        passed = {arm: _by_seed_and_prompt(part, column) for arm, part in own.groupby("arm", sort=False)}
        for arm in passed:
            if arm == baseline:
                continue
            gaps = _minus(passed[arm], passed[baseline])
            for metric in METRICS:
                rows.append([arm, metric, by, *_summary(_of_metric(gaps, metric))])
    return pd.DataFrame(rows, columns=["arm", "metric", "by", *SUMMARY])


def _by_seed_and_prompt(part: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    """Side -> a column of 0 and 1, shape (seeds, prompts)."""
    found = {}
    for side in SIDES:
        own = part[part["side"] == side]
        found[side] = own.pivot(index="seed", columns="prompt", values=column).to_numpy(float)
    return found


def _minus(second: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Side -> the difference of two arms or models, prompt by prompt."""
    return {side: second[side] - first[side] for side in SIDES}


def _of_metric(values: dict[str, np.ndarray], metric: str) -> list[np.ndarray]:
    """The sides over which a metric is a mean: one for HmR and HpR, both for CAS."""
    return {"hmr": [values["harmful"]], "hpr": [values["helpful"]], "cas": list(values.values())}[metric]


def _summary(samples: list[np.ndarray]) -> list[float]:
    """The columns SUMMARY of samples, one array (seeds, prompts) a side, in percent."""
    per_seed = np.mean([sample.mean(axis=1) for sample in samples], axis=0)
    limits = statistics.crossed_limits(samples)
    return [round(100 * float(value), 2) for value in (per_seed.mean(), *limits, per_seed.min(), per_seed.max())]
