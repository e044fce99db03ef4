"""Preference pairs as TRL's trainers keep them once they are tokens; DPOTrainer does it differently from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.training.losses import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset


def preference_ids(rows: Dataset) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the chosen and the rejected sequences, prompt included, of rows that a trainer has prepared.

    DPOTrainer keeps prompt and completion apart; the trainers of TRL's experimental part keep whole sequences.
    """
    if "chosen_input_ids" in rows.column_names:
        return list(rows["chosen_input_ids"]), list(rows["rejected_input_ids"])
    prompts, *sides = (list(rows[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected"))
    chosen, rejected = ([p + c for p, c in zip(prompts, side, strict=True)] for side in sides)
    return chosen, rejected


def drop_empty_completions(trainer) -> None:
    """Leave out pairs whose prompt alone fills max_length: no token is left to learn from.

    DPOTrainer does so itself. The experimental trainers keep such rows, whole prompt and no completion.
    """
    for name in ("train_dataset", "eval_dataset"):
        rows = getattr(trainer, name)
        if "chosen_labels" not in rows.column_names:
            return
        labels = zip(rows["chosen_labels"], rows["rejected_labels"], strict=True)
        kept = [i for i, pair in enumerate(labels) if all(any(label != IGNORED for label in row) for row in pair)]
        if len(kept) < len(rows):
            setattr(trainer, name, rows.select(kept))
