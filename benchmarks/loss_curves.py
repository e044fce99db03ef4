"""Do length groups, fewer positions at the head and bfloat16 change what is learned? Held-out losses over three seeds.

python -m benchmarks.loss_curves    writes loss_curves.json and loss_curves.svg beside this file. The plain way takes
rows in random order, lets every position meet the output head and computes in float32; with length groups only
positions with a label meet the head.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import measuring
from helpers.report.plots.style import OTHERS, Picture, canvas, note, styled

PAIRS, HELD_OUT, SEEDS = 160, 64, (0, 1, 2)
AT_ONCE = 2  # trainings beside each other, with one thread each: speed is not the question here
os.environ.setdefault("OMP_NUM_THREADS", "1")
PLAIN = "random order, float32"
WAYS = {
    PLAIN: (False, "float32"),
    "length groups, float32": (True, "float32"),
    "random order, bfloat16": (False, "bfloat16"),
    "length groups, bfloat16": (True, "bfloat16"),
}
TRAININGS = {"sft": "SFT", "sft_dpo": "SFT+DPO"}


def train(groups: bool, precision: str, seed: int) -> dict[str, list[float]]:
    """Held-out losses of both trainings, one an evaluation, and their steps; the first comes before the first step.

    groups: rows in length groups, and only labelled positions meet the output head. precision: float32 or bfloat16.
    """
    from helpers import open_run
    from helpers.pipeline import stages
    from helpers.training import dpo, loop, rows, sft
    from helpers.training.samplers import LengthGroups

    def order(lengths: list[int], *more: Any) -> LengthGroups:
        # Rows of one length stay in their random order.
        return LengthGroups(lengths if groups else [0] * len(lengths), *more)

    labelled = rows.labelled_only if groups else nullcontext
    given = {"train_pairs": PAIRS, "heldout_pairs": HELD_OUT, "precision": precision}
    # The names are replaced where the trainings use them.
    with (
        tempfile.TemporaryDirectory() as results,
        mock.patch.dict(os.environ, COURSE_RESULTS=results),
        mock.patch.object(loop, "LengthGroups", order),
        mock.patch.object(sft, "labelled_only", labelled),
        mock.patch.object(dpo, "labelled_only", labelled),
    ):
        run = open_run(seed=seed, **given)
        logs = {name: stages.training_log(run, name) for name in TRAININGS}
    found = {}
    for name, log in logs.items():
        heldout = log[log["split"] == "heldout"]
        found[name] = heldout["loss"].round(5).tolist()
        found[f"{name} steps"] = heldout["step"].tolist()
    return found


def summary(curves: dict[str, list[dict[str, list[float]]]]) -> dict[str, Any]:
    """Last losses of each way, and the gap to the plain way seed by seed: same pairs, same start."""
    found: dict[str, Any] = {}
    for name, title in TRAININGS.items():
        found[title] = {}
        plain = last_losses(curves[PLAIN], name)
        for way, runs in curves.items():
            last = last_losses(runs, name)
            found[title][way] = {"last_loss": spread(last), "minus_plain": spread(last - plain)}
    return found


def last_losses(runs: list[dict[str, list[float]]], name: str) -> np.ndarray:
    """The last held-out loss of a training in each run, shape (seeds,)."""
    return np.array([run[name][-1] for run in runs])


def spread(values: np.ndarray) -> list[float]:
    """Least, mean and most."""
    return [round(float(value), 4) for value in (values.min(), values.mean(), values.max())]


@styled
def draw(curves: dict[str, list[dict[str, list[float]]]]) -> Picture:
    """A panel a training, a line a way: mean held-out loss over the seeds, least to most as a band."""
    figure, axes = canvas(1, 2, width=9.0, height=3.6, title="Held-out loss by order and precision")
    parts = []
    for ax, (name, title) in zip(axes, TRAININGS.items(), strict=True):
        for place, (way, runs) in enumerate(curves.items()):
            losses, steps = np.array([run[name] for run in runs]), runs[0][f"{name} steps"]
            style = {"color": OTHERS[place], "linestyle": ["-", "--", "-.", ":"][place]}
            ax.plot(steps, losses.mean(axis=0), marker="o", markersize=4, label=way, **style)
            ax.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=style["color"], alpha=0.12)
            parts.append(f"{title}, {way}: {losses[:, 0].mean():.3f} to {losses[:, -1].mean():.3f}")
        ax.set(title=title, xlabel="step", ylabel="held-out loss")
    axes[0].legend(frameon=False, fontsize=9)
    note(figure, f"Mean of {len(SEEDS)} seeds; band: least to most.")
    figure.alt = f"Held-out loss before and after training, means of {len(SEEDS)} seeds. " + "; ".join(parts) + "."
    return figure


def main() -> None:
    # Train every way with every seed, some at a time.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        working = {}
        for way, how in WAYS.items():
            working[way] = [pool.submit(measuring.alone, train, *how, seed) for seed in SEEDS]
    curves = {way: [one.result() for one in seeds] for way, seeds in working.items()}
    # Write the figures, and the picture of them.
    found = {"pairs": PAIRS, "held_out": HELD_OUT, "summary": summary(curves), "curves": curves}
    figure = draw(curves)
    path = measuring.keep(__file__, found | {"alt": figure.alt})
    path.with_suffix(".svg").write_bytes(figure.svg())


if __name__ == "__main__":
    main()
