"""The responses of a run's models to the evaluation prompts, and the reward model's score of each."""

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
    count_tokens = token_counter(load_tokenizer(base_policy(run)))
    rows = pairs(run).prompts

    def shown(dialogue: str) -> str:
        # The oldest turns go where a prompt is too long; the closing cue is added or left out as the recipe has it.
        prompt, reply = transcripts.split_reply(dialogue)
        shortened, _ = left_truncate(prompt, count_tokens, s.max_prompt_length)
        return prompts.with_cue(shortened + reply, s.closing_cue)

    return rows.assign(prompt=rows["chosen"].map(shown)).drop(columns="chosen")


def responses(run: Run, name: str) -> pd.DataFrame:
    """The evaluation prompts with a model's greedy response to each.

    Returns the columns of `evaluation_prompts` with response (str), tokens (its length) and ended (whether with EOS).
    """
    return _responses(run, name, None)


def sampled_responses(run: Run, name: str) -> pd.DataFrame:
    """The evaluation prompts with one response to each, sampled at temperature 1; columns as in `responses`."""
    return _responses(run, name, run.settings.seed)


def _responses(run: Run, name: str, sample_seed: int | None) -> pd.DataFrame:
    """Responses of a model as a stage; sample_seed None: greedy."""
    s, model = run.settings, policy(run, name)
    uses, needs = identity(model)
    # What a response depends on. On some devices its last bits depend on the batch too.
    names = ("max_new_tokens", "max_prompt_length", "closing_cue", "device")
    uses |= {field: getattr(s, field) for field in names}
    uses["batch"] = s.generation_batch_size
    if sample_seed is not None:
        uses["sample_seed"] = sample_seed

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

    stage = _stage_of_responses(name, sampled=sample_seed is not None)
    folder = run.stage(stage, uses=uses, needs=[*needs, pairs_folder(run)], build=build)
    return read_rows(folder / "responses.jsonl")


def _stage_of_responses(name: str, *, sampled: bool) -> str:
    return f"responses-{name}-sampled" if sampled else f"responses-{name}"


def scores(run: Run, name: str) -> pd.DataFrame:
    """The responses of a model with the reward model's score of each: column score (logit, higher is better)."""
    return _scores(run, name, responses(run, name), sampled=False)


def sampled_scores(run: Run, name: str) -> pd.DataFrame:
    """The sampled responses of a model with the reward model's score of each."""
    return _scores(run, name, sampled_responses(run, name), sampled=True)


def _scores(run: Run, name: str, rows: pd.DataFrame, *, sampled: bool) -> pd.DataFrame:
    """Scores of a model's responses `rows` as a stage."""
    origin = reward_model(run)
    uses, needs = identity(origin)

    def build(folder: Path) -> None:
        from helpers.models.scoring import score

        s = run.settings
        texts = list(rows["prompt"]), list(rows["response"])
        values = score(origin, *texts, batch_size=s.scoring_batch_size, device=s.device)
        pd.DataFrame({"score": values}).to_csv(folder / "scores.csv", index=False)

    uses |= {"device": run.settings.device}
    answered = _stage_of_responses(name, sampled=sampled)
    stage = answered.replace("responses", "scores")
    folder = run.stage(stage, uses=uses, needs=[*needs, run.folder / "stages" / answered], build=build)
    return rows.assign(score=pd.read_csv(folder / "scores.csv")["score"].to_numpy())
