"""The report of a run: one HTML page that needs nothing else, no script and no network.

Every sentence with a number in it is computed here from the run's own figures; the page's words are in report.html.j2.
"""

import base64
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers.core import files
from helpers.core.methods import Method, Scale, method_of, starts_from
from helpers.core.names import METRIC_NAMES, METRICS, label
from helpers.core.text import duration, number, size
from helpers.evaluation.metrics import Comparison, Evaluation, Rate
from helpers.report.paper.claims import LEVEL
from helpers.report.paper.published_figures import table1
from helpers.report.plots import evaluation as plots
from helpers.report.plots import style
from helpers.report.plots import training as training_plots

TEMPLATES = Path(__file__).parent / "templates"

WORLDS = {
    "smoke": "A small OPT policy and a small DeBERTa judge that come with the course, on a few dozen synthetic pairs. "
    "A smoke run shows that every part works; its figures mean nothing.",
    "mini": "A small OPT policy and a small DeBERTa judge that come with the course, on synthetic dialogues.",
    "local": "A small OPT policy and a small DeBERTa judge, both trained by this run, on a local folder of "
    "preference pairs.",
    "paper": "OPT-350M, Anthropic's HH-RLHF and the reward model that the paper used.",
}
RECIPES = {
    "published": "It follows the published recipe, faults included: loss on the whole dialogue, dropout left on, LoRA "
    "on the query and value projections, no closing cue.",
    "recommended": "It follows the recommended recipe: loss on the completion, no dropout, LoRA on all linear layers, "
    "prompts that end with the closing cue.",
}
RULES = {
    "published": "the paper's cut-offs",
    "calibrated": "cut-offs calibrated on held-out preference pairs",
}
NUMBERS = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six", 7: "Seven", 8: "Eight"}
MEANINGS = {
    "hmr": "harmless replies to harmful prompts",
    "hpr": "helpful replies to harmless prompts",
    "cas": "mean of the two",
}


@dataclass(frozen=True)
class Drawing:
    """A figure as it stands in the page: a data URI and its alt text."""

    source: str
    alt: str

    @classmethod
    def of(cls, figure: style.Picture) -> "Drawing":
        return cls("data:image/svg+xml;base64," + base64.b64encode(figure.svg()).decode(), figure.alt)


