"""Figures of the audit. As in `plots`, each carries its alt text."""

import pandas as pd

from helpers.core.text import number
from helpers.report.plots.style import ACCENT, INK, OTHERS, QUIET, Picture, canvas, note, styled


@styled
def flaw_rates(report: pd.DataFrame) -> Picture:
    """Share of rows with each flaw, a panel a subset and split, with 95 % intervals: rows of `audit.report`."""
    groups = list(report.groupby(["subset", "split"], sort=False))
    checks = list(dict.fromkeys(report["check"]))
    width = 2.6 + 2.1 * len(groups)
    figure, axes = canvas(1, len(groups), width=width, height=1.2 + 0.3 * len(checks), title="Marked rows", sharey=True)
    axes[0].set_yticks(range(len(checks)), [check.replace("_", " ") for check in checks])
    axes[0].set_ylim(len(checks) - 0.5, -0.5)
    parts = []
    for ax, ((subset, split), own) in zip(axes, groups, strict=True):
        ax.set(title=f"{subset}\n{split}", xlabel="% of rows", xlim=(0, 1.1 * max(0.5, report["high"].max())))
        ax.grid(axis="y", visible=False)
        for row, line in enumerate(own.itertuples()):
            ax.plot([line.low, line.high], [row, row], color=ACCENT, linewidth=2.5, solid_capstyle="round")
            ax.plot([line.percent], [row], "o", color=ACCENT, markersize=6)
        found = own[own["rows"] > 0]
        named = ", ".join(
            f"{c.replace('_', ' ')} {p:.2f} %" for c, p in zip(found["check"], found["percent"], strict=True)
        )
        parts.append(f"{subset} {split}: {named or 'nothing'}")
    note(figure, "Line: 95 % interval.")
    figure.alt = "Share of rows that the audit marks. " + "; ".join(parts) + "."
    return figure


@styled
def precision_recall(curves: dict[str, pd.DataFrame], title: str = "Finding wrong labels") -> Picture:
    """Precision against recall of a low P(label), a line a name: name -> `audit.precision_recall`."""
    figure, (ax,) = canvas(1, 1, width=6.4, height=3.8, title=title)
    parts = []
    for position, (name, curve) in enumerate(curves.items()):
        shown, tint = curve.iloc[19:], OTHERS[position % len(OTHERS)]
        ax.plot(shown["recall"], shown["precision"], color=tint, linewidth=2, label=name)
        base = curve["precision"].iloc[-1]
        ax.axhline(base, color=tint, linewidth=1, linestyle=(0, (4, 2)))
        half = curve.iloc[(curve["recall"] - 0.5).abs().argmin()]
        parts.append(f"{name}: at recall 0.5 precision {number(half['precision'])}, by chance {number(base)}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(frameon=False, loc="upper right")
    note(figure, "Dashed: what marking rows at random would give.")
    figure.alt = "Precision and recall of marking the rows with the lowest P(label). " + "; ".join(parts) + "."
    return figure


@styled
def strengths(probability: pd.Series) -> Picture:
    """How sure a cross-fitted preference model is of each label: near 1/2 the pair is close, below it disagrees."""
    figure, (ax,) = canvas(1, 1, width=6.4, height=3.0, title="How sure is the preference model of each label?")
    ax.hist(probability, bins=40, range=(0, 1), color=OTHERS[2], alpha=0.7)
    ax.axvline(0.5, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.set(xlabel="P(the label is right)", xlim=(0, 1), yticks=[])
    ax.text(0.25, 0.92, "disagrees", transform=ax.transAxes, ha="center", color=QUIET)
    ax.text(0.75, 0.92, "agrees", transform=ax.transAxes, ha="center", color=QUIET)
    close, against = ((probability - 0.5).abs() < 0.1).mean(), (probability < 0.5).mean()
    figure.alt = (
        f"Histogram of P(the label is right) over {len(probability):,} pairs: {close:.0%} between 0.4 and 0.6, "
        f"{against:.0%} below 0.5."
    )
    return figure


@styled
def scaling(measured: pd.DataFrame) -> Picture:
    """Cost of a row over the size of the collection: columns rows, microseconds_a_row, peak_mib."""
    figure, axes = canvas(1, 2, width=7.6, height=3.0, title="What the audit costs")
    for ax, column, name in zip(axes, ("microseconds_a_row", "peak_mib"), ("µs a row", "memory, MiB"), strict=True):
        ax.plot(measured["rows"], measured[column], "o-", color=ACCENT)
        ax.set(xlabel="rows", ylabel=name, xscale="log", ylim=(0, 1.15 * measured[column].max()))
    told = [f"{r.rows:,} rows {r.microseconds_a_row} µs a row, {r.peak_mib} MiB" for r in measured.itertuples()]
    figure.alt = "Cost of the audit. " + "; ".join(told) + "."
    return figure
