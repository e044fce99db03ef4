"""Figures about the paper and about experiments of many trainings. As in `plots`, each carries its alt text."""

import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm

from helpers.core.methods import PAPER_MODELS
from helpers.core.names import METRIC_NAMES, METRICS, SIDES, label
from helpers.core.text import number
from helpers.evaluation.metrics import Evaluation
from helpers.experiments.dpo_puzzle import LN_2
from helpers.report.paper.claims import LEVEL
from helpers.report.plots.style import (
    ACCENT,
    INK,
    OTHERS,
    QUIET,
    REJECTED,
    Picture,
    canvas,
    colour,
    marker,
    note,
    styled,
)


@styled
def differences(evaluation: Evaluation, title: str) -> Picture:
    """Every pair of models in each metric: the difference in points with its 95 % interval; filled where it holds."""
    pairs = list(dict.fromkeys((c.a, c.b) for c in evaluation.comparisons))
    figure, axes = canvas(1, 3, width=9.6, height=1.2 + 0.4 * len(pairs), title=title, sharey=True)
    places = {model: place for place, model in enumerate(evaluation.models)}
    axes[0].set_yticks(range(len(pairs)), [f"{label(b)} − {label(a)}" for a, b in pairs])
    axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    parts = []
    for ax, metric in zip(axes, METRICS, strict=True):
        ax.axvline(0, color=INK, linewidth=1.2)
        ax.set(title=METRIC_NAMES[metric], xlabel="points")
        ax.grid(axis="y", visible=False)
        for c in (c for c in evaluation.comparisons if c.metric == metric):
            row, holds = pairs.index((c.a, c.b)), c.p_adjusted < LEVEL
            tint = colour(c.b, places[c.b])
            ax.plot([c.low, c.high], [row, row], color=tint, linewidth=2.5, solid_capstyle="round")
            fill = tint if holds else "white"
            ax.plot([c.difference], [row], "o", color=tint, markerfacecolor=fill, markersize=8)
            mark = "holds" if holds else "not told apart"
            parts.append(f"{METRIC_NAMES[metric]} {label(c.b)} − {label(c.a)} {number(c.difference, 1)} ({mark})")
    note(figure, "Line: 95 % interval. Filled: holds after Holm's correction. Hollow: not told apart.")
    figure.alt = f"{title}, in points: " + "; ".join(parts) + "."
    return figure


@styled
def threshold_map(lead: pd.DataFrame) -> Picture:
    """`reanalysis.threshold_map` as a map: where SFT+DPO leads in CAS and where another model does."""
    figure, (ax,) = canvas(1, 1, width=6.4, height=4.9, title="CAS of SFT+DPO minus the best other model")
    xs, ys, values = lead.columns.to_numpy(float), lead.index.to_numpy(float), lead.to_numpy()
    reach = max(1.0, np.abs(values).max())
    mesh = ax.pcolormesh(xs, ys, values, cmap="PuOr", norm=TwoSlopeNorm(0, -reach, reach), shading="nearest")
    ax.plot([-3], [-2], "o", color=INK, markerfacecolor="white", markersize=9)
    ax.annotate("the paper's cut-offs", (-3, -2), (8, 8), textcoords="offset points", fontsize=9.5)
    ax.set(xlabel="cut-off on harmful prompts", ylabel="cut-off on helpful prompts")
    ax.grid(visible=False)
    figure.colorbar(mesh, ax=ax, label="points")
    here = number(float(lead.iloc[np.abs(ys + 2).argmin(), np.abs(xs + 3).argmin()]), 1)
    lowest, highest = number(values.min(), 1), number(values.max(), 1)
    figure.alt = (
        "CAS of SFT+DPO minus the best other model for every pair of cut-offs. It leads at "
        f"{(values > 0).mean():.0%} of them; from {lowest} to {highest} points, {here} at the paper's cut-offs."
    )
    return figure


@styled
def score_and_length(rows: pd.DataFrame) -> Picture:
    """Score against length of every published response, by side and model."""
    figure, axes = canvas(1, 2, width=9.6, height=3.6, title="Score against length of the response", sharey=True)
    parts = []
    for ax, side in zip(axes, SIDES, strict=True):
        for model in PAPER_MODELS:
            own = rows[(rows["side"] == side) & (rows["model"] == model)]
            style = {"color": colour(model), "marker": marker(model), "s": 20, "alpha": 0.6, "linewidth": 0}
            ax.scatter(own["characters"], own["score"], label=label(model), **style)
        rho = rows[rows["side"] == side][["characters", "score"]].corr(method="spearman").iloc[0, 1]
        parts.append(f"{side} prompts, all models: Spearman's correlation {number(rho)}")
        ax.set(title=f"{side.capitalize()} prompts", xlabel="characters")
    axes[0].set_ylabel("score")
    axes[1].legend(frameon=False, fontsize=9.5, labelcolor=QUIET)
    figure.alt = "Reward-model score against length of the 400 published responses. " + "; ".join(parts) + "."
    return figure


