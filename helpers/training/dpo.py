"""Preference optimisation of a LoRA adapter: DPO and the other losses on pairs of chosen and rejected completions."""

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
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from helpers.core.settings import Settings


def train_preferences(
    policy: Path | str,
    train: pd.DataFrame,
    heldout: pd.DataFrame,
    settings: Settings,
    out: Path,
    *,
    method: Method | None = None,
    reference: reference_logps.Reference | None = None,
    progress: Progress | None = None,
) -> None:
    """Train a LoRA adapter on preference pairs, with DPO or another loss on chosen and rejected completions.

    policy: the model to start from, a folder or hub id; with the adapter switched off it is the reference model.
    train, heldout: pairs, columns prompt, chosen and rejected. With settings.explicit_prompt the prompt column is used;
    else TRL takes as the prompt what both dialogues begin with, character by character, as in the paper's code.
    method: a row of `core.methods.METHODS` that trains on pairs; None: the one that settings.preference_loss names.
    reference: the reference model's log-probabilities from `reference_of`, for settings.dpo_reference "precomputed";
    None: they are computed before the first step. With dpo_reference "none" DPO has no reference model: the loss that
    the paper prints. progress: called with (steps done, steps in all).

    Writes adapter/, model/ (the adapter merged into the policy), log.csv, summary.json and timing.json into `out`.
    Raises CourseError where the first loss is known in advance (ln 2 for DPO), dropout is off, and it is another one.
    """
    method = method or BY_LOSS[settings.preference_loss]
    with quiet(), labelled_only():
        # Tokenise the pairs and put a fresh LoRA adapter on the policy.
        trainer = preference_trainer(policy, train, heldout, settings, out, method)
        # Give each pair the reference model's log-probabilities, unless every step computes them anew.
        _provide_reference(trainer, method, settings, reference)
        # Check that completions end with EOS and that rows begin with the tokens of their prompts.
        chosen, rejected = preference_rows.preference_ids(trainer.train_dataset)
        eos = trainer.processing_class.eos_token_id
        counts = check_rows(trainer, len(train), chosen + rejected, eos, "EOS")
        if settings.explicit_prompt:
            _check_both_completions(trainer)
        # Train; a pair is as long as the longer one of its two sequences.
        longest = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
        loop.train(
            trainer,
            settings,
            longest,
            prompts=heldout["prompt"],
            starts_at=_first_loss(method, settings),
            progress=progress,
            sequences=[len(ids) for ids in chosen + rejected],
        )
        # Save the adapter, and the policy with the adapter added to its weights.
        loop.save_trained(trainer, out / "adapter")
        if distributed.is_main():
            _make_reproducible(out / "adapter")
            merge_adapter(policy, out / "adapter", out / "model")
        loop.write_log(trainer, out, counts)


def _provide_reference(
    trainer, method: Method, settings: Settings, reference: reference_logps.Reference | None
) -> None:
    """Add the reference model's log-probabilities to the rows; nothing where the loss has none or they are "live"."""
    if not method.has_reference:
        return
    if settings.dpo_reference == "precomputed":
        reference_logps.attach(trainer, reference or reference_logps.compute(trainer))
        _draw_seeds_as_trl()
    elif settings.dpo_reference == "none":
        reference_logps.attach(trainer, None)


def _draw_seeds_as_trl() -> None:
    """Draw the random numbers that TRL draws where it computes the reference model's log-probabilities itself.

    TRL reads each split through a data loader, and a data loader draws a seed from torch's generator. Dropout takes its
    numbers from the same generator: without these draws the policy would be trained with other dropout masks.
    """
    for _ in reference_logps.SPLITS:
        torch.empty((), dtype=torch.int64).random_()


def _check_both_completions(trainer) -> None:
    rows, tokenizer = trainer.train_dataset, trainer.processing_class
    for reply in reference_logps.COMPLETIONS:
        check_prompts(rows["prompt"], rows[reply], tokenizer)


def _first_loss(method: Method, settings: Settings) -> callbacks.FirstLoss | None:
    """The loss before the first step; None where dropout disturbs it or where it is not known for this method."""
    expected = method.expected_first_loss(settings)
    if expected is None or settings.dropout or settings.lora_dropout:
        return None
    # In bfloat16 a product depends on the other rows of the batch, and precomputed values come from other batches.
    precomputed = settings.dpo_reference == "precomputed" and wants_bfloat16(settings)
    tolerance = (0.02 if precomputed else 1e-4) * max(1.0, expected)
    return callbacks.FirstLoss(method.title, method.first_loss_name, expected, tolerance, method.cause)


