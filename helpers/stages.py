"""The stage graph: what the experiment is made of, and what each part is made from.

    pairs ──┬── base ─────┬── sft ── sft_dpo ──┐
            │             └── dpo ─────────────┼── responses ── scores ── evaluation
            └── reward_model ── calibration ───┘

Every function takes a run and returns its result, building what is missing on the way. Notebooks ask for what
they need and never care whether it was there already.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from . import metrics, preferences
from .dialogues import left_truncate
from .errors import DataError, StageError
from .metrics import LABELS
from .runs import Run, locate
from .settings import DATA_CACHE

MODELS = tuple(LABELS)
STARTS_FROM = {"sft": "base", "dpo": "base", "sft_dpo": "sft"}

EMBEDDED = {
    "dataset": DATA_CACHE / "mini_hh",
    "policy": DATA_CACHE / "policy",
    "reward_model": DATA_CACHE / "reward_model",
}
LOCAL_VOCABULARY = 4096


class Pairs(NamedTuple):
    """Training pairs, held-out pairs, evaluation prompts, and what was counted on the way."""

    train: pd.DataFrame
    heldout: pd.DataFrame
    prompts: pd.DataFrame
    counts: dict


# ------------------------------------------------------------------------------------------------ where from


def source(run: Run, what: str) -> Path | str:
    """The dataset, policy or reward model of a run as a folder or a hub id; "" where the run trains its own."""
    given = getattr(run.settings, what)
    if given is not None:
        return locate(given) or given
    return "" if run.settings.profile == "local" else EMBEDDED[what]


def _identity(origin: Path | str) -> tuple[dict, list[Path]]:
    """How a source enters a fingerprint: a folder by its content, a hub id by its name and revision."""
    if isinstance(origin, Path):
        return {}, [origin]
    from .models import REVISIONS

    return {"hub": origin, "revision": (REVISIONS | preferences.HUB_REVISIONS).get(origin)}, []


# -------------------------------------------------------------------------------------------------- the data


def pairs(run: Run) -> Pairs:
    """Training and held-out pairs and the evaluation prompts of a run; no first human turn is on two sides."""
    s, origin = run.settings, source(run, "dataset")
    subsets = [subset.strip() for subset in s.subsets.split(",")]
    uses, needs = _identity(origin)
    if needs:
        found = [preferences.find_split(origin, subset, split) for subset in subsets for split in ("train", "test")]
        needs = [path for path in found if path]
    own_number = s.eval_prompts if run.resolved.source["eval_prompts"] == "you" else None
    names = ("train_pairs", "heldout_pairs", "eval_prompts", "skip_malformed", "seed")
    uses |= {name: getattr(s, name) for name in names} | {"subsets": subsets, "own_number": own_number}

    def build(folder: Path) -> None:
        read = [
            preferences.load_pairs(origin, subsets, split, skip_malformed=s.skip_malformed)
            for split in ("train", "test")
        ]
        (train, train_out), (test, test_out) = read
        if train.empty:
            raise DataError(f"{origin} holds no training pair in {s.subsets}: give another dataset or other subsets")
        prompts, which = _evaluation_dialogues(origin, subsets, train, test, s.eval_prompts, paper=own_number is None)
        clean = preferences.without_first_turns(train, prompts)
        heldout = preferences.without_first_turns(preferences.without_first_turns(test, prompts), train)
        frames = {
            "train": preferences.sample_pairs(clean, s.train_pairs, s.seed),
            "heldout": preferences.sample_pairs(heldout, s.heldout_pairs, preferences.PAPER_SEED),
            "all_train": clean,
            "prompts": prompts,
        }
        for name, frame in frames.items():
            frame.to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
        counts = {
            "train pairs read": len(train),
            "test pairs read": len(test),
            **{f"train rows left out: {reason}": n for reason, n in train_out.items()},
            **{f"test rows left out: {reason}": n for reason, n in test_out.items()},
            "train pairs removed because an evaluation prompt opens them": len(train) - len(clean),
            "train pairs used": len(frames["train"]),
            "held-out pairs used": len(frames["heldout"]),
            "evaluation prompts": which,
        }
        (folder / "counts.json").write_text(json.dumps(counts, indent=1))

    folder = run.stage("pairs", uses=uses, needs=needs, build=build)
    frames = [_read_rows(folder / f"{name}.jsonl") for name in ("train", "heldout", "prompts")]
    return Pairs(*frames, json.loads((folder / "counts.json").read_text()))


def _evaluation_dialogues(origin, subsets, train, test, n, *, paper: bool) -> tuple[pd.DataFrame, str]:
    """The dialogues whose prompts are evaluated: the paper's 100 on the official HH test files, else n a side."""
    if paper and {"harmless-base", "helpful-base"} <= set(subsets):
        transcripts = preferences.load_transcripts(origin, ["harmless-base", "helpful-base"], "test")
        try:
            rows = preferences.paper_rows(transcripts)
        except DataError:
            rows = transcripts.iloc[:0].assign(side=[])
        if len(rows) and preferences.is_paper_source(rows):
            return rows.assign(prompt=rows["chosen"])[["side", "subset", "line", "prompt", "chosen"]], "the paper's 100"
    rows = preferences.sample_prompts(test, train, n)
    whole = rows.assign(chosen=rows["prompt"] + rows["chosen"])
    return whole[["side", "subset", "line", "prompt", "chosen"]], f"{n} a side, drawn from the test pairs"


