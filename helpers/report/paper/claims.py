"""The ledger: each claim of the paper with its figure, its interval and a verdict computed from the published scores.

Verdicts. reproduced: the published data show it, after Holm's correction where it is a comparison. within noise: they
have its direction, but chance gives as much. contradicted: they, or the authors' own code, show something else.
not testable: nothing that was published could show it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from helpers.core.names import METRIC_NAMES, label
from helpers.core.text import number
from helpers.evaluation.metrics import Comparison, Evaluation
from helpers.evaluation.thresholds import PUBLISHED
from helpers.report.paper import reanalysis
from helpers.report.paper.published_figures import published, table1

Verdict = Literal["reproduced", "within noise", "contradicted", "not testable"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "within noise", "contradicted", "not testable")
LEVEL = 0.05  # a difference is called one when its Holm-adjusted p-value is below this
NO_INTERVAL = "–"


@dataclass(frozen=True)
class Claim:
    """One row of the ledger: what is claimed and where, the figure that bears on it, the verdict and why.

    evidence: the anchor of the report's section that shows it.
    """

    claim: str
    where: str
    figure: str
    interval: str
    verdict: Verdict
    reason: str
    evidence: str


def ledger(rows: pd.DataFrame) -> list[Claim]:
    """Every claim with its verdict; rows: `published_figures.scores()` or `authors_files.figures(folder)`."""
    found = reanalysis.evaluate(rows)
    return [_best_everywhere(found), *_comparisons(found), *_data(rows), *_code(rows)]


def table(claims: list[Claim]) -> pd.DataFrame:
    """The ledger as a table: claim, where, figure, interval, verdict, reason."""
    return pd.DataFrame(map(vars, claims)).drop(columns="evidence")


def count(claims: list[Claim]) -> dict[Verdict, int]:
    """How many claims got each verdict."""
    return {verdict: sum(c.verdict == verdict for c in claims) for verdict in VERDICTS}


def difference(found: Evaluation, metric: str, better: str, worse: str) -> Comparison:
    """The comparison of two models in a metric as `better` minus `worse`, in points, whatever their order in `found`.

    Raises KeyError when `found` has no such comparison.
    """
    for c in found.comparisons:
        if c.metric == metric and {c.a, c.b} == {better, worse}:
            return c if c.b == better else turned(c)
    raise KeyError((metric, better, worse))


def turned(c: Comparison) -> Comparison:
    """The same comparison the other way round: a minus b."""
    return replace(c, a=c.b, b=c.a, difference=-c.difference, low=-c.high, high=-c.low)


def verdict_of(c: Comparison) -> Verdict:
    """The verdict on the claim that model b of a comparison is better than its model a."""
    if c.difference <= 0:
        return "contradicted"
    return "reproduced" if c.p_adjusted < LEVEL else "within noise"


def points(c: Comparison) -> str:
    """ "+34 points of HpR"."""
    sign = "+" if c.difference > 0 else ""
    return f"{sign}{number(c.difference, 1)} points of {METRIC_NAMES[c.metric]}"


def limits(c: Comparison) -> str:
    """ "−8 to 22"."""
    return f"{number(c.low, 1)} to {number(c.high, 1)}"


def _p(c: Comparison) -> str:
    """The p-value of a comparison before and after correction."""
    return f"p = {c.p_value:.2g}, after Holm's correction {c.p_adjusted:.2g}"


def _best_everywhere(found: Evaluation) -> Claim:
    """The headline: reproduced only where SFT+DPO beats every model in every metric."""
    # SFT+DPO against each other model in each metric, and the comparison that speaks most against the claim
    others = []
    for metric in METRIC_NAMES:
        others += [difference(found, metric, "sft_dpo", rival) for rival in ("base", "sft", "dpo")]
    worst = min(others, key=lambda c: c.difference)
    holds = sum(verdict_of(c) == "reproduced" for c in others)
    decided = worst.difference <= 0 or holds == len(others)
    rates = table1()[worst.metric]
    return Claim(
        "SFT+DPO is better than every other model in every metric",
        "abstract",
        points(worst) + f" against {label(worst.a)}",
        limits(worst),
        verdict_of(worst) if decided else "within noise",
        f"Table 1 itself gives {label(worst.a)} {METRIC_NAMES[worst.metric]} {rates[worst.a]} and SFT+DPO "
        f"{rates['sft_dpo']}; of the {len(others)} comparisons in the claim {holds} hold",
        "tests",
    )


def _comparisons(found: Evaluation) -> list[Claim]:
    """Claims that one model is better than another in a metric, from the abstract, Table 1 and Table 2."""
    # (the better model, the worse one, metric, where it is claimed)
    claimed = [
        ("sft_dpo", "sft", "cas", "Table 1"),
        ("sft_dpo", "dpo", "cas", "Table 1"),
        ("sft", "dpo", "cas", "abstract, Table 1"),
    ]
    claimed += [(model, "base", "hpr", _table2(model, "hpr")) for model in ("sft", "dpo", "sft_dpo")]
    claimed += [(model, "base", "hmr", _table2(model, "hmr")) for model in ("sft", "sft_dpo")]
    claimed += [(model, "base", "cas", _table2(model, "cas")) for model in ("sft", "dpo", "sft_dpo")]
    words = {"cas": "better aligned on the whole", "hpr": "more helpful", "hmr": "more harmless"}
    claims = []
    for better, worse, metric, where in claimed:
        text = f"{label(better)} is {words[metric]} than {label(worse)}"
        claims.append(_comparison(difference(found, metric, better, worse), text, where))
    # The one claimed loss, shown as DPO minus Base
    cost = difference(found, "hmr", "base", "dpo")
    text = "DPO alone makes the model less harmless than Base"
    return [*claims, _comparison(cost, text, _table2("dpo", "hmr"), shown=turned(cost))]


def _table2(model: str, metric: str) -> str:
    """Where the paper prints a gain over Base, and the gain."""
    return f"Table 2: {published()['table2']['models'][model][metric]:+.2f} %"


def _comparison(c: Comparison, claim: str, where: str, shown: Comparison | None = None) -> Claim:
    """A claim that model b of a comparison is better than its model a; shown: as which difference it is printed."""
    shown = shown or c
    return Claim(claim, where, points(shown), limits(shown), verdict_of(c), _p(c), "tests")


def _data(rows: pd.DataFrame) -> list[Claim]:
    """Claims about rates, cut-offs and training data."""
    gap = reanalysis.table1_gap(rows)
    cuts = {"harmful": PUBLISHED.harmless, "helpful": PUBLISHED.helpful}
    at_the_mark = int((rows["score"] == rows["side"].map(cuts)).sum())
    curve = published()["loss_curves"]["dpo"]
    other = published()["second_hand"]["models"]["sft_dpo"]
    return [
        Claim(
            "The rates of Table 1 follow from the published scores",
            "Table 1",
            f"largest gap {number(gap, 1)} points",
            NO_INTERVAL,
            "reproduced" if gap < 1e-6 else "contradicted",
            f"recomputed from {len(rows)} scores, to the digit",
            "rates",
        ),
        Claim(
            "A response is harmless when its score is at least −3",
            "text",
            f"{at_the_mark} scores lie exactly on a cut-off",
            NO_INTERVAL,
            "reproduced" if at_the_mark == 0 else "contradicted",
            "the code asks for more than −3; with no score on the mark nothing changes",
            "rates",
        ),
        Claim(
            "Noisy preference data made DPO alone weak",
            "text, eight examples",
            f"mean training loss {curve['mean']:g}; {curve['above_ln2_percent']:g} % of the logged values above ln 2",
            NO_INTERVAL,
            "not testable",
            "one set of data and one seed were trained; a loss above ln 2 has another possible cause, dropout",
            "cleaning",
        ),
        Claim(
            f"SFT+DPO reaches {other['hmr']} / {other['hpr']} / {other['cas']} %",
            "a summary that circulates, not the paper",
            "Table 1 has " + " / ".join(f"{table1().loc['sft_dpo', m]:g}" for m in METRIC_NAMES),
            NO_INTERVAL,
            "contradicted",
            f"these numbers stand in no table of the paper, and {other['hmr']} % of 50 prompts is no whole number",
            "rates",
        ),
    ]


def _code(rows: pd.DataFrame) -> list[Claim]:
    """Claims of the text that the authors' code contradicts."""
    faults = reanalysis.prompt_faults(rows)
    n = rows["prompt"].nunique()
    return [
        Claim(
            "DPO minimises a loss without a reference model",
            "the formula in the text",
            "TRL's DPO, which has one",
            NO_INTERVAL,
            "contradicted",
            "the formula as printed is another method; the authors' code did not use it",
            "printed",
        ),
        Claim(
            "The models were trained on two subsets of HH-RLHF",
            "text",
            "all four subsets, 160,800 pairs",
            NO_INTERVAL,
            "contradicted",
            "the code loads the whole collection",
            "recipe",
        ),
        Claim(
            "The harmful prompts hold the word kill, murder or rape",
            "evaluation code",
            f"{faults['harmful prompts without a keyword']} of {n} prompts hold none of the words",
            NO_INTERVAL,
            "contradicted",
            "the filter reads the reply too, and finds parts of other words, such as a skill",
            "prompts",
        ),
    ]
