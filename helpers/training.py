"""Pre-training, SFT, DPO and reward modelling: thin functions over TRL's trainers.

Every function fills a folder: model/ (whole float32 model and tokenizer), log.csv, summary.json, timing.json and, while
it runs, checkpoints/, from which a later call with the same arguments goes on. `progress`, where given, hears (step,
steps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from . import preference_rows, processes, reference
from . import training_loop as loop
from .errors import CourseError, SettingsError
from .families import positions, query_value
from .folders import read_json, write_json
from .hardware import wants_bfloat16
from .methods import BY_LOSS, METHODS, Method, imported
from .models import (
    REWARD_MAX_LENGTH,
    load_policy,
    load_reward_model,
    load_tokenizer,
    merge_adapter,
    new_policy,
    quiet,
)
from .optimizers import muon
from .scoring import encode_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .settings import Settings

    Progress = Callable[[int, int], None]

UNLIMITED = 2048  # tokens of a text in pre-training where the policy itself sees any number
BATCH = 16  # rows a step where no setting says it: pre-training and the reward model


def pretrain(
    start: PreTrainedTokenizerBase | Path | str,
    texts: Sequence[str],
    heldout_texts: Sequence[str],
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Next-token training on whole dialogues, each closed by EOS.

    `start` is a tokenizer, for which a new small policy is made, or a policy's folder. Texts longer than the model
    can see are cut at the end. No dropout. Muon instead of AdamW: see `optimizers`.
    """
    from trl import SFTConfig, SFTTrainer

    if isinstance(start, PreTrainedTokenizerBase):
        model, tokenizer = new_policy(start, seed=settings.seed, dropout=0.0), start
    else:
        model, tokenizer = load_policy(start, dropout=0.0, device="cpu"), load_tokenizer(start)
    epochs, rate = settings.pretrain_epochs, settings.pretrain_learning_rate
    longest = positions(model.config) or UNLIMITED
    plan = loop.plan(SFTConfig, settings, out, epochs=epochs, rate=rate, batch=BATCH, max_length=longest)
    data = [loop.dataset(pd.DataFrame({"text": list(rows)})) for rows in (texts, heldout_texts)]
    set_seed(settings.seed)
    with quiet(), loop.labelled_only():
        trainer = SFTTrainer(
            model,
            plan,
            train_dataset=data[0],
            eval_dataset=data[1],
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=_with_muon(rate),
        )
        ids = list(trainer.train_dataset["input_ids"])
        counts = loop.check_rows(trainer, len(texts), ids, tokenizer.eos_token_id, "EOS")
        loop.run(trainer, settings, [*map(len, ids)], progress=progress)
        loop.save(trainer, out / "model", tokenizer)
        loop.report(trainer, out, counts)


def _with_muon(rate: float) -> tuple[Callable, dict[str, float]]:
    """What a trainer needs to make the optimiser itself, once the model is in its place."""
    if processes.sharded():
        raise CourseError(
            "base and reward_model are trained with Muon, which needs whole matrices: train them first with ddp.yaml "
            "or in one process (--only base,reward_model)"
        )
    return lambda: muon, {"lr": rate}


