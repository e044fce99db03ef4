"""From scores to rates: thresholds, metrics of all models, and the oracle's truth in the embedded world."""

from pathlib import Path

import pandas as pd

from helpers.core import names
from helpers.evaluation import metrics
from helpers.evaluation.thresholds import PUBLISHED, Thresholds, calibrate
from helpers.pipeline.pairs import pairs, pairs_folder
from helpers.pipeline.policies import models, reward_model
from helpers.pipeline.responses import responses, scores
from helpers.pipeline.run import Run
from helpers.pipeline.sources import identity, knows_truth, source


def heldout_scores(run: Run) -> pd.DataFrame:
    """Held-out pairs with the judge's chosen_score and rejected_score: its accuracy and its cut-offs come from here."""
    assess = reward_model(run)
    uses, needs = identity(assess)
    rows = pairs(run).heldout

    def build(folder: Path) -> None:
        from helpers.models.scoring import pair_scores

        s = run.settings
        pair_scores(assess, rows, batch_size=s.scoring_batch_size, device=s.device).to_csv(
            folder / "scores.csv", index=False
        )

    uses |= {"device": run.settings.device}
    folder = run.stage("calibration", uses=uses, needs=[*needs, pairs_folder(run)], build=build)
    return rows.join(pd.read_csv(folder / "scores.csv"))


def second_opinion(run: Run, rows: pd.DataFrame, name: str = "test") -> pd.DataFrame | None:
    """The judge's chosen_score and rejected_score of rows (columns prompt, chosen, rejected), index as given.

    For rows that the judge has not seen: one that this run trains knows the train rows. None where this run trains its
    judge and has not yet done so. `name` tells the stage of one collection from that of another.
    """
    if source(run, "reward_model") == "" and not run.ready("reward_model"):
        return None
    assess = reward_model(run)
    uses, needs = identity(assess)

    def build(folder: Path) -> None:
        from helpers.models.scoring import pair_scores

        s = run.settings
        frame = pair_scores(assess, rows, batch_size=s.scoring_batch_size, device=s.device)
        frame.to_csv(folder / "scores.csv", index=False)

    texts = pd.util.hash_pandas_object(rows[["prompt", "chosen", "rejected"]], index=False)
    uses |= {"device": run.settings.device, "rows": int(texts.sum())}
    folder = run.stage(f"second_opinion-{name}", uses=uses, needs=needs, build=build)
    return pd.read_csv(folder / "scores.csv").set_axis(rows.index)


def thresholds(run: Run, rule: str | None = None) -> Thresholds:
    """The scores above which a response counts as harmless or helpful.

    "published": -3 and -2, which mean something on the published reward model's scale only. "calibrated": for each
    side the cut that best separates good from bad held-out replies under this run's judge. Which are good the oracle
    says in the embedded world; elsewhere the chosen ones are taken for good and the rejected ones for bad.
    """
    if (rule or run.settings.thresholds) == "published":
        return PUBLISHED
    replies = calibration_replies(run)
    cuts = [
        calibrate(own["score"][own["good"]], own["score"][~own["good"]])
        for own in (replies[replies["side"] == side] for side in names.SIDES)
    ]
    return Thresholds(*cuts, "calibrated")


def calibration_replies(run: Run) -> pd.DataFrame:
    """Every reply of the held-out pairs with columns side ("harmful", "helpful"), score and good.

    In the embedded world the oracle says what is good, elsewhere the label does: chosen is good, rejected is not.
    """
    rows = heldout_scores(run)
    side = rows["subset"].str.startswith("harmless").map({True: "harmful", False: "helpful"})
    both = [
        (rows["prompt"], rows[reply], rows[f"{reply}_score"], reply == "chosen") for reply in ("chosen", "rejected")
    ]
    frames = [
        pd.DataFrame({"side": side, "prompt": prompt, "reply": reply, "score": score, "good": good})
        for prompt, reply, score, good in both
    ]
    replies = pd.concat(frames, ignore_index=True)
    if knows_truth(run):
        from helpers.data.synthetic import assess

        known = pd.Series([assess(row.prompt, row.reply).good for row in replies.itertuples()])
        # Of a handful of replies (profile smoke) none may be good on a side: there the labels must do.
        if (known.groupby(replies["side"]).nunique() == 2).all():
            replies["good"] = known
    return replies[["side", "score", "good"]]


def evaluation(run: Run, rule: str | None = None) -> metrics.Evaluation:
    """HmR, HpR and CAS of the run's models with intervals, and all paired comparisons."""
    found = {name: scores(run, name) for name in models(run)}
    return metrics.evaluate(found, thresholds(run, rule), seed=run.settings.seed)


def truth(run: Run) -> dict[str, dict[str, metrics.Rate]] | None:
    """The share of truly good responses of each model, "hmr" and "hpr", by the embedded world's oracle.

    None where the dialogues are not the embedded ones: nobody knows the truth about those.
    """
    if not knows_truth(run):
        return None
    from helpers.data.synthetic import assess

    rates = {}
    for name in models(run):
        rows = responses(run, name)
        good = rows.apply(lambda row: assess(row["prompt"], row["response"]).good, axis=1)
        sides = zip(("hmr", "hpr"), names.SIDES, strict=True)
        rates[name] = {metric: metrics.wilson(good[rows["side"] == side]) for metric, side in sides}
    return rates
