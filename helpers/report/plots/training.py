"""Figures of a training: its log drawn as small panels, training as lines and evaluations on held-out data as dots.

In all of them log: one row an event, columns step, split ("train" or "heldout") and the figures of that event. Losses
and log-probabilities are in nats, lengths in tokens. Raises DataError when the log has no figure that could be drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from helpers.core.errors import DataError
from helpers.core.methods import Scale
from helpers.core.text import number
from helpers.report.plots.style import ACCENT, CHOSEN, INK, QUIET, REJECTED, Picture, canvas, note, styled

TITLES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "entropy": "Entropy",
    "rewards_accuracies": "Reward accuracy",
    "rewards_margins": "Reward margin",
    "generated_length": "Generated length",
    "eos_rate": "Answers that end",
}
UNITS = {"generated_length": "tokens", "eos_rate": "share with EOS", "rewards_accuracies": "share of pairs"}


@dataclass(frozen=True)
class Panel:
    """One small plot: columns of the log with the name and colour of each line, and a level to compare with."""

    title: str
    lines: tuple[tuple[str, str, str], ...]  # (column, name, colour)
    unit: str = ""
    level: tuple[float, str] | None = None

    def columns_in(self, log: pd.DataFrame) -> list[tuple[str, str, str]]:
        """The lines of this panel for which the log holds any number."""
        return [line for line in self.lines if line[0] in log and log[line[0]].notna().any()]


REWARDS = (("rewards_chosen", "chosen", CHOSEN), ("rewards_rejected", "rejected", REJECTED))
LOG_PROBS = (("logps_chosen", "chosen", CHOSEN), ("logps_rejected", "rejected", REJECTED))


def _preference_panels(scale: Scale) -> tuple[Panel, ...]:
    """The dashboard of a training on preference pairs."""
    margins = ("rewards_margins", "margin", ACCENT)
    return (
        Panel("Loss", (("loss", "", INK),), level=scale.level),
        Panel("Implicit rewards", (*REWARDS, margins), level=(0.0, "")),
        Panel("Reward accuracy", (("rewards_accuracies", "", INK),), "share of pairs", (0.5, "chance")),
        Panel("Log-probabilities", LOG_PROBS, scale.unit),
        Panel(TITLES["generated_length"], (("generated_length", "", INK),), "tokens"),
        Panel(TITLES["eos_rate"], (("eos_rate", "", INK),), "share with EOS"),
    )


def dpo_dashboard(log: pd.DataFrame, title: str = "DPO training", scale: Scale | None = None) -> Picture:
    """The dashboard of a preference training: loss, rewards, accuracy, log-probabilities, length, EOS rate.

    scale: `Method.scale(settings)`, which says what the loss is compared with; DPO's, ln 2, unless given.
    The log-probabilities of chosen and rejected completions are both drawn: a margin that grows while both fall is
    likelihood displacement (arXiv 2410.08847), which the margin alone hides.
    """
    scale = scale or Scale()
    remark = f" {scale.level[1]} is the loss of a policy that equals its reference." if scale.level else ""
    return _draw(log, _preference_panels(scale), title, remark)


def sft_curves(log: pd.DataFrame, title: str = "SFT training") -> Picture:
    """Token cross-entropy of an SFT run on training and held-out data, generated length, share of answers that end."""
    return training_curves(log, ["loss", "generated_length", "eos_rate"], title)


def training_curves(log: pd.DataFrame, columns: Sequence[str] = ("loss",), title: str = "Training") -> Picture:
    """One panel for each of the columns of a training log, in their order."""
    # A column without a title of its own is called by its name
    panels = []
    for column in columns:
        heading = TITLES.get(column, column.replace("_", " "))
        panels.append(Panel(heading, ((column, "", INK),), UNITS.get(column, "")))
    return _draw(log, panels, title)


@styled
def _draw(log: pd.DataFrame, panels: Sequence[Panel], title: str, remark: str = "") -> Picture:
    """All panels that the log has numbers for, three in a row; the alt text gives first and last values."""
    shown = [panel for panel in panels if panel.columns_in(log)]
    if not shown:
        wanted = ", ".join(line[0] for panel in panels for line in panel.lines)
        raise DataError(f"the training log has none of the columns {wanted}: train the model again to log them")
    # Small plots, three in a row; places that no panel needs stay empty
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = canvas(rows, columns, width=max(4.6, 3.3 * columns), height=0.8 + 2.3 * rows, title=title)
    said = []
    for ax, panel in zip(axes, shown, strict=False):
        said += _panel(ax, log, panel)
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    # In words
    note(figure, "Line: training. Dots: held-out data." + remark)
    last = log["step"].max()
    figure.alt = f"{title}, {last:.0f} steps. From first to last value: " + "; ".join(said) + "."
    return figure


def _panel(ax: Axes, log: pd.DataFrame, panel: Panel) -> list[str]:
    """Draw one panel; returns what it shows, one phrase a line ("loss 0.69 to 0.58 on held-out data")."""
    lines = panel.columns_in(log)
    said, ends = [], []
    # The lines, and what they show in words
    for column, name, colour in lines:
        last, values = _line(ax, log, column, colour)
        ends.append((last, name, colour))
        which = f" ({name})" if len(lines) > 1 else ""
        said.append(f"{panel.title.lower()}{which} {values}")
    # Axes; shares from 0 to 1
    ax.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    ax.grid(axis="x", visible=False)
    if panel.unit.startswith("share"):
        ax.set_ylim(-0.04, 1.06)
    # The level to compare with, such as ln 2
    if panel.level:
        value, words = panel.level
        ax.axhline(value, color=QUIET, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
        ends.append((value, words, QUIET))
    # A single line needs no name
    _label_ends(ax, ends if len(ends) > 1 else [])
    return said


def _line(ax: Axes, log: pd.DataFrame, column: str, colour: str) -> tuple[float, str]:
    """One column of the log, in training and on held-out data; returns its last value and "first to last" in words.

    Where the log has values on held-out data, both are about these.
    """
    for split, words in (("train", "in training"), ("heldout", "on held-out data")):
        rows = log[(log["split"] == split) & log[column].notna()]
        if rows.empty:
            continue
        # A line in training, dots on held-out data
        look = {"linewidth": 1.4, "alpha": 0.5} if split == "train" else {"linewidth": 1.2, "marker": "o"}
        ax.plot(rows["step"], rows[column], color=colour, markersize=5, **look)
        first, last = rows[column].iloc[0], rows[column].iloc[-1]
        phrase = f"{number(first)} to {number(last)} {words}"
    return last, phrase


def _label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names to the right of the axes at the heights where the lines end, moved apart where they would touch.

    ends: (height, name, colour) of each line.
    """
    low, high = ax.get_ylim()
    gap = 0.12 * (high - low)
    height = -math.inf
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
    # From the lowest line upwards, each name a gap above the last one
    for value, name, colour in sorted(ends):
        if name:
            height = max(value, height + gap)
            ax.annotate(name, (1, height), (4, 0), **place, va="center", color=colour, fontsize=9.5)
