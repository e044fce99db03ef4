"""What the paper's own scores say: tests, intervals and checks that the paper does not give.

In every function rows: `published_figures.scores()`, one a response, of 4 models to 50 harmful and 50 helpful prompts.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from statsmodels.stats.contingency_tables import cochrans_q

from helpers.core.methods import PAPER_MODELS
from helpers.core.names import METRIC_NAMES, SIDES
from helpers.core.statistics import RESAMPLES, mcnemar_power
from helpers.evaluation import metrics
from helpers.evaluation.metrics import Evaluation
from helpers.evaluation.thresholds import PUBLISHED, Thresholds, passes
from helpers.report.paper import published_figures

SIDE_OF = {"hmr": "harmful", "hpr": "helpful"}


def by_model(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each model, in the order of prompts, as `metrics.evaluate` wants them."""
    return {model: rows[rows["model"] == model].reset_index(drop=True) for model in PAPER_MODELS}


def evaluate(rows: pd.DataFrame) -> Evaluation:
    """Table 1 again with intervals, and every pair of models: exact tests with Holm's correction, as for a run."""
    return metrics.evaluate(by_model(rows), PUBLISHED)


def passed(rows: pd.DataFrame, thresholds: Thresholds = PUBLISHED) -> dict[str, pd.DataFrame]:
    """Side -> table of prompts by models, True where the response scores above the cut-off of its side."""
    return _by_prompt(rows.assign(passes=passes(rows, thresholds)), "passes")


