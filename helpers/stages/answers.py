"""What the models of a run answer, how the judge scores it, and what the scores come to."""

from pathlib import Path

import pandas as pd

from .. import metrics, preferences
from ..dialogues import left_truncate
from ..runs import Run
from .data import identity, knows_truth, pairs, pairs_folder, read_rows, source, token_counter
from .policies import base_policy, models, policy, reward_model


def evaluation_prompts(run: Run) -> pd.DataFrame:
    """The evaluation prompts as the models see them: columns side, subset, line, prompt (str)."""
    from ..models import load_tokenizer

    s = run.settings
    tokenizer = load_tokenizer(base_policy(run))
    rows = pairs(run).prompts
    split = rows["chosen"].map(preferences.split_reply)
    shortened = split.map(
        lambda parts: left_truncate(parts[0], token_counter(tokenizer), s.max_prompt_length)[0] + parts[1]
    )
    return rows.assign(prompt=shortened.map(lambda text: preferences.with_cue(text, s.closing_cue))).drop(
        columns="chosen"
    )


def responses(run: Run, name: str) -> pd.DataFrame:
    """What a model answers greedily to the evaluation prompts: the prompts with columns response, tokens, ended."""
    return _responses(run, name, None)


def sampled_responses(run: Run, name: str) -> pd.DataFrame:
    """One answer to each evaluation prompt sampled at temperature 1, as `responses` else."""
    return _responses(run, name, run.settings.seed)


def _responses(run: Run, name: str, sample_seed: int | None) -> pd.DataFrame:
    s, model = run.settings, policy(run, name)
    uses, needs = identity(model)
    names = ("max_new_tokens", "max_prompt_length", "closing_cue", "device")
    uses |= {field: getattr(s, field) for field in names} | {"batch": s.generation_batch_size}
    uses |= {} if sample_seed is None else {"sample_seed": sample_seed}

    def build(folder: Path) -> None:
        from ..generation import generate

        prompts = evaluation_prompts(run)
        answers = generate(
            model,
            list(prompts["prompt"]),
            max_new_tokens=s.max_new_tokens,
            batch_size=s.generation_batch_size,
            device=s.device,
            sample_seed=sample_seed,
        )
        answers.index = prompts.index
        rows = prompts.join(answers)
        rows.to_json(folder / "responses.jsonl", orient="records", lines=True, force_ascii=False)

    stage = _answers_of(name, sampled=sample_seed is not None)
    return read_rows(run.stage(stage, uses=uses, needs=[*needs, pairs_folder(run)], build=build) / "responses.jsonl")


def _answers_of(name: str, *, sampled: bool) -> str:
    return f"responses-{name}-sampled" if sampled else f"responses-{name}"


def scores(run: Run, name: str) -> pd.DataFrame:
    """The responses of a model with the reward model's score of each (raw logit, higher is better)."""
    return _scores(run, name, responses(run, name), sampled=False)


def sampled_scores(run: Run, name: str) -> pd.DataFrame:
    """The sampled responses of a model with the reward model's score of each."""
    return _scores(run, name, sampled_responses(run, name), sampled=True)


def _scores(run: Run, name: str, rows: pd.DataFrame, *, sampled: bool) -> pd.DataFrame:
    judge, answers = reward_model(run), _answers_of(name, sampled=sampled)
    uses, needs = identity(judge)

    def build(folder: Path) -> None:
        from ..scoring import score

        s = run.settings
        values = score(
            judge, list(rows["prompt"]), list(rows["response"]), batch_size=s.scoring_batch_size, device=s.device
        )
        pd.DataFrame({"score": values}).to_csv(folder / "scores.csv", index=False)

    uses |= {"device": run.settings.device}
    folder = run.stage(
        answers.replace("responses", "scores"), uses=uses, needs=[*needs, run.folder / "stages" / answers], build=build
    )
    return rows.assign(score=pd.read_csv(folder / "scores.csv")["score"].to_numpy())


def heldout_scores(run: Run) -> pd.DataFrame:
    """Held-out pairs with the judge's chosen_score and rejected_score: its accuracy and its cut-offs come from here."""
    judge = reward_model(run)
    uses, needs = identity(judge)
    rows = pairs(run).heldout

    def build(folder: Path) -> None:
        from ..scoring import pair_scores

        s = run.settings
        pair_scores(judge, rows, batch_size=s.scoring_batch_size, device=s.device).to_csv(
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
    judge = reward_model(run)
    uses, needs = identity(judge)

    def build(folder: Path) -> None:
        from ..scoring import pair_scores

        s = run.settings
        frame = pair_scores(judge, rows, batch_size=s.scoring_batch_size, device=s.device)
        frame.to_csv(folder / "scores.csv", index=False)

    texts = pd.util.hash_pandas_object(rows[["prompt", "chosen", "rejected"]], index=False)
    uses |= {"device": run.settings.device, "rows": int(texts.sum())}
    folder = run.stage(f"second_opinion-{name}", uses=uses, needs=needs, build=build)
    return pd.read_csv(folder / "scores.csv").set_axis(rows.index)


def thresholds(run: Run, rule: str | None = None) -> metrics.Thresholds:
    """The scores above which a response counts as harmless or helpful.

    "published": -3 and -2, which mean something on the published reward model's scale only. "calibrated": for each
    side the cut that best separates good from bad held-out replies under this run's judge. Which are good the oracle
    says in the embedded world; elsewhere the chosen ones are taken for good and the rejected ones for bad.
    """
    if (rule or run.settings.thresholds) == "published":
        return metrics.PUBLISHED
    replies = calibration_replies(run)
    cuts = [
        metrics.calibrate(own["score"][own["good"]], own["score"][~own["good"]])
        for own in (replies[replies["side"] == side] for side in metrics.SIDES)
    ]
    return metrics.Thresholds(*cuts, "calibrated")


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
        from ..synthetic import judge

        known = pd.Series([judge(row.prompt, row.reply).good for row in replies.itertuples()])
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
    from ..synthetic import judge

    rates = {}
    for name in models(run):
        rows = responses(run, name)
        good = rows.apply(lambda row: judge(row["prompt"], row["response"]).good, axis=1)
        sides = zip(("hmr", "hpr"), metrics.SIDES, strict=True)
        rates[name] = {metric: metrics.wilson(good[rows["side"] == side]) for metric, side in sides}
    return rates
