"""The reference model's log-probabilities, computed once: log pi_ref(y|x) of both completions of every pair.

The reference never changes while DPO trains, so its values can be kept and shared by all trainings that start from
the same policy with the same pairs, whatever their beta, rate, batch or LoRA.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import convert_outputs_to_fp32

from helpers.core import distributed
from helpers.core.errors import CourseError
from helpers.models.batching import by_length

COMPLETIONS, SPLITS = ("chosen", "rejected"), ("train", "heldout")
TOKENS_AT_ONCE = 4096  # of one side in a batch, padding included: enough to keep a device busy, and little memory

Reference = tuple[pd.DataFrame, pd.DataFrame]  # of the training pairs and of the held-out ones


def compute(trainer) -> Reference:
    """The reference of all rows that a DPO trainer has prepared, with its model, in its precision, in eval mode.

    Columns row (the number that `train_dpo` gave the pair), chosen_logps, rejected_logps (summed over the completion,
    in nats) and chosen_tokens, rejected_tokens (how many tokens that sum counts). Rows that TRL dropped are missing.
    """
    trainer.model.to(trainer.args.device).eval()  # FSDP leaves a model on the processor until it trains
    return _of(trainer, trainer.train_dataset), _of(trainer, trainer.eval_dataset)


def _of(trainer, rows) -> pd.DataFrame:
    most = trainer.args.max_length
    lengths = [min(len(p) + max(len(c), len(r)), most) for p, c, r in zip(*_ids(rows), strict=True)]
    batches = list(by_length(lengths, lambda together, _, longest: together * longest <= TOKENS_AT_ONCE))
    # As in training: the model multiplies in its precision, log-probabilities are taken and summed in float32.
    forward = convert_outputs_to_fp32(trainer.model.forward)
    found: dict[int, tuple[float, ...]] = {}
    for batch in batches[distributed.index() :: distributed.count()]:
        inputs = trainer._prepare_inputs(trainer.data_collator([rows[i] for i in batch]))
        with torch.inference_mode(), trainer.accelerator.autocast():
            log_probs = trainer.compute_ref_log_probs(forward, inputs)
        counts = inputs["completion_mask"].sum(dim=1).chunk(len(COMPLETIONS))
        for i, *values in zip(batch, *(column.tolist() for column in (*log_probs, *counts)), strict=True):
            found[i] = tuple(values)
    together = {i: values for part in distributed.gathered(found) for i, values in part.items()}
    names = [f"{side}_{what}" for what in ("logps", "tokens") for side in COMPLETIONS]
    table = pd.DataFrame([together[i] for i in range(len(rows))], columns=names)
    table.insert(0, "row", list(rows["row"]))
    return table


def _ids(rows) -> list[Sequence[Sequence[int]]]:
    return [rows[f"{part}_ids"] for part in ("prompt", *COMPLETIONS)]


def give(trainer, known: Reference | None) -> None:
    """Let a DPO trainer use a reference instead of a model; None: one that holds every completion for certain.

    Raises CourseError when the reference is not that of the trainer's rows.
    """
    trainer.precompute_ref_logps = True
    for place, name in enumerate(("train_dataset", "eval_dataset")):
        rows = getattr(trainer, name)
        if known is not None:
            _check(rows, known[place], trainer.args.max_length)
        for side in COMPLETIONS:
            log_probs = [0.0] * len(rows) if known is None else known[place][f"{side}_logps"].tolist()
            rows = rows.add_column(f"ref_{side}_logps", log_probs)
        setattr(trainer, name, rows)


def _check(rows, known: pd.DataFrame, limit: int) -> None:
    """Every row is beside its own reference: the same numbers, and completions of the same lengths."""
    prompts, *sides = _ids(rows)
    found = pd.DataFrame({"row": list(rows["row"])})
    for name, side in zip(COMPLETIONS, sides, strict=True):
        lengths = zip(prompts, side, strict=True)
        found[f"{name}_tokens"] = [min(len(ids), limit - len(prompt)) for prompt, ids in lengths]
    if not found.equals(known[found.columns].reset_index(drop=True)):
        raise CourseError(
            f"the reference ({len(known)} rows) is not that of these {len(found)} DPO rows: it comes from other pairs, "
            "another tokenizer or other length settings; delete its stage to have it computed again"
        )


def save(known: Reference, folder: Path) -> None:
    """Write train.csv and heldout.csv, from which `load` reads the very same numbers."""
    for split, rows in zip(SPLITS, known, strict=True):
        rows.to_csv(folder / f"{split}.csv", index=False)


def load(folder: Path) -> Reference:
    """What `save` wrote."""
    train, heldout = (pd.read_csv(folder / f"{split}.csv", float_precision="round_trip") for split in SPLITS)
    return train, heldout