def _by_prompt(rows: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """Side -> table of prompts by models, with the values of a column."""
    tables = {}
    for side in SIDES:
        own = rows[rows["side"] == side]
        tables[side] = own.pivot(index="prompt", columns="model", values=column)[list(PAPER_MODELS)]
    return tables


def table1_gap(rows: pd.DataFrame) -> float:
    """Largest difference between Table 1 as printed and as recomputed, in points."""
    tables = passed(rows)
    ours = pd.DataFrame({metric: 100 * tables[side].mean() for metric, side in SIDE_OF.items()})
    ours["cas"] = ours.mean(axis=1)
    return float((published_figures.table1() - ours).abs().to_numpy().max())


def cochran(rows: pd.DataFrame) -> pd.DataFrame:
    """Cochran's Q: do the four models differ at all in a rate? Columns metric, q, p_value (3 degrees of freedom)."""
    tables, tests = passed(rows), []
    for metric, side in SIDE_OF.items():
        test = cochrans_q(tables[side].to_numpy(int))
        tests.append((METRIC_NAMES[metric], test.statistic, test.pvalue))
    return pd.DataFrame(tests, columns=["metric", "q", "p_value"])


def grim(rates: pd.DataFrame, n: int) -> pd.DataFrame:
    """The GRIM test (Brown and Heathers 2017): can each percentage be a whole number of n prompts? CAS: of 2 n.

    rates: models by metrics, in percent. Returns the same shape, True where it can.
    """
    possible = rates.copy()
    for metric in rates:
        responses = 2 * n if metric == "cas" else n
        count = rates[metric] * responses / 100
        possible[metric] = (count - count.round()).abs() < 1e-6
    return possible


def discordant_share(rows: pd.DataFrame, metric: str) -> float:
    """Mean share of prompts on which two models differ, over all pairs of models."""
    table = passed(rows)[SIDE_OF[metric]]
    shares = [(table[a] != table[b]).mean() for a, b in combinations(table, 2)]
    return float(np.mean(shares))


def power_table(rows: pd.DataFrame, points: Iterable[int] = (3, 5, 10), power: float = 0.8) -> pd.DataFrame:
    """What 50 prompts can show, by metric: the smallest difference that is found, and prompts needed for others.

    Exact power of McNemar's test (level 0.05, one comparison) with the share of discordant prompts seen here.
    points: the differences for which the prompts needed are given. power: the chance of finding a true difference.
    Columns: discordant, smallest_points (None where even all discordant prompts would not do), needed_3, ...
    """
    n = rows["prompt"].nunique()
    table = {}
    for metric in SIDE_OF:
        share = discordant_share(rows, metric)
        row = {"discordant": share, "smallest_points": _smallest_points(n, share, power)}
        for gap in points:
            row[f"needed_{gap}"] = _prompts_needed(share, gap / 100, power)
        table[METRIC_NAMES[metric]] = row
    return pd.DataFrame.from_dict(table, orient="index")


def _smallest_points(n: int, share: float, power: float) -> int | None:
    """The smallest difference in points that n prompts find with the power; None where they find none."""
    for gap in range(1, int(100 * share) + 1):  # a difference cannot exceed the share of discordant prompts
        if mcnemar_power(n, share, gap / 100) >= power:
            return gap
    return None


def _prompts_needed(share: float, difference: float, power: float) -> int:
    """The fewest prompts, to the next ten, that find a difference with the power; shares, not points."""
    # Double until it is enough
    low, high = 0, 10
    while mcnemar_power(high, share, difference) < power:
        low, high = high, 2 * high
    # Halve the range: `low` prompts are too few, `high` are enough
    while high - low > 10:
        middle = (low + high) // 20 * 10
        if mcnemar_power(middle, share, difference) >= power:
            high = middle
        else:
            low = middle
    return high


def threshold_map(rows: pd.DataFrame, harmless: Iterable[float], helpful: Iterable[float]) -> pd.DataFrame:
    """CAS of SFT+DPO minus the best other model for every pair of cut-offs.

    harmless, helpful: cut-offs on harmful and on helpful prompts, on the scale of the scores.
    Returns points; index helpful, columns harmless.
    """
    # Share of responses that pass, for each cut-off of a side: arrays (cut-offs, models)
    scores, rates = _by_prompt(rows, "score"), {}
    for side, cuts in zip(SIDES, (harmless, helpful), strict=True):
        rates[side] = np.array([(scores[side] > cut).mean().to_numpy() for cut in cuts])
    # CAS in percent: array (helpful cut-offs, harmless cut-offs, models)
    cas = 100 * (rates["harmful"][None, :, :] + rates["helpful"][:, None, :]) / 2
    hybrid = PAPER_MODELS.index("sft_dpo")
    lead = cas[..., hybrid] - np.delete(cas, hybrid, axis=-1).max(axis=-1)
    return pd.DataFrame(lead, index=list(helpful), columns=list(harmless))


def length_and_score(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of score and length in characters: columns side, model, rho, low, high.

    low, high: limits of the 95 % percentile interval of a bootstrap over responses, its seed fixed.
    """
    found = []
    for side in SIDES:
        for model in PAPER_MODELS:
            own = rows[(rows["side"] == side) & (rows["model"] == model)]
            pairs = own[["characters", "score"]].to_numpy()
            # Resampled responses, and the correlation in each resample
            drawn = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES // 5, len(pairs)))
            rhos = [spearmanr(pairs[draw]).statistic for draw in drawn]
            found.append((side, model, spearmanr(pairs).statistic, *np.percentile(rhos, [2.5, 97.5])))
    return pd.DataFrame(found, columns=["side", "model", "rho", "low", "high"])


FORMS = {
    "begins with the cue": "starts_with_cue",
    "runs on into a human turn": "human_turn",
    "empty": "empty",
}


def forms(rows: pd.DataFrame) -> pd.DataFrame:
    """Responses of 100 that begin with the cue, run on into "Human:", or are empty: one row a model."""
    counts = rows.groupby("model")[list(FORMS.values())].sum().loc[list(PAPER_MODELS)]
    return counts.rename(columns={column: name for name, column in FORMS.items()})


def without_form(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """HmR, HpR and CAS in percent of the responses without a form, and their number: hmr, hpr, cas, n_hmr, n_hpr.

    column: of `rows`, one of FORMS; 1 where a response has the form.
    Each model loses its own responses, so the models are no longer compared on the same prompts.
    """
    kept = rows[rows[column] == 0]
    kept = kept.assign(passes=passes(kept, PUBLISHED))
    groups = kept.groupby(["model", "side"])["passes"]
    shares = groups.mean().unstack("side").loc[list(PAPER_MODELS)]
    counts = groups.size().unstack("side").loc[list(PAPER_MODELS)]
    table = pd.DataFrame({metric: 100 * shares[side] for metric, side in SIDE_OF.items()})
    table["cas"] = table.mean(axis=1)
    for metric, side in SIDE_OF.items():
        table[f"n_{metric}"] = counts[side]
    return table


def prompt_faults(rows: pd.DataFrame) -> dict[str, int]:
    """How many prompts are not what they should be: harmful ones without a keyword, and ones that hold a reply."""
    prompts = rows.drop_duplicates(["side", "prompt"])
    harmful = prompts[prompts["side"] == "harmful"]
    held = prompts.groupby("side")["reply_in_prompt"].sum()
    return {
        "harmful prompts without a keyword": int((harmful["keyword_in_prompt"] == 0).sum()),
        "harmful prompts that hold the reply": int(held["harmful"]),
        "helpful prompts that hold the reply": int(held["helpful"]),
    }
