"""Reward-model scores: one number for a (prompt, response) pair, the higher the better."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.models import reward_labels
from helpers.models.batching import by_length
from helpers.models.families import positions
from helpers.models.loading import REWARD_MAX_LENGTH, load_reward_model

STRETCH = 1.1  # the most that a batch's longest row may be of its shortest: padding costs as much as text


def score(
    reward_model: str | Path | tuple,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    batch_size: int,
    max_length: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Score every response to its prompt with a reward model, in float32.

    reward_model: a folder, a hub id, or (model, tokenizer). prompts, responses: texts, row by row. batch_size: the most
    rows in a batch. max_length: tokens of prompt and response together; what is longer loses the oldest part of the
    prompt. None: 512, or the model's longest input where that is less. device: "auto", "cpu" or "cuda", for a model
    that is loaded here. progress: called with (rows done, rows in all) after each batch.

    Returns a float64 array, one score a row: the raw logit, or the difference of two (see `reward_labels`).
    """
    model, tokenizer = reward_model if isinstance(reward_model, tuple) else load_reward_model(reward_model, device)
    scores = np.zeros(len(prompts))
    if not len(prompts):
        return scores
    # Tokenise prompts with their responses.
    longest_row = max_length or min(REWARD_MAX_LENGTH, positions(model.config) or REWARD_MAX_LENGTH)
    encoded = encode_pairs(tokenizer, prompts, responses, longest_row)
    done = 0

    def allowed(rows: int, shortest: int, longest: int) -> bool:
        return rows <= batch_size and longest <= STRETCH * shortest

    for rows in by_length([len(ids) for ids in encoded["input_ids"]], allowed):
        # Pad a batch of rows of like length on the right.
        batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
        padded = tokenizer.pad(batch, return_tensors="pt").to(model.device)
        # Forward pass; the logits of a row become its score.
        with torch.inference_mode():
            logits = model(**padded).logits
        scores[rows] = reward_labels.scores(logits, model.config).double().cpu().numpy()
        done += len(rows)
        if progress:
            progress(done, len(prompts))
    return scores


def encode_pairs(tokenizer, prompts: Sequence[str], responses: Sequence[str], max_length: int = REWARD_MAX_LENGTH):
    """Tokenise prompts with their responses for a reward model: [CLS] prompt [SEP] response [SEP], not padded.

    tokenizer: the reward model's; without a separator (classifiers on a decoder such as Llama or GPT-2) it makes one
    text of both. prompts, responses: texts, row by row. max_length: in tokens. A row that is too long loses the oldest
    part of its prompt, the response only where it alone is too long: then its end. Returns the tokenizer's lists, one
    entry a row.
    """
    paired = tokenizer.sep_token_id is not None
    # Cut responses so that beside special tokens at least one token of the prompt stays.
    room = max_length - tokenizer.num_special_tokens_to_add(pair=paired) - 1
    responses = [_beginning(tokenizer, response, room) for response in responses]
    # Then cut prompts, from the left.
    tokenizer.truncation_side = "left"
    if not paired:
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return tokenizer(texts, truncation=True, max_length=max_length)
    return tokenizer(list(prompts), responses, truncation="only_first", max_length=max_length)


def _beginning(tokenizer, response: str, limit: int) -> str:
    """The first `limit` tokens of a response, as text."""
    # A token has at least one character, so a short text needs no tokenizer.
    if len(response) <= limit:
        return response
    offsets = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return response if len(offsets) <= limit else response[: offsets[limit - 1][1]]


def pair_scores(reward_model, pairs: pd.DataFrame, *, batch_size: int, device: str = "auto") -> pd.DataFrame:
    """Score both replies of every pair.

    reward_model, batch_size, device: as for `score`. pairs: columns prompt, chosen, rejected. Returns the columns
    chosen_score and rejected_score, with the index of `pairs`.
    """
    loaded = reward_model if isinstance(reward_model, tuple) else load_reward_model(reward_model, device)
    prompts = list(pairs["prompt"])
    chosen = score(loaded, prompts, list(pairs["chosen"]), batch_size=batch_size)
    rejected = score(loaded, prompts, list(pairs["rejected"]), batch_size=batch_size)
    return pd.DataFrame({"chosen_score": chosen, "rejected_score": rejected}, index=pairs.index)
