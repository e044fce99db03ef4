"""The look of every figure: one palette that colour-blind readers can tell apart, and an alternative text."""

import base64
import io
from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.core.methods import model_names
from helpers.core.names import label

# Okabe and Ito's colours, told apart by colour-blind readers and in print; each model also has its own marker.
CHOSEN, REJECTED, ACCENT = "#0072B2", "#D55E00", "#00805F"
INK, QUIET, GRID = "#222222", "#666666", "#DDDDDD"
COLOURS = {"base": "#6B6B6B", "sft": "#0072B2", "dpo": "#D55E00", "sft_dpo": "#00805F"}
COLOURS |= {"chosen": CHOSEN, "rejected": REJECTED}
MARKERS = {"base": "o", "sft": "s", "dpo": "^", "sft_dpo": "D"}
OTHERS = ("#9A5B89", "#B07F00", "#2F8FC4", "#444444")
MORE_MODELS = ("#4830D8", "#6A3D00", "#15151F", "#9A5B89")  # models beyond those four, by their place
OTHER_MARKERS = ("v", "P", "X", "p")

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "ytick.major.size": 0,
    "text.color": INK,
    "svg.hashsalt": "preference-alignment-course",  # the same figure gives the same bytes
}
DPI = 150


class Picture(Figure):
    """A matplotlib figure with alt text: what it shows, in a sentence or two with the figures."""

    alt: str = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._saved: dict[str, bytes] = {}

    def png(self) -> bytes:
        """The figure as PNG bytes, free of dates and version strings."""
        return self._save("png", dpi=DPI, metadata={"Software": None})

    def svg(self) -> bytes:
        """The figure as SVG bytes, letters drawn as outlines so that it looks the same everywhere."""
        return self._save("svg", metadata={"Date": None, "Creator": None})

    def _save(self, kind: str, **options: Any) -> bytes:
        # Kept: drawing moves the axes by a hair, so that a second drawing would give other bytes.
        if kind not in self._saved:
            target = io.BytesIO()
            with mpl.rc_context(STYLE):
                self.savefig(target, format=kind, facecolor="white", **options)
            self._saved[kind] = target.getvalue()
        return self._saved[kind]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        # nbconvert and other readers of a notebook take the alt text from the metadata of image/png.
        width, height = (round(96 * inches) for inches in self.get_size_inches())
        data = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def show(figure: Picture) -> None:
    """Display a figure in a notebook as PNG; its alt text is the text/plain form and the alt of image/png."""
    from IPython.display import display

    data, metadata = figure._repr_mimebundle_()
    display(data, metadata=metadata, raw=True)


def styled(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Decorator: what a figure function draws has the course's style; the style of the caller is untouched."""

    @wraps(draw)
    def inside(*args: Any, **kwargs: Any) -> Picture:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def canvas(
    rows: int, columns: int, *, width: float, height: float, title: str, **shared: Any
) -> tuple[Picture, list[Axes]]:
    """An empty figure and its axes.

    rows, columns: how many axes. width, height: of the whole figure, in inches. title: of the whole figure.
    shared: handed on to matplotlib's subplots (sharex, sharey, ...).
    Returns the figure and a flat list of its axes, row by row.
    """
    figure = Picture(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.07)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def note(figure: Picture, text: str) -> None:
    """One grey line under a figure that says what its marks mean."""
    figure.supxlabel(text, fontsize=9.5, color=QUIET, x=0.01, ha="left")


def colour(model: str, position: int = 0) -> str:
    """The fixed colour of one of the four models, or of "chosen" and "rejected".

    Any other model, and any other name, gets a colour by its position in the figure.
    """
    others = MORE_MODELS if model in model_names() else OTHERS
    return COLOURS.get(model, others[position % len(others)])


def marker(model: str, position: int = 0) -> str:
    """The fixed marker of one of the four models; any other name gets one by its position in the figure."""
    return MARKERS.get(model, OTHER_MARKERS[position % len(OTHER_MARKERS)])


def named_rows(axes: Axes, names: list[str], **look: Any) -> None:
    """Rows with names along the vertical axis, the first on top; look: how matplotlib draws the names."""
    axes.set_yticks(range(len(names)), names, **look)
    axes.set_ylim(len(names) - 0.5, -0.5)


def model_rows(axes: Axes, models: list[str]) -> None:
    """Models as rows, first on top, their names in their colours instead of a legend."""
    named_rows(axes, [label(model) for model in models])
    for position, (tick, model) in enumerate(zip(axes.get_yticklabels(), models, strict=True)):
        tick.set(color=colour(model, position), fontweight="bold")


def interval(axes: Axes, row: float, limits: tuple[float, float, float], tint: str, **mark: Any) -> None:
    """An estimate with its interval, drawn at the height `row`.

    limits: lower limit, estimate, upper limit. tint: the colour of line and mark. mark: how matplotlib draws the mark.
    """
    low, value, high = limits
    axes.plot([low, high], [row, row], color=tint, linewidth=2.5, solid_capstyle="round")
    axes.plot([value], [row], color=tint, **mark)
