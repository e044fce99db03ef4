"""What the models of a run answer to the evaluation prompts, and the reward model's score of each answer."""

from pathlib import Path

import pandas as pd

from helpers.data import prompts, transcripts
from helpers.data.transcripts import left_truncate
from helpers.pipeline.pairs import pairs, pairs_folder, read_rows, token_counter
from helpers.pipeline.policies import base_policy, policy, reward_model
from helpers.pipeline.run import Run
from helpers.pipeline.sources import identity


def evaluation_prompts(run: Run) -> pd.DataFrame:
    """The evaluation prompts as the models see them: columns side, subset, line, prompt (str)."""
    from helpers.models.loading import load_tokenizer

    s = run.settings
    tokenizer = load_tokenizer(base_policy(run))
    rows = pairs(run).prompts
    split = rows["chosen"].map(transcripts.split_reply)
    shortened = split.map(
        lambda parts: left_truncate(parts[0], token_counter(tokenizer), s.max_prompt_length)[0] + parts[1]
    )
    return rows.assign(prompt=shortened.map(lambda text: prompts.with_cue(text, s.closing_cue))).drop(columns="chosen")


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
        from helpers.models.generation import generate

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
        from helpers.models.scoring import score

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