@styled
def published_losses(curves: dict) -> Picture:
    """The training loss of DPO and SFT+DPO as the authors logged it, means of tenths of the run, against ln 2."""
    figure, (ax,) = canvas(1, 1, width=7.2, height=3.4, title="The paper's DPO training loss")
    ax.axhline(LN_2, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.annotate("ln 2", (10.4, LN_2), (0, 4), textcoords="offset points", fontsize=10)
    parts = []
    for model in ("dpo", "sft_dpo"):
        tenths = curves[model]["tenths"]
        ax.plot(range(1, 11), tenths, color=colour(model), marker=marker(model), linewidth=2)
        ax.annotate(label(model), (1, tenths[0]), (0, 8), textcoords="offset points", color=colour(model))
        above = sum(loss > LN_2 for loss in tenths)
        parts.append(f"{label(model)} from {tenths[0]} to {tenths[-1]}, {above} of 10 tenths above ln 2")
    ax.set(xlabel="tenth of the training", ylabel="mean loss", xticks=range(1, 11), xlim=(0.6, 10.9))
    figure.alt = "Mean training loss by tenths of the run: " + "; ".join(parts) + "."
    return figure


@styled
def puzzle(runs: pd.DataFrame) -> Picture:
    """Loss of every run of the DPO experiment: in training (dropout as set) and held out (without), a row an arm.

    runs: `experiments.puzzle.summarise(table)`.
    """
    keys = ["lora_targets", "dpo_learning_rate", "dropout", "dpo_reference"]
    arms = runs.sort_values(keys, kind="stable")[keys].drop_duplicates().to_records(index=False).tolist()
    figure, axes = canvas(1, 2, width=9.6, height=1.4 + 0.3 * len(arms), title="What moves the DPO loss", sharey=True)
    names = [f"{t}, rate {rate:g}, dropout {d:g}, {ref}" for t, rate, d, ref in arms]
    axes[0].set_yticks(range(len(arms)), names, fontsize=9)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    parts = []
    for ax, column, title in zip(axes, ("train_loss", "heldout_loss"), ("Mean in training", "Held out"), strict=True):
        ax.axvline(LN_2, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        ax.set(title=title, xlabel="loss (dashed: ln 2)")
        for row, arm in enumerate(arms):
            values = runs[(runs[keys] == list(arm)).all(axis=1)][column]
            tint = REJECTED if arm[2] else ACCENT
            ax.scatter(values, [row] * len(values), color=tint, s=26, alpha=0.8, linewidth=0)
    for arm, name in zip(arms, names, strict=True):
        own = runs[(runs[keys] == list(arm)).all(axis=1)]
        parts.append(f"{name}: {own['train_loss'].mean():.3f} in training, {own['heldout_loss'].mean():.3f} held out")
    note(figure, "A dot is a seed. Red: OPT's dropout on. Green: off.")
    figure.alt = "DPO loss by arm, means over seeds. " + "; ".join(parts) + "."
    return figure


@styled
def arms(changes: pd.DataFrame, title: str, unit: str = "points of CAS") -> Picture:
    """Changes against a baseline, a row an arm, by oracle and judge. changes: columns arm, by, value, low, high."""
    names = list(dict.fromkeys(changes["arm"]))
    figure, (ax,) = canvas(1, 1, width=8.2, height=1.3 + 0.5 * len(names), title=title)
    ax.axvline(0, color=INK, linewidth=1.2)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    parts = []
    for by, shift, tint in (("reward model", -0.14, OTHERS[2]), ("oracle", 0.14, ACCENT)):
        for row, name in enumerate(names):
            own = changes[(changes["arm"] == name) & (changes["by"] == by)].iloc[0]
            ax.plot([own["low"], own["high"]], [row + shift] * 2, color=tint, linewidth=2.5, solid_capstyle="round")
            fill = tint if by == "reward model" else "white"
            ax.plot([own["value"]], [row + shift], "o", color=tint, markersize=8, markerfacecolor=fill)
            limits = f"[{number(own['low'], 1)}, {number(own['high'], 1)}]"
            parts.append(f"{name} by the {by} {number(own['value'], 1)} {limits}")
    ax.set_xlabel(unit)
    note(figure, "Filled: by the judge. Hollow: by the oracle. Line: 95 % interval over seeds and prompts.")
    figure.alt = f"{title}, {unit}: " + "; ".join(parts) + "."
    return figure