def _read_rows(path: Path) -> pd.DataFrame:
    return pd.read_json(path, orient="records", lines=True, convert_dates=False, dtype=False)


def evaluation_prompts(run: Run) -> pd.DataFrame:
    """The evaluation prompts as the models see them: columns side, subset, line, prompt (str)."""
    from .models import load_tokenizer

    s = run.settings
    tokenizer = load_tokenizer(base_policy(run))
    rows = pairs(run).prompts
    split = rows["chosen"].map(preferences.split_reply)
    shortened = split.map(lambda parts: left_truncate(parts[0], _counter(tokenizer), s.max_prompt_length)[0] + parts[1])
    return rows.assign(prompt=shortened.map(lambda text: preferences.with_cue(text, s.closing_cue))).drop(
        columns="chosen"
    )


def _counter(tokenizer):
    return lambda text: len(tokenizer(text)["input_ids"])


# ------------------------------------------------------------------------------------------------- the models


def base_policy(run: Run) -> Path | str:
    """The untrained starting point: shipped, given, or pre-trained here on the dialogues (profile local)."""
    origin = source(run, "policy")
    if origin != "":
        return origin
    s = run.settings
    names = ("pretrain_epochs", "pretrain_learning_rate", "seed", "device")

    def build(folder: Path) -> None:
        from . import models, training

        train, heldout = _all_train(run), pairs(run).heldout
        # One dialogue of each pair, chosen and rejected in turn: a base model has no side.
        replies = train["chosen"].where(train.index % 2 == 0, train["rejected"])
        texts = train["prompt"] + replies
        tokenizer = models.train_policy_tokenizer(list(texts), LOCAL_VOCABULARY)
        training.pretrain(tokenizer, list(texts), list(heldout["prompt"] + heldout["chosen"]), s, folder)

    uses = {name: getattr(s, name) for name in names} | {"vocabulary": LOCAL_VOCABULARY}
    return run.stage("base", uses=uses, needs=[_pairs_folder(run)], build=build) / "model"


def reward_model(run: Run) -> Path | str:
    """The judge: shipped, given, or trained here on the training pairs (profile local)."""
    origin = source(run, "reward_model")
    if origin != "":
        return origin
    s = run.settings

    def build(folder: Path) -> None:
        from . import models, training

        train = _all_train(run)
        texts = pd.concat([train["prompt"] + train["chosen"], train["prompt"] + train["rejected"]])
        tokenizer = models.train_reward_tokenizer(list(texts), LOCAL_VOCABULARY)
        fresh = models.new_reward_model(tokenizer, seed=s.seed)
        chosen = preferences.sample_pairs(train, s.reward_pairs, s.seed)
        training.train_reward_model(fresh, tokenizer, chosen, pairs(run).heldout, s, folder)

    names = ("reward_epochs", "reward_learning_rate", "reward_pairs", "seed", "device")
    uses = {name: getattr(s, name) for name in names} | {"vocabulary": LOCAL_VOCABULARY}
    return run.stage("reward_model", uses=uses, needs=[_pairs_folder(run)], build=build) / "model"


def _pairs_folder(run: Run) -> Path:
    pairs(run)
    return run.folder / "stages" / "pairs"


def _all_train(run: Run) -> pd.DataFrame:
    return _read_rows(_pairs_folder(run) / "all_train.jsonl")


def policy(run: Run, name: str) -> Path | str:
    """The folder of one of the four models: base, sft, dpo or sft_dpo, trained when it is missing."""
    return base_policy(run) if name == "base" else _trained(run, name) / "model"


def _trained(run: Run, name: str) -> Path:
    if name not in STARTS_FROM:
        raise StageError(f"no model is called {name!r}: the four are {', '.join(MODELS)}")
    s, kind = run.settings, "sft" if name == "sft" else "dpo"
    start = policy(run, STARTS_FROM[name])
    own = [field for field in type(s).model_fields if field.startswith(kind + "_")]
    shared = ["seed", "device", "dropout", "gradient_accumulation", "max_prompt_length"]
    shared += (
        ["completion_only"]
        if kind == "sft"
        else ["beta", "explicit_prompt", *(f for f in type(s).model_fields if "lora" in f)]
    )
    uses, needs = _identity(start)

    def build(folder: Path) -> None:
        from . import models, training

        data = pairs(run)
        count_tokens = _counter(models.load_tokenizer(start))
        limit = {"max_prompt_length": s.max_prompt_length, "max_length": getattr(s, f"{kind}_max_length")}
        # Rows are fitted here when prompt and completion are apart; whole dialogues are cut by TRL, as in the paper.
        apart = s.completion_only if kind == "sft" else s.explicit_prompt

        def fit(rows: pd.DataFrame) -> preferences.Fitted:
            return preferences.fit_to_length(rows, count_tokens, **limit) if apart else preferences.Fitted(rows, 0, 0)

        train, heldout = fit(data.train), fit(data.heldout)
        fitting = {"prompts_shortened": train.prompts_shortened, "rows_too_long": train.rows_dropped}
        (folder / "fitting.json").write_text(json.dumps(fitting))
        (training.train_sft if kind == "sft" else training.train_dpo)(start, train.pairs, heldout.pairs, s, folder)

    uses |= {field: getattr(s, field) for field in own + shared}
    return run.stage(name, uses=uses, needs=[*needs, _pairs_folder(run)], build=build)


