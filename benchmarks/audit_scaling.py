"""What the audit costs a row, from 2,000 to 160,000 rows: replicated embedded pairs, perturbed so that none is a copy.

python benchmarks/audit_scaling.py    writes audit_scaling.json beside this file: seconds, microseconds a row, memory.
"""

import datetime
import json
import os
import platform
import random
import resource
import time
from pathlib import Path

import pandas as pd

from helpers import audit, folders
from helpers.settings import DATA_CACHE

SIZES = (2_000, 10_000, 40_000, 160_000)


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


def main() -> None:
    rows, _ = audit.read(DATA_CACHE / "mini_hh", ["helpful-base"])
    measured = []
    for n in SIZES:
        more = perturbed(rows, n)
        start = time.perf_counter()
        audit.detect(more)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        measured.append({"rows": n, "seconds": round(seconds, 2), "microseconds_a_row": round(1e6 * seconds / n)})
        measured[-1]["peak_mib"] = round(peak)
        print(measured[-1], flush=True)
    record = {
        "command": "python benchmarks/audit_scaling.py",
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": folders.versions(),
        "measured": measured,
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