def train_sft(
    policy: Path | str,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Supervised fine-tuning of all weights on the chosen completions.

    With settings.completion_only the loss is on the completion, else on every token of the dialogue, human turns
    included, as in the paper's code. Raises CourseError when a row would not teach EOS, or when a prompt's tokens
    change with what follows.
    """
    method = METHODS["sft"]
    data = [loop.dataset(_sft_rows(rows, settings.completion_only)) for rows in (train, heldout)]
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, dropout=settings.dropout, device="cpu")
    plan = loop.plan(
        imported(method.config),
        settings,
        out,
        epochs=settings.sft_epochs,
        rate=settings.sft_learning_rate,
        batch=settings.sft_batch_size,
        accumulate=settings.gradient_accumulation,
        fitting=loop.fits(settings, method, model),
        max_length=settings.sft_max_length,
    )
    set_seed(settings.seed)
    with quiet(), loop.labelled_only():
        trainer = imported(method.trainer)(
            model, plan, train_dataset=data[0], eval_dataset=data[1], processing_class=tokenizer
        )
        ids = list(trainer.train_dataset["input_ids"])
        counts = loop.check_rows(trainer, len(train), ids, tokenizer.eos_token_id, "EOS")
        if settings.completion_only:
            loop.check_prompts(trainer.train_dataset["prompt"], trainer.train_dataset["completion"], tokenizer)
        loop.run(trainer, settings, [*map(len, ids)], prompts=heldout["prompt"], progress=progress)
        loop.save(trainer, out / "model", tokenizer)
        loop.report(trainer, out, counts)


def _sft_rows(pairs: pd.DataFrame, completion_only: bool) -> pd.DataFrame:
    if completion_only:
        return pairs[["prompt", "chosen"]].rename(columns={"chosen": "completion"})
    return pd.DataFrame({"text": pairs["prompt"] + pairs["chosen"]})


def train_dpo(
    policy: Path | str,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    method: Method | None = None,
    known: reference.Reference | None = None,
    progress: Progress | None = None,
) -> None:
    """Preference optimisation of a LoRA adapter, by default with the loss that settings.preference_loss names.

    method: a row of `methods.METHODS` that trains on pairs. A reference model, where it has one, is the policy with the
    adapter off. Also writes out/adapter. With settings.explicit_prompt the prompt column is used, else TRL takes for
    the prompt what both dialogues begin with, character by character, as in the paper's code. With
    settings.dpo_reference "precomputed" the reference's log-probabilities are `known` (what `reference_of` gave; None:
    it is asked now), with "none" the loss is the one that the paper prints. Where the first loss is known in advance
    (ln 2 for DPO) and there is no dropout, another one is a CourseError that names the known causes.
    """
    method = method or BY_LOSS[settings.preference_loss]
    with quiet(), loop.labelled_only():
        trainer = _preference_trainer(policy, train, heldout, settings, out, method)
        tokenizer = trainer.processing_class
        _give_reference(trainer, method, settings, known)
        chosen, rejected = preference_rows.preference_ids(trainer.train_dataset)
        counts = loop.check_rows(trainer, len(train), chosen + rejected, tokenizer.eos_token_id, "EOS")
        if settings.explicit_prompt:
            for side in reference.SIDES:
                loop.check_prompts(trainer.train_dataset["prompt"], trainer.train_dataset[side], tokenizer)
        lengths = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
        loop.run(
            trainer,
            settings,
            lengths,
            prompts=heldout["prompt"],
            starts_at=_start(method, settings),
            progress=progress,
            sequences=[*map(len, chosen + rejected)],
        )
        loop.save(trainer, out / "adapter")
        if processes.is_main():
            _tidy_adapter(out / "adapter")
            merge_adapter(policy, out / "adapter", out / "model")
        loop.report(trainer, out, counts)


def _give_reference(trainer, method: Method, settings: Settings, known: reference.Reference | None) -> None:
    """Put the reference's log-probabilities beside the rows, unless it is asked in each step or the loss has none."""
    if not method.has_reference:
        return
    if settings.dpo_reference == "precomputed":
        reference.give(trainer, known or reference.compute(trainer))
        for _ in reference.SPLITS:  # TRL's own way drew these: with dropout the next numbers decide the noise
            torch.empty((), dtype=torch.int64).random_()
    elif settings.dpo_reference == "none":
        reference.give(trainer, None)


def _start(method: Method, settings: Settings) -> loop.Start | None:
    """The loss that must be seen first; None where dropout disturbs it or the method does not know it."""
    expected = method.expected_first_loss(settings)
    if expected is None or settings.dropout or settings.lora_dropout:
        return None
    # A bfloat16 product depends on the other rows of its batch, and a kept reference comes from other batches.
    near = 0.02 if settings.dpo_reference == "precomputed" and wants_bfloat16(settings) else 1e-4
    return loop.Start(method.title, method.first_loss_name, expected, near * max(1.0, expected), method.cause)


def reference_of(
    policy: Path | str, train: pd.DataFrame, heldout: pd.DataFrame, settings: Settings, out: Path
) -> reference.Reference:
    """The log-probabilities that `train_dpo` takes as `known`, for the same rows and settings. `out`: as there.

    They are the same for every method that has a reference: no loss enters them.
    """
    with quiet(), loop.labelled_only():
        return reference.compute(_preference_trainer(policy, train, heldout, settings, out, METHODS["dpo"]))