def training_log(run: Run, name: str) -> pd.DataFrame:
    """The training log of sft, dpo or sft_dpo (or base and reward_model in profile local), one row an event."""
    return pd.read_csv(_log_folder(run, name) / "log.csv")


def training_summary(run: Run, name: str) -> dict:
    """Counts and sizes of a training: rows given, used, shortened and dropped, trainable parameters, steps."""
    folder = _log_folder(run, name)
    summary = json.loads((folder / "summary.json").read_text())
    fitting = folder / "fitting.json"
    return summary | (json.loads(fitting.read_text()) if fitting.exists() else {})


def _log_folder(run: Run, name: str) -> Path:
    if name in STARTS_FROM:
        return _trained(run, name)
    model = {"base": base_policy, "reward_model": reward_model}[name](run)
    if not isinstance(model, Path) or not (model.parent / "log.csv").exists():
        raise StageError(f"{name} was not trained in run {run.name}, so it has no log: only profile local trains it")
    return model.parent


# --------------------------------------------------------------------------------------------- the evaluation


def responses(run: Run, name: str) -> pd.DataFrame:
    """What a model answers greedily to the evaluation prompts: the prompts with columns response, tokens, ended."""
    return _responses(run, name, None)


def sampled_responses(run: Run, name: str) -> pd.DataFrame:
    """One answer to each evaluation prompt sampled at temperature 1, as `responses` else."""
    return _responses(run, name, run.settings.seed)


def _responses(run: Run, name: str, sample_seed: int | None) -> pd.DataFrame:
    s, model = run.settings, policy(run, name)
    uses, needs = _identity(model)
    names = ("max_new_tokens", "max_prompt_length", "closing_cue", "device")
    uses |= {field: getattr(s, field) for field in names} | {"batch": s.generation_batch_size}
    uses |= {} if sample_seed is None else {"sample_seed": sample_seed}

    def build(folder: Path) -> None:
        from .generation import generate

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
    return _read_rows(run.stage(stage, uses=uses, needs=[*needs, _pairs_folder(run)], build=build) / "responses.jsonl")


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
    uses, needs = _identity(judge)

    def build(folder: Path) -> None:
        from .scoring import score

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
    uses, needs = _identity(judge)
    rows = pairs(run).heldout

    def build(folder: Path) -> None:
        from .scoring import pair_scores

        s = run.settings
        pair_scores(judge, rows, batch_size=s.scoring_batch_size, device=s.device).to_csv(
            folder / "scores.csv", index=False
        )

    uses |= {"device": run.settings.device}
    folder = run.stage("calibration", uses=uses, needs=[*needs, _pairs_folder(run)], build=build)
    return rows.join(pd.read_csv(folder / "scores.csv"))


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
        from .synthetic import judge

        known = pd.Series([judge(row.prompt, row.reply).good for row in replies.itertuples()])
        # Of a handful of replies (profile smoke) none may be good on a side: there the labels must do.
        if (known.groupby(replies["side"]).nunique() == 2).all():
            replies["good"] = known
    return replies[["side", "score", "good"]]


def knows_truth(run: Run) -> bool:
    """Whether the dialogues are the embedded ones, of which an oracle knows what is good."""
    return run.settings.dataset is None


def evaluation(run: Run, rule: str | None = None) -> metrics.Evaluation:
    """HmR, HpR and CAS of the four models with intervals, and all paired comparisons."""
    return metrics.evaluate({name: scores(run, name) for name in MODELS}, thresholds(run, rule), seed=run.settings.seed)


def truth(run: Run) -> dict[str, dict[str, metrics.Rate]] | None:
    """The share of truly good responses of each model, "hmr" and "hpr", by the embedded world's oracle.

    None where the dialogues are not the embedded ones: nobody knows the truth about those.
    """
    if not knows_truth(run):
        return None
    from .synthetic import judge

    rates = {}
    for name in MODELS:
        rows = responses(run, name)
        good = rows.apply(lambda row: judge(row["prompt"], row["response"]).good, axis=1)
        sides = zip(("hmr", "hpr"), metrics.SIDES, strict=True)
        rates[name] = {metric: metrics.wilson(good[rows["side"] == side]) for metric, side in sides}
    return rates
