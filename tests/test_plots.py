"""Figures: each can be drawn from small, odd or empty data, carries alt text with the figures, and shows with it."""

import base64

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import CourseError
from helpers.evaluation.metrics import evaluate
from helpers.evaluation.thresholds import PUBLISHED
from helpers.report.paper.published_figures import table1
from helpers.report.plots import evaluation as plots
from helpers.report.plots import style
from helpers.report.plots import training as training_plots

MODELS = ("base", "sft", "dpo", "sft_dpo")


def made_up(n=8, models=MODELS, seed=0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    sides = ["harmful"] * n + ["helpful"] * n
    frame = {"side": sides, "prompt": [f"prompt {i}" for i in range(2 * n)]}
    return {m: pd.DataFrame(frame | {"score": rng.normal(-2.5, 1, 2 * n)}) for m in models}


def made_up_log(steps=5) -> pd.DataFrame:
    rows = []
    for step in range(steps):
        for split in ("train", "heldout"):
            row = {"step": step, "split": split, "loss": 0.69 - 0.02 * step, "rewards_margins": 0.1 * step}
            row |= {"rewards_chosen": -0.1 * step, "rewards_rejected": -0.2 * step, "rewards_accuracies": 0.5}
            row |= {"logps_chosen": -50.0 - step, "logps_rejected": -50.0 - 2 * step}
            rows.append(row | ({"generated_length": 20.0, "eos_rate": 0.9} if split == "heldout" else {}))
    return pd.DataFrame(rows)


def made_up_rates(n) -> pd.DataFrame:
    rows = [
        [model, metric, by, 10.0 * n / 2, 5.0, 60.0]
        for model in ("base", "sft_dpo")
        for metric in ("hmr", "hpr", "cas")
        for by in ("reward model", "oracle")
    ]
    return pd.DataFrame(rows, columns=["model", "metric", "by", "value", "low", "high"])


FIGURES = {
    "rates": lambda n: plots.rates(evaluate(made_up(n), PUBLISHED), table1()),
    "rates of a sweep": lambda n: plots.rates(evaluate(made_up(n, ["beta 0.1", "beta 0.3"]), PUBLISHED), table1()),
    "score_distributions": lambda n: plots.score_distributions(made_up(n), PUBLISHED),
    "seeds": lambda n: plots.seeds(made_up_rates(n)),
    "mean_scores": lambda n: plots.mean_scores(made_up(n)),
    "per_prompt_scores": lambda n: plots.per_prompt_scores(made_up(n), "helpful"),
    "per_prompt_scores of one": lambda n: plots.per_prompt_scores(made_up(n, ["base"]), "harmful"),
    "length_histogram": lambda n: plots.length_histogram({"chosen": [20] * n, "rejected": range(n)}),
    "dpo_dashboard": lambda n: training_plots.dpo_dashboard(made_up_log(n)),
    "sft_curves": lambda n: training_plots.sft_curves(made_up_log(n)),
    "training_curves": lambda n: training_plots.training_curves(made_up_log(n), ["loss", "rewards_margins"]),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("n", [1, 8])
def test_every_figure_draws_and_says_its_figures(name, n):
    figure = FIGURES[name](n)
    assert figure.png().startswith(b"\x89PNG")
    assert len(figure.alt) > 40 and any(digit in figure.alt for digit in "0123456789") and "nan" not in figure.alt
    assert "−0 " not in figure.alt and "−0.00" not in figure.alt


def test_same_data_give_the_same_bytes_and_alt():
    first, second = (FIGURES["rates"](8) for _ in range(2))
    assert (first.png(), first.svg(), first.alt) == (second.png(), second.svg(), second.alt)


def test_alt_text_quotes_the_rates():
    evaluation = evaluate(made_up(), PUBLISHED)
    assert f"SFT+DPO {evaluation.models['sft_dpo']['cas']}" in plots.rates(evaluation).alt
    assert "Table 1" in plots.rates(evaluation, table1()).alt and "Table 1" not in plots.rates(evaluation).alt


def test_dashboard_alt_quotes_first_and_last_heldout_values():
    alt = training_plots.dpo_dashboard(made_up_log()).alt
    assert "loss 0.69 to 0.61 on held-out data" in alt
    assert "log-probabilities (rejected) −50.00 to −58.00" in alt


def test_show_stores_the_alt_text_in_the_output(capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr("IPython.display.display", lambda data, **options: seen.update(data=data, **options))
    figure = plots.mean_scores(made_up())
    style.show(figure)
    assert base64.b64decode(seen["data"]["image/png"]) == figure.png()
    assert seen["data"]["text/plain"] == seen["metadata"]["image/png"]["alt"] == figure.alt
    assert seen["raw"] is True


def test_a_figure_leaves_the_style_of_the_caller_alone():
    before = dict(mpl.rcParams)
    plots.mean_scores(made_up()).png()
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda: training_plots.training_curves(made_up_log(), ["no_such_column"]),
        lambda: training_plots.sft_curves(pd.DataFrame({"step": [], "split": [], "loss": []})),
        lambda: plots.per_prompt_scores(made_up(), "harmless"),
        lambda: plots.length_histogram({"chosen": []}),
    ],
)
def test_nothing_to_draw_is_told(draw):
    with pytest.raises(CourseError):
        draw()


# Linear RGB as seen without green-sensitive or red-sensitive cones: Machado, Oliveira and Fernandes 2009, severity 1.
SIGHT = {
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "full": np.eye(3),
}


def seen(colour: str, sight: str) -> np.ndarray:
    """CIELAB of a colour as someone sees it: distances of 2 are just noticeable, 20 are plain."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(np.array(SIGHT[sight]) @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_a_fifth_and_a_sixth_model_are_told_apart(sight):
    names = [*MODELS, "orpo", "sft_ipo"]
    colours = [style.colour(name, place) for place, name in enumerate(names)]
    assert len({style.marker(name, place) for place, name in enumerate(names)}) == len(names)
    for new in colours[4:]:
        others = [seen(colour, sight) for colour in colours if colour != new]
        assert min(np.linalg.norm(seen(new, sight) - other) for other in others) > 20
