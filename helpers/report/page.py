"""The report of a run: one HTML page that needs no other file, no script and no network.

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
from helpers.report.paper import claims
from helpers.report.paper.claims import LEVEL
from helpers.report.paper.published_figures import table1
from helpers.report.plots import evaluation as plots
from helpers.report.plots import style
from helpers.report.plots import training as training_plots

TEMPLATES = Path(__file__).parent / "templates"

WORLDS = {
    "smoke": "A small OPT policy and a small DeBERTa reward model that come with the course, on a few dozen synthetic "
    "pairs. A smoke run shows that every part works; its figures mean nothing.",
    "mini": "A small OPT policy and a small DeBERTa reward model that come with the course, on synthetic dialogues.",
    "local": "A small OPT policy and a small DeBERTa reward model, both trained by this run, on a local folder "
    "of preference pairs.",
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
    """A figure as it stands in the page. source: the figure as a data URI; alt: its text for who cannot see it."""

    source: str
    alt: str

    @classmethod
    def of(cls, figure: style.Picture) -> "Drawing":
        """The SVG of a figure with its alt text."""
        encoded = base64.b64encode(figure.svg()).decode()
        return cls(f"data:image/svg+xml;base64,{encoded}", figure.alt)


def write_report(path: Path, **inputs: Any) -> Path:
    """Write the page of `build_report(**inputs)` to a file, whole or not at all; returns its path.

    path: the file; the name of its folder is the run's unless inputs give one.
    Raises StageError or DataError, one line, when the file cannot be written.
    """
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
    """The page as HTML text; the same inputs give the same bytes.

    settings_table: columns setting, value, from, meaning (`Resolved.table()`). evaluation: rates and comparisons of the
    run's models. scores: model -> scores frame. logs: trained model -> training log. versions: package -> version.
    paper: `sections.gather(...)`. truth: model -> "hmr" and "hpr" by the embedded world's oracle, None on real
    dialogues. published: the paper's Table 1, `table1()` unless given. costs: `planning.compare.side_by_side(run)`,
    what each training was planned to take and took. other_code: what was used although other code or versions made
    it, with the reason (`store.accepted`). methods: trained model -> how it was trained, as its name says unless given.
    scales: trained model -> how the dashboard of its log is drawn. name: the run's name, its profile unless given.
    Raises DataError when a model has no score on one of the sides.
    """
    published = table1() if published is None else published
    settings = dict(zip(settings_table["setting"], settings_table["value"], strict=True))
    methods = methods or {model: method_of(model) for model in logs}
    figures = _figures(evaluation, scores, published)
    template = _environment().get_template("report.html.j2")
    page = template.render(
        # What was claimed, and what the published scores and our experiments say about it
        paper=paper,
        # What this run is
        name=name or settings["profile"],
        settings=settings,
        world=WORLDS[settings["profile"]],
        recipe=RECIPES[settings["recipe"]],
        changes=changes(settings_table),
        trained=trained(methods),
        count=NUMBERS.get(len(evaluation.models), len(evaluation.models)),
        standing=standing(settings),
        # What its evaluation found
        **_results(evaluation, truth, published),
        # Figures, and what the trainings took
        figures={key: Drawing.of(figure) for key, figure in figures.items()},
        training=[_training(model, log, (scales or {}).get(model)) for model, log in logs.items()],
        costs=[] if costs is None else costs.to_dict("records"),
        # How to make it again
        settings_rows=_settings_rows(settings_table),
        command=command(settings_table),
        other_code=other_code or {},
        versions={package: version for package, version in versions.items() if version},
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")  # a percent sign never starts a line


def _results(evaluation: Evaluation, truth: Mapping | None, published: pd.DataFrame) -> dict[str, Any]:
    """What the page says about the evaluation, by the names that the template knows it by."""
    return {
        "headline": headline(evaluation),
        "rates": evaluation.models,
        "summary": _summary(evaluation, published),
        # The same responses under the paper's cut-offs
        "rule": RULES[evaluation.thresholds.rule],
        "thresholds": evaluation.thresholds,
        "published_rule": _published_rule(evaluation),
        # Every pair of models
        "comparisons": [(c, METRIC_NAMES[c.metric], reading(c)) for c in evaluation.comparisons],
        # What the reward model does not see
        "truth": truth,
        "unseen": unseen(evaluation, truth) if truth else [],
    }


def _environment() -> Environment:
    """The templates, with the names and formats that all of them use."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(drawing=Drawing.of, size=size, duration=duration, number=number, p_value=p_value)
    environment.globals.update(names=label, metric_names=METRIC_NAMES, meanings=MEANINGS, level=LEVEL)
    return environment


def standing(settings: Mapping[str, Any]) -> str:
    """Whether the figures of this run may be compared with the paper's Table 1, in two sentences.

    settings: `profile` and `recipe` of the run.
    """
    differences = []
    if settings["profile"] != "paper":
        differences.append("policy, data and reward model")
    if settings["recipe"] != "published":
        differences.append("recipe")
    if differences:
        differ = "differs" if differences == ["recipe"] else "differ"
        return (
            f"This run is not a replication of the paper: its {' and its '.join(differences)} {differ} from the "
            "paper's. Table 1 stands beside it for orientation, not as a target."
        )
    return (
        "This run repeats the paper's recipe with its models and data, apart from what is changed by hand; "
        "seed, hardware and library versions differ."
    )