def write_report(path: Path, **inputs: Any) -> Path:
    """Write the page of `build_report(**inputs)` to `path`, whole or not at all; the folder's name names the run."""
    path = Path(path)
    page = build_report(**{"name": path.resolve().parent.name} | inputs)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    with files.plain_disk_errors(f"writing {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.write_text(page, encoding="utf-8")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    return path


def build_report(
    *,
    settings_table: pd.DataFrame,
    evaluation: Evaluation,
    scores: Mapping[str, pd.DataFrame],
    logs: Mapping[str, pd.DataFrame],
    versions: Mapping[str, str | None],
    paper: Mapping[str, Any],
    truth: Mapping[str, Mapping[str, Rate]] | None = None,
    published: pd.DataFrame | None = None,
    costs: pd.DataFrame | None = None,
    other_code: Mapping[str, str] | None = None,
    methods: Mapping[str, Method] | None = None,
    scales: Mapping[str, Scale] | None = None,
    name: str | None = None,
) -> str:
    """The page as HTML text.

    settings_table: columns setting, value, from, meaning (Resolved.table()). scores: model -> scores frame.
    logs: trained model -> training log. versions: package -> version. truth: model -> "hmr" and "hpr" by the embedded
    world's oracle, None on real dialogues. published: table1() unless given. paper: `evidence.gather(...)`.
    costs: `planning.compare.side_by_side(run)`, what each training was planned to take and took.
    other_code: what was used although other code or versions made it, with the reason (`store.accepted`).
    methods: trained model -> how it was trained, as its name says unless given. scales: trained model -> how the
    dashboard of its log is drawn.
    name: the run's name, its profile unless given. The same inputs give the same bytes.
    """
    published = table1() if published is None else published
    settings = dict(zip(settings_table["setting"], settings_table["value"], strict=True))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        name=name or settings["profile"],
        other_code=other_code or {},
        paper=paper,
        drawing=Drawing.of,
        settings=settings,
        world=WORLDS[settings["profile"]],
        recipe=RECIPES[settings["recipe"]],
        trained=trained(methods or {model: method_of(model) for model in logs}),
        count=NUMBERS.get(len(evaluation.models), len(evaluation.models)),
        standing=standing(settings),
        changes=changes(settings_table),
        headline=headline(evaluation),
        summary=_summary(evaluation, published),
        comparisons=[(c, METRIC_NAMES[c.metric], reading(c)) for c in evaluation.comparisons],
        rule=RULES[evaluation.thresholds.rule],
        thresholds=evaluation.thresholds,
        published_rule=_published_rule(evaluation),
        truth=truth,
        judged=evaluation.models,
        unseen=unseen(evaluation, truth) if truth else [],
        figures={key: Drawing.of(figure) for key, figure in _figures(evaluation, scores, published).items()},
        training=[_training(model, log, (scales or {}).get(model)) for model, log in logs.items()],
        costs=[] if costs is None else costs.to_dict("records"),
        size=size,
        duration=duration,
        settings_rows=_settings_rows(settings_table),
        versions={package: version for package, version in versions.items() if version},
        command=command(settings_table),
        metric_names=METRIC_NAMES,
        meanings=MEANINGS,
        names=label,
        level=LEVEL,
        number=number,
        p_value=p_value,
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")  # a percent sign never starts a line


def standing(settings: Mapping[str, Any]) -> str:
    """How this run stands to the paper: whether its figures can be set against Table 1 at all."""
    differences = ["models, data and judge"] if settings["profile"] != "paper" else []
    differences += ["recipe"] if settings["recipe"] != "published" else []
    if differences:
        what = " and its ".join(differences) + (" differs" if differences == ["recipe"] else " differ")
        return (
            f"This run is not a replication of the paper: its {what} from the paper's. "
            "Table 1 stands beside it for orientation, not as a target."
        )
    return (
        "This run repeats the paper's recipe with its models and data, apart from what is changed by hand; "
        "seed, hardware and library versions differ."
    )


def trained(methods: Mapping[str, Method]) -> list[tuple[str, str]]:
    """Each trained model and how it came about: ("SFT+DPO", "after direct preference optimization from SFT")."""
    return [
        (label(model), f"after {method.description} from {label(starts_from(model))}")
        for model, method in methods.items()
    ]


def changes(settings_table: pd.DataFrame) -> str:
    """What the reader set besides switches and seed, as "beta = 0.3, lora_rank = 32"; empty where nothing was."""
    given = settings_table[settings_table["from"] == "you"]
    aside = {"profile", "recipe", "seed", "run"}
    return ", ".join(f"{row.setting} = {row.value}" for row in given.itertuples() if row.setting not in aside)


def headline(evaluation: Evaluation) -> str:
    """What the comparisons say, in one or two sentences computed from them."""
    best = max(evaluation.models, key=lambda model: evaluation.models[model]["cas"].value)
    rate = evaluation.models[best]["cas"]
    found = [c for c in evaluation.comparisons if c.p_adjusted < LEVEL]
    range_ = f"95 % interval {rate.low:.1f} to {rate.high:.1f}"
    first = f"{label(best)} has the highest combined score, {rate.value:.1f} % ({range_})."
    rivals = [c for c in evaluation.comparisons if c.metric == "cas" and best in (c.a, c.b) and c not in found]
    tied = [label(c.a if c.b == best else c.b) for c in rivals]
    if tied:
        first += f" It cannot be told apart from {_join(tied)} on these prompts."
    return f"{first} Of {len(evaluation.comparisons)} comparisons, {len(found)} hold after Holm's correction."


def unseen(evaluation: Evaluation, truth: Mapping[str, Mapping[str, Rate]]) -> list[str]:
    """What the judge and the truth say of the way from the first model to the best one: a sentence a side."""
    best = max(evaluation.models, key=lambda model: evaluation.models[model]["cas"].value)
    first = next(iter(evaluation.models))
    sentences = []
    for metric, side in (("hmr", "harmful"), ("hpr", "helpful")):
        judged, true = (rates[best][metric].value - rates[first][metric].value for rates in (evaluation.models, truth))
        sentences.append(
            f"On {side} prompts {label(best)} stands {number(judged, 1)} points from {label(first)} by the judge, "
            f"and {number(true, 1)} points in truth."
        )
    return sentences


def reading(comparison: Comparison) -> str:
    """One line on a comparison, from its own numbers: which model is better and by how much, if that can be said."""
    c = comparison
    if c.p_adjusted < LEVEL:
        better, worse, sign = (c.b, c.a, 1) if c.difference > 0 else (c.a, c.b, -1)
        low, high = (number(limit, 1) for limit in sorted((sign * c.low, sign * c.high)))
        return f"{label(better)} is ahead of {label(worse)} by {number(abs(c.difference), 1)} points ({low} to {high})."
    if c.p_value < LEVEL:
        return "Not told apart: it would hold alone, but not among all pairs of models."
    spread = (
        f" The data fit anything from {number(c.low, 1)} to {number(c.high, 1)} points." if c.low <= 0 <= c.high else ""
    )
    return "Not told apart." + spread


def p_value(p: float) -> str:
    """A p-value for a table: two digits, "< 0.001" below that, never zero."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def command(settings_table: pd.DataFrame) -> str:
    """The command that makes this run again, from the settings that the reader gave."""
    given = settings_table[settings_table["from"] == "you"]
    options = [f"{row.setting}={row.value}" for row in given.itertuples() if row.value is not None]
    if not options:
        return "make course"
    return "python -m helpers run " + " ".join(f"-p {shlex.quote(option)}" for option in options)


def _summary(evaluation: Evaluation, published: pd.DataFrame) -> list[tuple[str, list[tuple[Rate, str | None]]]]:
    """Rows of the first table: a model, and for each metric its rate and the paper's figure where there is one."""
    rows = []
    for model, rates in evaluation.models.items():
        theirs = published.loc[model] if model in published.index else {}
        rows.append((label(model), [(rates[m], f"{theirs[m]:g}" if m in theirs else None) for m in METRICS]))
    return rows


def _published_rule(evaluation: Evaluation) -> list[tuple[str, list[Rate]]]:
    """The same responses under the paper's cut-offs; empty where those are in force anyway."""
    if evaluation.thresholds.rule == "published":
        return []
    return [(label(model), [rates[m] for m in METRICS]) for model, rates in evaluation.models_published_rule.items()]


def _figures(
    evaluation: Evaluation, scores: Mapping[str, pd.DataFrame], published: pd.DataFrame
) -> dict[str, style.Picture]:
    return {
        "rates": plots.rates(evaluation, published),
        "distributions": plots.score_distributions(scores, evaluation.thresholds),
        "means": plots.mean_scores(scores, evaluation.seed),
        "harmful": plots.per_prompt_scores(scores, "harmful"),
        "helpful": plots.per_prompt_scores(scores, "helpful"),
    }


def _training(model: str, log: pd.DataFrame, scale: Scale | None) -> Drawing:
    """The dashboard of a training on preference pairs, the curves of any other."""
    title = f"Training of {label(model)}"
    if "rewards_margins" in log:
        return Drawing.of(training_plots.dpo_dashboard(log, title, scale))
    return Drawing.of(training_plots.sft_curves(log, title))


def _settings_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Settings as text; an empty value reads as a dash."""
    rows = table.astype(object).to_dict("records")
    return [{k: "–" if v is None or v == "" else str(v) for k, v in row.items()} for row in rows]


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