def _preference_trainer(
    policy: Path | str, train: pd.DataFrame, heldout: pd.DataFrame, settings: Settings, out: Path, method: Method
):
    """TRL's trainer with a fresh adapter, its rows prepared and numbered."""
    from peft import LoraConfig

    data = [loop.dataset(_dpo_rows(rows, settings.explicit_prompt)) for rows in (train, heldout)]
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, dropout=settings.dropout, device="cpu")
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(model, settings.lora_targets),
        task_type="CAUSAL_LM",
    )
    fitting = loop.fits(settings, method, model)
    own = method.arguments(settings)
    if method.memory == "dpo, all logits" and fitting:
        own["per_device_eval_batch_size"] = fitting[0]  # every logit of held-out rows is kept too
    plan = loop.plan(
        imported(method.config),
        settings,
        out,
        epochs=settings.dpo_epochs,
        rate=settings.dpo_learning_rate,
        batch=settings.dpo_batch_size,
        accumulate=settings.gradient_accumulation,
        fitting=fitting,
        max_length=settings.dpo_max_length,
        **own,
    )
    set_seed(settings.seed)  # the adapter's first weights are drawn before TRL seeds anything
    trainer = imported(method.trainer)(
        model, args=plan, train_dataset=data[0], eval_dataset=data[1], processing_class=tokenizer, peft_config=lora
    )
    preference_rows.drop_empty_completions(trainer)
    return trainer


def lora_targets(model: PreTrainedModel, wanted: str) -> list[str] | str:
    """PEFT's target_modules for the setting lora_targets, "q_v" or "all-linear".

    Raises SettingsError where "q_v" is asked for and the model's queries and values are not to be found by name.
    """
    if wanted != "q_v":
        return wanted
    if not (names := query_value(model)):
        raise SettingsError(
            f"lora_targets = 'q_v': nobody knows the names of queries and values in a {type(model).__name__}: "
            "set lora_targets to 'all-linear'"
        )
    return list(names)


def _tidy_adapter(folder: Path) -> None:
    """Take the policy's path and a set's chance order out of an adapter: equal runs give equal files anywhere."""
    (folder / "README.md").unlink()
    config = folder / "adapter_config.json"
    stated = read_json(config)
    targets = sorted(stated["target_modules"])
    write_json(config, stated | {"base_model_name_or_path": None, "target_modules": targets})


def _dpo_rows(pairs: pd.DataFrame, explicit_prompt: bool) -> pd.DataFrame:
    if explicit_prompt:
        rows = pairs[["prompt", "chosen", "rejected"]]
    else:
        rows = pd.DataFrame({side: pairs["prompt"] + pairs[side] for side in ("chosen", "rejected")})
    return rows.assign(row=range(len(rows)))


def train_reward_model(
    reward_model: PreTrainedModel | Path | str,
    tokenizer: PreTrainedTokenizerBase | None,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Bradley-Terry training of all weights of a reward model: a model with its tokenizer, or a folder.

    Rows are encoded here as the (prompt, completion) pairs that will be scored: TRL's own text path would make one
    segment of them and append a second [SEP]. float32 throughout. Muon, as in `pretrain`.
    """
    from trl import RewardConfig, RewardTrainer

    if isinstance(reward_model, str | Path):
        reward_model, tokenizer = load_reward_model(reward_model, "cpu")
    if reward_model.config.num_labels != 1:
        raise CourseError("a reward model with two labels can score but not be trained here: take one with one label")
    epochs, rate = settings.reward_epochs, settings.reward_learning_rate
    fixed = {"max_length": REWARD_MAX_LENGTH, "bf16": False}
    plan = loop.plan(RewardConfig, settings, out, epochs=epochs, rate=rate, batch=BATCH, **fixed)
    data = [loop.dataset(_reward_rows(rows, tokenizer)) for rows in (train, heldout)]
    set_seed(settings.seed)
    with quiet():
        trainer = RewardTrainer(
            reward_model,
            plan,
            train_dataset=data[0],
            eval_dataset=data[1],
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=_with_muon(rate),
        )
        chosen, rejected = (list(trainer.train_dataset[f"{side}_ids"]) for side in ("chosen", "rejected"))
        counts = loop.check_rows(trainer, len(train), chosen + rejected, tokenizer.sep_token_id, "[SEP]")
        lengths = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
        loop.run(trainer, settings, lengths, progress=progress, sequences=[*map(len, chosen + rejected)])
        loop.save(trainer, out / "model", tokenizer)
        loop.report(trainer, out, counts)


def _reward_rows(pairs: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Columns chosen_ids and rejected_ids: [CLS] prompt [SEP] completion [SEP]."""
    encoded = {
        f"{side}_ids": encode_pairs(tokenizer, pairs["prompt"], pairs[side])["input_ids"]
        for side in ("chosen", "rejected")
    }
    return pd.DataFrame(encoded)