def trained(methods: Mapping[str, Method]) -> list[tuple[str, str]]:
    """Each trained model and how it came about: ("SFT+DPO", "after direct preference optimization from SFT")."""
    rows = []
    for model, method in methods.items():
        rows.append((label(model), f"after {method.description} from {label(starts_from(model))}"))
    return rows


def changes(settings_table: pd.DataFrame) -> str:
    """What the reader set besides profile, recipe and seed, as "beta = 0.3, lora_rank = 32"; "" where nothing was."""
    given = settings_table[settings_table["from"] == "you"]
    given = given[~given["setting"].isin(["profile", "recipe", "seed", "run"])]
    return ", ".join(f"{row.setting} = {row.value}" for row in given.itertuples())


def headline(evaluation: Evaluation) -> str:
    """What the comparisons say, in two or three sentences: the best model in CAS, its rivals, what holds."""
    # The model with the highest CAS
    best = _best(evaluation)
    rate = evaluation.models[best]["cas"]
    limits = f"95 % interval {rate.low:.1f} to {rate.high:.1f}"
    text = f"{label(best)} has the highest combined score, {rate.value:.1f} % ({limits})."
    # The models whose CAS cannot be told apart from it
    rivals = []
    for c in evaluation.comparisons:
        if c.metric == "cas" and best in (c.a, c.b) and c.p_adjusted >= LEVEL:
            rivals.append(label(c.a if c.b == best else c.b))
    if rivals:
        text += f" It cannot be told apart from {_join(rivals)} on these prompts."
    # All comparisons
    held = sum(c.p_adjusted < LEVEL for c in evaluation.comparisons)
    return f"{text} Of {len(evaluation.comparisons)} comparisons, {held} hold after Holm's correction."


def _best(evaluation: Evaluation) -> str:
    """The model with the highest CAS; of equal ones the first."""
    return max(evaluation.models, key=lambda model: evaluation.models[model]["cas"].value)


def unseen(evaluation: Evaluation, truth: Mapping[str, Mapping[str, Rate]]) -> list[str]:
    """How far the best model is from the first one by the reward model and in truth: one sentence a side.

    truth: model -> "hmr" and "hpr" by the oracle, in percent.
    """
    best, first = _best(evaluation), next(iter(evaluation.models))
    sentences = []
    for metric, side in (("hmr", "harmful"), ("hpr", "helpful")):
        by_scores = evaluation.models[best][metric].value - evaluation.models[first][metric].value
        by_oracle = truth[best][metric].value - truth[first][metric].value
        sentences.append(
            f"On {side} prompts {label(best)} stands {number(by_scores, 1)} points from {label(first)} by the reward "
            f"model, and {number(by_oracle, 1)} points in truth."
        )
    return sentences


def reading(comparison: Comparison) -> str:
    """One line on a comparison, from its own numbers: which model is better and by how much, if that can be said."""
    c = comparison
    if c.p_adjusted < LEVEL:
        # Told from the better model's point of view, so that the difference is positive
        c = c if c.difference > 0 else claims.turned(c)
        limits = f"{number(c.low, 1)} to {number(c.high, 1)}"
        return f"{label(c.b)} is ahead of {label(c.a)} by {number(c.difference, 1)} points ({limits})."
    if c.p_value < LEVEL:
        return "Not told apart: it would hold alone, but not among all pairs of models."
    if c.low <= 0 <= c.high:
        return f"Not told apart. The data fit anything from {number(c.low, 1)} to {number(c.high, 1)} points."
    return "Not told apart."


def p_value(p: float) -> str:
    """A p-value for a table: two digits, "< 0.001" below that, never zero."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def command(settings_table: pd.DataFrame) -> str:
    """The command that makes this run again, from the settings that the reader gave."""
    options = []
    for row in settings_table[settings_table["from"] == "you"].itertuples():
        if row.value is not None:
            options += ["-p", f"{row.setting}={row.value}"]
    return "python -m helpers run " + shlex.join(options) if options else "make course"


def _summary(evaluation: Evaluation, published: pd.DataFrame) -> list[tuple[str, list[tuple[Rate, str | None]]]]:
    """Rows of the first table: a model, and for each metric its rate and the paper's figure where there is one."""
    rows = []
    for model, rates in evaluation.models.items():
        theirs = published.loc[model].map("{:g}".format) if model in published.index else {}
        rows.append((label(model), [(rates[metric], theirs.get(metric)) for metric in METRICS]))
    return rows


def _published_rule(evaluation: Evaluation) -> list[tuple[str, list[Rate]]]:
    """The same responses under the paper's cut-offs; empty where those are in force anyway."""
    if evaluation.thresholds.rule == "published":
        return []
    rows = []
    for model, rates in evaluation.models_published_rule.items():
        rows.append((label(model), [rates[metric] for metric in METRICS]))
    return rows


def _figures(
    evaluation: Evaluation, scores: Mapping[str, pd.DataFrame], published: pd.DataFrame
) -> dict[str, style.Picture]:
    """The figures of the evaluation, by the names that the template knows them by."""
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
    filled = table.astype(object).replace("", None)
    return filled.where(filled.notna(), "–").astype(str).to_dict("records")


def _join(names: list[str]) -> str:
    """ "A, B or C"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
