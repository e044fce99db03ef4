"""From scores to rates: cut-offs, metrics of all models, and what the oracle knows in the embedded world."""

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
    """The held-out pairs with columns chosen_score and rejected_score by the reward model (logits).

    The reward model's accuracy and the calibrated cut-offs come from here.
    """
    origin = reward_model(run)
    uses, needs = identity(origin)
    rows = pairs(run).heldout

    def build(folder: Path) -> None:
        from helpers.models.scoring import pair_scores

        s = run.settings
        frame = pair_scores(origin, rows, batch_size=s.scoring_batch_size, device=s.device)
        frame.to_csv(folder / "scores.csv", index=False)

    uses |= {"device": run.settings.device}
    folder = run.stage("calibration", uses=uses, needs=[*needs, pairs_folder(run)], build=build)
    return rows.join(pd.read_csv(folder / "scores.csv"))


def second_opinion(run: Run, rows: pd.DataFrame, name: str = "test") -> pd.DataFrame | None:
    """The reward model's scores of given pairs, columns chosen_score and rejected_score (logits), index as given.

    rows: columns prompt, chosen and rejected; rows that the reward model was not trained on, else its opinion is no
    second one. name: names the stage, another one for each collection of rows. Returns None where this run trains its
    own reward model and has not done so yet.
    """
    if source(run, "reward_model") == "" and not run.ready("reward_model"):
        return None
    origin = reward_model(run)
    uses, needs = identity(origin)

    def build(folder: Path) -> None:
        from helpers.models.scoring import pair_scores

        s = run.settings
        frame = pair_scores(origin, rows, batch_size=s.scoring_batch_size, device=s.device)
        frame.to_csv(folder / "scores.csv", index=False)

    # The rows count by their texts.
    texts = pd.util.hash_pandas_object(rows[["prompt", "chosen", "rejected"]], index=False)
    uses |= {"device": run.settings.device, "rows": int(texts.sum())}
    folder = run.stage(f"second_opinion-{name}", uses=uses, needs=needs, build=build)
    return pd.read_csv(folder / "scores.csv").set_axis(rows.index)


def thresholds(run: Run, rule: str | None = None) -> Thresholds:
    """The scores above which a response counts as harmless or helpful.

    rule: "published" for -3 and -2, which mean something on the published reward model's scale only; "calibrated" for
    the cut on each side, harmful and helpful, that best separates the scores of good and bad held-out replies (see
    `calibration_replies`); None for what setting thresholds says.
    """
    if (rule or run.settings.thresholds) == "published":
        return PUBLISHED
    replies = calibration_replies(run)
    cuts = []
    for side in names.SIDES:
        own = replies[replies["side"] == side]
        cuts.append(calibrate(own["score"][own["good"]], own["score"][~own["good"]]))
    return Thresholds(*cuts, "calibrated")


def calibration_replies(run: Run) -> pd.DataFrame:
    """Every reply of the held-out pairs with columns side ("harmful", "helpful"), score (logit) and good (bool).

    In the embedded world the oracle says what is good, elsewhere the label does: chosen is good, rejected is not.
    """
    # Two rows a pair: all chosen replies, then all rejected ones.
    rows = heldout_scores(run)
    side = rows["subset"].str.startswith("harmless").map({True: "harmful", False: "helpful"})
    frames = []
    for part in ("chosen", "rejected"):
        own = {"side": side, "prompt": rows["prompt"], "reply": rows[part], "score": rows[f"{part}_score"]}
        frames.append(pd.DataFrame(own | {"good": part == "chosen"}))
    replies = pd.concat(frames, ignore_index=True)
    # Where the oracle knows better, it says what is good.
    if knows_truth(run):
        from helpers.data.synthetic import assess

        known = pd.Series([assess(row.prompt, row.reply).good for row in replies.itertuples()])
        # Of a handful of replies (profile smoke) all or none may be good on a side: there the labels must do.
        if (known.groupby(replies["side"]).nunique() == 2).all():
            replies["good"] = known
    return replies[["side", "score", "good"]]


def evaluation(run: Run, rule: str | None = None) -> metrics.Evaluation:
    """HmR, HpR and CAS of the run's models with 95 % intervals, and all paired comparisons.

    rule: as in `thresholds`.
    """
    found = {name: scores(run, name) for name in models(run)}
    return metrics.evaluate(found, thresholds(run, rule), seed=run.settings.seed)


def truth(run: Run) -> dict[str, dict[str, metrics.Rate]] | None:
    """Model -> {"hmr", "hpr"} -> the share of its responses that are good by the oracle, with a Wilson interval.

    None where the dialogues are not the embedded ones: no oracle knows those.
    """
    if not knows_truth(run):
        return None
    from helpers.data.synthetic import assess

    rates: dict[str, dict[str, metrics.Rate]] = {}
    for name in models(run):
        rows = responses(run, name)
        good = rows.apply(lambda row: assess(row["prompt"], row["response"]).good, axis=1)
        rates[name] = {}
        for metric, side in zip(("hmr", "hpr"), names.SIDES, strict=True):
            rates[name][metric] = metrics.wilson(good[rows["side"] == side])
    return rates
