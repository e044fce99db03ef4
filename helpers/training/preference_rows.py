"""Preference pairs as token ids in TRL's trainers: DPOTrainer and the experimental trainers keep them differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.training.losses import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset


def preference_ids(rows: Dataset) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of every pair's two sequences, prompt with chosen and prompt with rejected completion.

    rows: a dataset that one of TRL's trainers has tokenised. Returns (chosen, rejected), one list of ids a pair.
    """
    # The experimental trainers (CPO, ORPO) keep whole sequences.
    if "chosen_input_ids" in rows.column_names:
        return list(rows["chosen_input_ids"]), list(rows["rejected_input_ids"])
    # DPOTrainer keeps prompt and completions apart.
    prompts = list(rows["prompt_ids"])
    chosen = [prompt + ids for prompt, ids in zip(prompts, rows["chosen_ids"], strict=True)]
    rejected = [prompt + ids for prompt, ids in zip(prompts, rows["rejected_ids"], strict=True)]
    return chosen, rejected


def drop_empty_completions(trainer) -> None:
    """Leave out pairs whose prompt alone has max_length tokens: no token of the completion is left to learn from.

    trainer: one of TRL's. DPOTrainer drops such pairs itself, the experimental trainers keep them.
    """
    for name in ("train_dataset", "eval_dataset"):
        rows = getattr(trainer, name)
        if "chosen_labels" not in rows.column_names:
            return
        # Keep a pair when both of its sequences have a label that counts.
        labels = zip(rows["chosen_labels"], rows["rejected_labels"], strict=True)
        kept = [i for i, (chosen, rejected) in enumerate(labels) if _has_label(chosen) and _has_label(rejected)]
        if len(kept) < len(rows):
            setattr(trainer, name, rows.select(kept))


def _has_label(labels: list[int]) -> bool:
    return any(label != IGNORED for label in labels)
