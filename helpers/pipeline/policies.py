"""The models of a run: the base policy, the reward model, and the trainings, with their logs."""

import json
from pathlib import Path

import pandas as pd

from helpers.core import distributed
from helpers.core.errors import SettingsError, StageError
from helpers.core.files import read_json
from helpers.core.methods import (
    Method,
    method_of,
    model_names,
    models_of,
    nearest_model,
    reference_used,
    starts_from,
    why_not_trainable,
)
from helpers.data.pairs import Fitted, fit_to_length, sample_pairs
from helpers.pipeline.pairs import all_train, pairs, pairs_folder, token_counter
from helpers.pipeline.run import Run
from helpers.pipeline.sources import identity, source

LOCAL_VOCABULARY = 4096


def models(run: Run) -> tuple[str, ...]:
    """The models of a run that are compared, Base first: setting models."""
    return models_of(run.settings)


def trained(run: Run) -> tuple[str, ...]:
    """The models of a run that it trains, in their order: all but Base."""
    return models_of(run.settings)[1:]


def method(run: Run, name: str) -> Method:
    """The row of `methods.METHODS` by which a run trains a model."""
    return method_of(name, run.settings.preference_loss)


def base_policy(run: Run) -> Path | str:
    """The base policy as a folder or a hub id: shipped, given, or pre-trained here on the dialogues (profile local)."""
    origin = source(run, "policy")
    if origin != "":
        return origin
    s = run.settings
    names = ("pretrain_epochs", "pretrain_learning_rate", "seed", "device")

    def build(folder: Path) -> None:
        from helpers.models.small_models import train_policy_tokenizer
        from helpers.training.pretrain import pretrain

        train, heldout = all_train(run), pairs(run).heldout
        # Take one dialogue of each pair, the chosen and the rejected one in turn: a base model prefers neither.
        replies = train["chosen"].where(train.index % 2 == 0, train["rejected"])
        texts = list(train["prompt"] + replies)
        heldout_texts = list(heldout["prompt"] + heldout["chosen"])
        tokenizer = train_policy_tokenizer(texts, LOCAL_VOCABULARY)
        pretrain(tokenizer, texts, heldout_texts, s, folder)

    uses = {name: getattr(s, name) for name in names} | {"vocabulary": LOCAL_VOCABULARY}
    return run.stage("base", uses=uses, needs=[pairs_folder(run)], build=build, together=True) / "model"


def reward_model(run: Run) -> Path | str:
    """The reward model as a folder or a hub id: shipped, given, or trained here on training pairs (profile local)."""
    origin = source(run, "reward_model")
    if origin != "":
        return origin
    s = run.settings

    def build(folder: Path) -> None:
        from helpers.models.small_models import new_reward_model, train_reward_tokenizer
        from helpers.training.reward_model import train_reward_model

        train = all_train(run)
        # Both dialogues of every pair teach the tokenizer; a sample of the pairs teaches the reward model.
        texts = pd.concat([train["prompt"] + train["chosen"], train["prompt"] + train["rejected"]])
        tokenizer = train_reward_tokenizer(list(texts), LOCAL_VOCABULARY)
        fresh = new_reward_model(tokenizer, seed=s.seed)
        sampled = sample_pairs(train, s.reward_pairs, s.seed)
        train_reward_model(fresh, tokenizer, sampled, pairs(run).heldout, s, folder)

    names = ("reward_epochs", "reward_learning_rate", "reward_pairs", "seed", "device")
    uses = {name: getattr(s, name) for name in names} | {"vocabulary": LOCAL_VOCABULARY}
    return run.stage("reward_model", uses=uses, needs=[pairs_folder(run)], build=build, together=True) / "model"


def policy(run: Run, name: str) -> Path | str:
    """The folder (for base also a hub id) of a model, trained when it is missing.

    name: base, sft, dpo, sft_dpo, orpo or any other of `methods.model_names`, also one that setting models does not
    name. Raises StageError for an unknown name, SettingsError for a model that these settings cannot train.
    """
    return base_policy(run) if name == "base" else _trained(run, name) / "model"


def _trained(run: Run, name: str) -> Path:
    """The stage of a training: the folder that holds model, log, counts and timing."""
    # Refuse what cannot be trained.
    if name not in model_names()[1:]:
        raise StageError(f"no model is called {name!r}{nearest_model(name)}")
    if refused := why_not_trainable(name, run.settings):
        raise SettingsError(refused)
    s, how = run.settings, method(run, name)
    # What it starts from, the base policy or the SFT model, is made first.
    start = policy(run, starts_from(name))
    uses, needs = identity(start)

    def build(folder: Path) -> None:
        from helpers.training import dpo, reference_logps, sft

        # Make the rows fit into the length limits, and note how many did not.
        train, heldout = _fitted(run, start, how)
        fitting = {"prompts_shortened": train.prompts_shortened, "rows_too_long": train.rows_dropped}
        if distributed.is_main():
            (folder / "fitting.json").write_text(json.dumps(fitting))
        # Train by the method's trainer.
        given = (start, train.pairs, heldout.pairs, s, folder)
        if how.rows == "completions":
            sft.train_sft(*given)
        elif reference_used(how, s) == "precomputed":
            known = reference_logps.load(_reference(run, name, start))
            dpo.train_preferences(*given, method=how, reference=known)
        else:
            dpo.train_preferences(*given, method=how)

    uses |= {field: getattr(s, field) for field in _settings_of(run, how)}
    uses |= {"loss": how.loss} if how.loss else {}
    return run.stage(name, uses=uses, needs=[*needs, pairs_folder(run)], build=build, together=True)


