"""The reference model's log-probabilities, computed once: log pi_ref(y|x) of both completions of every pair.

The reference model does not change while DPO trains. So its log-probabilities are computed once, and all trainings that
start from the same policy with the same pairs share them, whatever their beta, learning rate, batch size or LoRA rank.
"""

from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import convert_outputs_to_fp32

from helpers.core import distributed
from helpers.core.errors import CourseError
from helpers.models.batching import by_length

COMPLETIONS, SPLITS = ("chosen", "rejected"), ("train", "heldout")
TOKENS_AT_ONCE = 4096  # of the chosen or of the rejected sequences in a batch, padding included

Reference = tuple[pd.DataFrame, pd.DataFrame]  # the table for the training pairs, and the one for the held-out pairs


def compute(trainer) -> Reference:
    """The reference model's log-probabilities of all pairs that a DPO trainer has tokenised.

    trainer: TRL's DPOTrainer; its model with the adapter off is the reference model, here in eval mode.

    Returns two tables, for the training and for the held-out pairs, without those that TRL dropped. Columns: row (the
    pair's number), chosen_logps and rejected_logps (log pi_ref(y|x), summed over the completion's tokens, in nats),
    chosen_tokens and rejected_tokens (how many tokens that sum has).
    """
    # FSDP leaves a model on the processor until the training begins.
    trainer.model.to(trainer.args.device).eval()
    return _table(trainer, trainer.train_dataset), _table(trainer, trainer.eval_dataset)


def _table(trainer, rows) -> pd.DataFrame:
    """One row a pair: its number, log-probabilities and lengths of both completions."""
    # Batches of pairs of like length; the processes take them in turns.
    lengths = _sequence_lengths(rows, trainer.args.max_length)
    batches = list(by_length(lengths, _small_enough))
    own_batches = batches[distributed.index() :: distributed.count()]
    # As in training: the model multiplies in its precision, log-probabilities are taken and summed in float32.
    forward = convert_outputs_to_fp32(trainer.model.forward)
    found: dict[int, tuple[float, ...]] = {}
    for batch in own_batches:
        # Pad the batch: all chosen sequences, then all rejected ones.
        inputs = trainer._prepare_inputs(trainer.data_collator([rows[i] for i in batch]))
        with torch.inference_mode(), trainer.accelerator.autocast():
            chosen_logps, rejected_logps = trainer.compute_ref_log_probs(forward, inputs)
        # Tokens of each completion, without prompt and padding.
        chosen_tokens, rejected_tokens = inputs["completion_mask"].sum(dim=1).chunk(2)
        columns = [column.tolist() for column in (chosen_logps, rejected_logps, chosen_tokens, rejected_tokens)]
        for i, *values in zip(batch, *columns, strict=True):
            found[i] = tuple(values)
    # Put together what the processes found, in the order of the rows.
    for part in distributed.gathered(found):
        found.update(part)
    names = ["chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"]
    table = pd.DataFrame([found[i] for i in range(len(rows))], columns=names)
    table.insert(0, "row", list(rows["row"]))
    return table


def _sequence_lengths(rows, limit: int) -> list[int]:
    """Tokens of the longer of a pair's two sequences, prompt included, after the cut to `limit` tokens."""
    lengths = []
    for prompt, chosen, rejected in zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True):
        lengths.append(min(len(prompt) + max(len(chosen), len(rejected)), limit))
    return lengths


def _small_enough(rows: int, shortest: int, longest: int) -> bool:
    return rows * longest <= TOKENS_AT_ONCE


def attach(trainer, reference: Reference | None) -> None:
    """Add the reference model's log-probabilities to a trainer's pairs; TRL then takes them instead of computing them.

    trainer: TRL's DPOTrainer. reference: what `compute` returned for the same pairs. None: no reference model; then
    log pi_ref(y|x) = 0 for every completion, so that the loss is the one that arXiv 2509.09055 prints.
    Raises CourseError when the values belong to other pairs.
    """
    trainer.precompute_ref_logps = True
    for place, name in enumerate(("train_dataset", "eval_dataset")):
        rows = getattr(trainer, name)
        if reference is not None:
            _check(rows, reference[place], trainer.args.max_length)
        for reply in COMPLETIONS:
            log_probs = [0.0] * len(rows) if reference is None else reference[place][f"{reply}_logps"].tolist()
            rows = rows.add_column(f"ref_{reply}_logps", log_probs)
        setattr(trainer, name, rows)


def _check(rows, reference: pd.DataFrame, limit: int) -> None:
    """Check that a table belongs to these rows: the same numbers of pairs, and completions of the same lengths."""
    expected = pd.DataFrame({"row": list(rows["row"])})
    for reply in COMPLETIONS:
        # Tokens of a completion that are left when prompt and completion are cut to the limit.
        ids = zip(rows["prompt_ids"], rows[f"{reply}_ids"], strict=True)
        expected[f"{reply}_tokens"] = [min(len(completion), limit - len(prompt)) for prompt, completion in ids]
    if not expected.equals(reference[expected.columns].reset_index(drop=True)):
        raise CourseError(
            f"the reference ({len(reference)} rows) is not that of these {len(expected)} DPO rows: it comes from other "
            "pairs, another tokenizer or other length settings; delete its stage to have it computed again"
        )


def save(reference: Reference, folder: Path) -> None:
    """Write the two tables of a reference as train.csv and heldout.csv into a folder."""
    for split, rows in zip(SPLITS, reference, strict=True):
        rows.to_csv(folder / f"{split}.csv", index=False)


def load(folder: Path) -> Reference:
    """Read the two tables that `save` wrote, number for number the same."""
    train, heldout = (pd.read_csv(folder / f"{split}.csv", float_precision="round_trip") for split in SPLITS)
    return train, heldout
