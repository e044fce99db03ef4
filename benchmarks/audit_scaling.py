"""What the audit costs a row: replicated embedded pairs, perturbed so that none is a copy, and a folder of real ones.

python -m benchmarks.audit_scaling [FOLDER]    writes audit_scaling.json and audit_scaling.svg beside this file.
Each measurement has a process of its own, so that its peak of memory is its own; making the rows is not timed.
"""

import random
import resource
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks import measuring
from helpers.core.profiles import DATA_CACHE
from helpers.data import audit
from helpers.report.plots import audit as audit_plots

SIZES = (2_000, 10_000, 40_000, 160_000)
SUBSETS = ["harmless-base", "helpful-base", "helpful-online"]


def perturbed(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """n rows like the given ones: each word is another word of the same collection with chance 0.3."""
    draw = random.Random(0)
    words = " ".join(rows["chosen"].head(2_000)).split()

    def change(text: str) -> str:
        return " ".join(draw.choice(words) if draw.random() < 0.3 else word for word in text.split(" "))

    parts = [rows.iloc[i % len(rows)] for i in range(n)]
    return pd.DataFrame(
        {
            "subset": "helpful-base",
            "split": "train",
            "line": range(1, n + 1),
            "chosen": [change(row["chosen"]) for row in parts],
            "rejected": [change(row["rejected"]) for row in parts],
        }
    )


def rows_alone(n: int) -> dict[str, float]:
    rows = perturbed(audit.read(DATA_CACHE / "mini_hh", ["helpful-base"])[0], n)
    return {"rows": n} | timed(lambda: audit.detect(rows), n)


def with_labels(folder: str, labels: bool) -> dict[str, float]:
    rows = audit.read(folder, [subset for subset in SUBSETS if (Path(folder) / subset).is_dir()])[0]

    def whole() -> None:
        found = audit.detect(rows)
        if labels:
            audit.label_issues(audit.label_probability(rows.loc[audit.clean_index(found)]))

    return {"rows": len(rows), "labels too": labels} | timed(whole, len(rows))


def timed(work, n: int) -> dict[str, float]:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "microseconds_a_row": round(1e6 * seconds / n), "peak_mib": round(peak)}


def main(folder: str | None) -> None:
    found = {
        "measured": [measuring.alone(rows_alone, n) for n in SIZES],
        "real": [measuring.alone(with_labels, folder, labels) for labels in (False, True)] if folder else [],
    }
    path = measuring.keep(__file__, found, arguments="FOLDER" * bool(folder))
    path.with_suffix(".svg").write_bytes(audit_plots.scaling(pd.DataFrame(found["measured"])).svg())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