def _settings_of(run: Run, how: Method) -> list[str]:
    """The settings that a training depends on: those of its method, and no other method's."""
    fields = list(type(run.settings).model_fields)
    # Learning rate, batch size and the like have the method's prefix, sft_ or dpo_.
    used = [field for field in fields if field.startswith(how.prefix + "_")]
    used += ["seed", "device", "dropout", "gradient_accumulation", "max_prompt_length"]
    if how.rows == "completions":
        used += ["completion_only"]
    else:
        used += ["explicit_prompt", *how.from_settings.values()]
        used += [field for field in fields if "lora" in field]
    # These count only where they are set: what their defaults come to depends on the device, which counts already.
    where_set = ("precision", "rows_at_once", "activation_checkpointing")
    used += [field for field in where_set if run.resolved.source[field] == "you"]
    # A method without a reference model does not depend on where its log-probabilities come from.
    if not how.has_reference and "dpo_reference" in used:
        used.remove("dpo_reference")
    return used


def _fitted(run: Run, start: Path | str, how: Method) -> tuple[Fitted, Fitted]:
    """Training and held-out pairs as a method takes them: shortened, and without rows that are too long."""
    from helpers.models.loading import load_tokenizer

    s, data = run.settings, pairs(run)
    # Rows are fitted here when prompt and completion are apart; whole dialogues are cut by TRL, as in the paper.
    apart = s.completion_only if how.rows == "completions" else s.explicit_prompt
    if not apart:
        return Fitted(data.train, 0, 0), Fitted(data.heldout, 0, 0)
    count_tokens = token_counter(load_tokenizer(start))
    limit = {"max_prompt_length": s.max_prompt_length, "max_length": getattr(s, f"{how.prefix}_max_length")}
    return fit_to_length(data.train, count_tokens, **limit), fit_to_length(data.heldout, count_tokens, **limit)


def _reference(run: Run, name: str, start: Path | str) -> Path:
    """The log-probabilities of `start` as a reference: one stage for all trainings from it with these pairs."""
    s = run.settings
    uses, needs = identity(start)
    names = ("dpo_max_length", "max_prompt_length", "explicit_prompt", "device")
    uses |= {field: getattr(s, field) for field in names}
    # What "auto" comes to depends on the profile, and on the device, which counts already.
    uses["precision"] = f"auto in {s.profile}" if s.precision == "auto" else s.precision

    def build(folder: Path) -> None:
        from helpers.training import dpo, reference_logps

        train, heldout = _fitted(run, start, method(run, name))
        known = dpo.reference_of(start, train.pairs, heldout.pairs, s, folder)
        if distributed.is_main():
            reference_logps.save(known, folder)

    needs = [*needs, pairs_folder(run)]
    return run.stage(f"reference-{starts_from(name)}", uses=uses, needs=needs, build=build, together=True)


def training_log(run: Run, name: str) -> pd.DataFrame:
    """The training log of a model, one row an event: columns step, epoch, split ("train", "heldout"), loss and others.

    name: as in `policy`, or base or reward_model in profile local. Raises StageError for a model that has no log.
    """
    return pd.read_csv(_log_folder(run, name) / "log.csv")


def training_summary(run: Run, name: str) -> dict:
    """Counts and sizes of a training: rows given, used, shortened and dropped, trainable parameters, steps."""
    folder = _log_folder(run, name)
    summary = json.loads((folder / "summary.json").read_text())
    return summary | read_json(folder / "fitting.json")  # {} where the rows were not fitted here


def training_timing(run: Run, name: str) -> dict:
    """What a training took when it was made: seconds, steps, tokens a second, peak memory, device; {} if unknown."""
    return read_json(_log_folder(run, name) / "timing.json")


def _log_folder(run: Run, name: str) -> Path:
    """The folder of a training's log. Raises StageError for a base policy or reward model that was not trained here."""
    if name in model_names()[1:]:
        return _trained(run, name)
    model = {"base": base_policy, "reward_model": reward_model}[name](run)
    if not isinstance(model, Path) or not (model.parent / "log.csv").exists():
        raise StageError(f"{name} was not trained in run {run.name}, so it has no log: only profile local trains it")
    return model.parent
