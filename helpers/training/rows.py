"""The rows of a training as TRL takes them, and the checks that every row passes before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

import pandas as pd

from helpers.core.errors import CourseError, DataError
from helpers.models.loading import count_parameters

if TYPE_CHECKING:
    from datasets import Dataset


def dataset(rows: pd.DataFrame) -> Dataset:
    """A dataset in memory, so that nothing is cached in the user's home. Raises DataError when it would be empty."""
    from datasets import Dataset

    if rows.empty:
        raise DataError("no rows to train on or to hold out: give more pairs or a greater max_length setting")
    return Dataset.from_pandas(rows, preserve_index=False)


@contextmanager
def labelled_only() -> Iterator[None]:
    """Let TRL multiply only positions that have a label with the output head, on a processor as it does on a GPU.

    Elsewhere it scores prompts and padding too and drops the result, because devices that compile would do so again
    for every new shape. A processor compiles nothing: the loss is the same, and most of the head's work is saved.
    """
    from trl.trainer import utils

    asked = "_use_triton"  # TRL 1.16's question before it picks positions; a version that asks nothing stays as it is
    with mock.patch.object(utils, asked, lambda _: True) if hasattr(utils, asked) else nullcontext():
        yield


def check_rows(trainer, given: int, ids: Sequence[Sequence[int]], end: int, name: str) -> dict[str, Any]:
    """Make sure that every row of token ids that fits ends with token `end`; count what TRL dropped and what it cuts.

    Returns the counts for summary.json. Raises DataError when no row is left, CourseError when a row does not end.
    """
    used, limit = len(trainer.train_dataset), trainer.args.max_length
    if not used:
        raise DataError(f"every training row is longer than {limit} tokens: raise the max_length setting")
    endless = sum(row[-1] != end for row in ids if len(row) < limit)
    if endless:
        raise CourseError(
            f"{endless} of {len(ids)} training rows do not end with {name}, so the model would never learn to stop: "
            "check the tokenizer's special tokens"
        )
    lengths = [min(len(row), limit) for row in ids]
    trainable, parameters = count_parameters(trainer.model)
    return {
        "rows_given": given,
        "rows_used": used,
        "rows_dropped": given - used,
        "rows_cut": sum(row[:limit][-1] != end for row in ids),
        "tokens_mean": round(sum(lengths) / len(lengths), 1),
        "tokens_max": max(lengths),
        "trainable_parameters": trainable,
        "parameters": parameters,
        "example": {"first_ids": list(ids[0][:8]), "last_ids": list(ids[0][:limit][-8:]), "eos_token_id": end},
    }


def check_prompts(prompts: Sequence[str], completions: Sequence[str], tokenizer) -> None:
    """Every row must begin with its prompt's own tokens: what is seen in training is what will be seen in use.

    The rows are encoded here, since TRL 1.12 puts a prompt's own tokens before a completion's, fit or not.
    Raises CourseError when the tokens of a prompt change with the completion that follows.
    """
    encoded = tokenizer(list(prompts))["input_ids"]
    ids = tokenizer([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])["input_ids"]
    wrong = [i for i, (prompt, row) in enumerate(zip(encoded, ids, strict=True)) if row[: len(prompt)] != prompt]
    if wrong:
        first = prompts[wrong[0]]
        mend = "end prompts with 'Assistant:' and begin completions with a space"
        if first.endswith("Assistant:"):
            mend = (
                "this tokenizer joins the colon with what follows, so take a policy with another tokenizer, or train "
                "on whole dialogues (SFT: completion_only=False)"
            )
        raise CourseError(
            f"{len(wrong)} of {len(encoded)} prompts change their last tokens when the completion follows (the first "
            f"ends {first[-20:]!r}): {mend}"
        )