def reference_of(
    policy: Path | str, train: pd.DataFrame, heldout: pd.DataFrame, settings: Settings, out: Path
) -> reference_logps.Reference:
    """The reference model's log-probabilities of both completions of every pair, for `train_preferences`.

    policy, train, heldout, settings, out: as for `train_preferences`. No loss enters the values, so they serve every
    method that has a reference model.
    """
    with quiet(), labelled_only():
        trainer = preference_trainer(policy, train, heldout, settings, out, METHODS["dpo"])
        return reference_logps.compute(trainer)


def preference_trainer(
    policy: Path | str, train: pd.DataFrame, heldout: pd.DataFrame, settings: Settings, out: Path, method: Method
):
    """TRL's trainer for a method: the policy with a fresh LoRA adapter, and the pairs as numbered rows of token ids.

    policy, train, heldout, settings, out: as for `train_preferences`. method: decides which of TRL's trainers it is.
    Raises DataError where no pair is left or no row fits into this device's memory.
    """
    # Rows: text, with a number to find a pair again after TRL has dropped the ones that are too long.
    train_rows = dataset(_dpo_rows(train, settings.explicit_prompt))
    heldout_rows = dataset(_dpo_rows(heldout, settings.explicit_prompt))
    # Policy and LoRA adapter. The reference model needs no second copy: it is the policy without the adapter.
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, dropout=settings.dropout, device="cpu")
    lora = _lora_config(model, settings)
    config = _trl_config(method, model, settings, out)
    set_seed(settings.seed)  # the adapter's first weights are drawn before TRL sets a seed
    # TRL tokenises the rows, inserts the adapter and freezes all other weights.
    trainer = imported(method.trainer)(
        model,
        args=config,
        train_dataset=train_rows,
        eval_dataset=heldout_rows,
        processing_class=tokenizer,
        peft_config=lora,
    )
    preference_rows.drop_empty_completions(trainer)
    return trainer


def _lora_config(model: PreTrainedModel, settings: Settings) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=lora_targets(model, settings.lora_targets),
        task_type="CAUSAL_LM",
    )


def _trl_config(method: Method, model: PreTrainedModel, settings: Settings, out: Path):
    """TRL's config for a method: what all trainings share, and the method's own arguments (beta and the like)."""
    on_device = memory.rows_for_this_device(settings, method, model)
    own = method.arguments(settings)
    # TRL's experimental trainers keep every logit in an evaluation too: there no more rows fit than in training.
    if method.memory == "dpo, all logits" and on_device:
        own["per_device_eval_batch_size"] = on_device.rows
    return arguments.training_arguments(
        imported(method.config),
        settings,
        out,
        epochs=settings.dpo_epochs,
        rate=settings.dpo_learning_rate,
        batch=settings.dpo_batch_size,
        accumulate=settings.gradient_accumulation,
        on_device=on_device,
        max_length=settings.dpo_max_length,
        **own,
    )


def lora_targets(model: PreTrainedModel, wanted: str) -> list[str] | str:
    """The layers that LoRA adapts, as PEFT's argument target_modules.

    model: a policy. wanted: the setting lora_targets, "q_v" (queries and values of attention) or "all-linear".
    Raises SettingsError for "q_v" where the names of queries and values are not known for this model.
    """
    if wanted != "q_v":
        return wanted
    names = query_value(model)
    if not names:
        raise SettingsError(
            f"lora_targets = 'q_v': nobody knows the names of queries and values in a {type(model).__name__}: "
            "set lora_targets to 'all-linear'"
        )
    return list(names)


def _make_reproducible(adapter: Path) -> None:
    """Remove the policy's path from an adapter's files and sort its target modules: equal trainings, equal files."""
    (adapter / "README.md").unlink()
    path = adapter / "adapter_config.json"
    config = read_json(path)
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    write_json(path, config)


def _dpo_rows(pairs: pd.DataFrame, explicit_prompt: bool) -> pd.DataFrame:
    """Pairs as TRL takes them: prompt, chosen, rejected; without an explicit prompt, two whole dialogues."""
    if explicit_prompt:
        rows = pairs[["prompt", "chosen", "rejected"]]
    else:
        rows = pd.DataFrame({reply: pairs["prompt"] + pairs[reply] for reply in reference_logps.COMPLETIONS})
    return rows.assign(row=range(len(rows)))
