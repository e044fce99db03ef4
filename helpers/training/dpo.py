"""Preference optimisation of a LoRA adapter: DPO and the other losses on pairs of completions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from transformers import set_seed

from helpers.core import distributed
from helpers.core.errors import SettingsError
from helpers.core.files import read_json, write_json
from helpers.core.methods import BY_LOSS, METHODS, Method, imported
from helpers.core.quiet import quiet
from helpers.models.families import query_value
from helpers.models.hardware import wants_bfloat16
from helpers.models.loading import load_policy, load_tokenizer, merge_adapter
from helpers.training import arguments, callbacks, loop, memory, preference_rows, reference_logps
from helpers.training.callbacks import Progress
from helpers.training.rows import check_prompts, check_rows, dataset, labelled_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from helpers.core.settings import Settings


def train_dpo(
    policy: Path | str,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    method: Method | None = None,
    known: reference_logps.Reference | None = None,
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
    with quiet(), labelled_only():
        trainer = preference_trainer(policy, train, heldout, settings, out, method)
        tokenizer = trainer.processing_class
        _give_reference(trainer, method, settings, known)
        chosen, rejected = preference_rows.preference_ids(trainer.train_dataset)
        counts = check_rows(trainer, len(train), chosen + rejected, tokenizer.eos_token_id, "EOS")
        if settings.explicit_prompt:
            for side in reference_logps.COMPLETIONS:
                check_prompts(trainer.train_dataset["prompt"], trainer.train_dataset[side], tokenizer)
        lengths = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
        loop.train(
            trainer,
            settings,
            lengths,
            prompts=heldout["prompt"],
            starts_at=_start(method, settings),
            progress=progress,
            sequences=[*map(len, chosen + rejected)],
        )
        loop.save_trained(trainer, out / "adapter")
        if distributed.is_main():
            _tidy_adapter(out / "adapter")
            merge_adapter(policy, out / "adapter", out / "model")
        loop.write_log(trainer, out, counts)


def _give_reference(trainer, method: Method, settings: Settings, known: reference_logps.Reference | None) -> None:
    """Put the reference's log-probabilities beside the rows, unless it is asked in each step or the loss has none."""
    if not method.has_reference:
        return
    if settings.dpo_reference == "precomputed":
        reference_logps.give(trainer, known or reference_logps.compute(trainer))
        for _ in reference_logps.SPLITS:  # TRL's own way drew these: with dropout the next numbers decide the noise
            torch.empty((), dtype=torch.int64).random_()
    elif settings.dpo_reference == "none":
        reference_logps.give(trainer, None)


def _start(method: Method, settings: Settings) -> callbacks.Start | None:
    """The loss that must be seen first; None where dropout disturbs it or the method does not know it."""
    expected = method.expected_first_loss(settings)
    if expected is None or settings.dropout or settings.lora_dropout:
        return None
    # A bfloat16 product depends on the other rows of its batch, and a kept reference comes from other batches.
    near = 0.02 if settings.dpo_reference == "precomputed" and wants_bfloat16(settings) else 1e-4
    return callbacks.Start(method.title, method.first_loss_name, expected, near * max(1.0, expected), method.cause)


def reference_of(
    policy: Path | str, train: pd.DataFrame, heldout: pd.DataFrame, settings: Settings, out: Path
) -> reference_logps.Reference:
    """The log-probabilities that `train_dpo` takes as `known`, for the same rows and settings. `out`: as there.

    They are the same for every method that has a reference: no loss enters them.
    """
    with quiet(), labelled_only():
        return reference_logps.compute(preference_trainer(policy, train, heldout, settings, out, METHODS["dpo"]))


def preference_trainer(
    policy: Path | str, train: pd.DataFrame, heldout: pd.DataFrame, settings: Settings, out: Path, method: Method
):
    """TRL's trainer with a fresh adapter, its rows prepared and numbered."""
    from peft import LoraConfig

    data = [dataset(_dpo_rows(rows, settings.explicit_prompt)) for rows in (train, heldout)]
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, dropout=settings.dropout, device="cpu")
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(model, settings.lora_targets),
        task_type="CAUSAL_LM",
    )
    fitting = memory.rows_for_this_device(settings, method, model)
    own = method.arguments(settings)
    if method.memory == "dpo, all logits" and fitting:
        own["per_device_eval_batch_size"] = fitting[0]  # every logit of held-out rows is kept too
    plan = arguments.training_arguments(
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
