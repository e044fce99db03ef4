"""Decoding in batches: greedy, with the same tokens as for one prompt at a time, or by sampling from the policy.

Small policies on a processor are decoded by an inference engine (see `ctranslate2`), all others with transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from transformers import DynamicCache, GenerationConfig

from helpers.core.errors import SettingsError
from helpers.core.quiet import quiet
from helpers.models import ctranslate2
from helpers.models.batching import by_length
from helpers.models.families import positions, takes_position_ids
from helpers.models.loading import load_policy, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def generate(
    policy: str | Path | tuple,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    device: str = "auto",
    sample_seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Generate a response to every prompt, by greedy decoding as in the paper or by sampling.

    policy: a folder, a hub id, or (model, tokenizer). prompts: texts; one that leaves no room for max_new_tokens in the
    model's context loses its oldest tokens. max_new_tokens: the longest response, in tokens. batch_size: the most
    prompts in a batch. device: "auto", "cpu" or "cuda", for a policy that is loaded here. sample_seed: None for greedy
    decoding; a number to sample at temperature 1, where the responses depend on the seed and on the batch size.
    progress: called with (prompts done, prompts in all) after each batch.

    Returns one row a prompt, in the order given, with the columns response (text without EOS, not stripped), tokens
    (how many were generated, EOS included) and ended (whether the policy generated EOS). Raises SettingsError when
    max_new_tokens leaves no room for any prompt. The model keeps its mode, training or not.
    """
    # Load policy and tokenizer.
    if isinstance(policy, tuple):
        model, tokenizer = policy
    else:
        model, tokenizer = load_policy(policy, device=device), load_tokenizer(policy)
    # Tokenise the prompts and put prompts of like length into a batch.
    ids = _encode(model, tokenizer, prompts, max_new_tokens)
    batches = list(by_length([len(row) for row in ids], lambda rows, shortest, longest: rows <= batch_size))
    responses: list[tuple[str, int, bool]] = [("", 0, False)] * len(ids)
    done = 0
    with _eval_mode(model), _own_random_numbers(sample_seed):
        # Generate new tokens, batch by batch.
        batches_of_ids = [[ids[i] for i in rows] for rows in batches]
        generated = _new_tokens(model, tokenizer, batches_of_ids, max_new_tokens, greedy=sample_seed is None)
        for rows, new in zip(batches, generated, strict=True):
            # Decode each row's tokens, back in the place of its prompt.
            for row, tokens in zip(rows, new, strict=True):
                responses[row] = _decode(tokens, tokenizer, last_of_prompt=ids[row][-1])
            done += len(rows)
            if progress:
                progress(done, len(ids))
    return pd.DataFrame(responses, columns=["response", "tokens", "ended"])


@contextmanager
def _eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off inside this context."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _own_random_numbers(seed: int | None) -> Iterator[None]:
    """Sample from this seed inside the context; behind it torch's generator is as it was before."""
    state = torch.get_rng_state()
    if seed is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _encode(model, tokenizer, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Token ids of the prompts, each short enough to leave room for the response in the context; none is empty."""
    # Room for a prompt: the longest input of the model, less the response.
    longest = positions(model.config)
    room = None if longest is None else longest - max_new_tokens
    if room is not None and room < 2:
        raise SettingsError(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt: lower it")
    rows = tokenizer(list(prompts))["input_ids"] if len(prompts) else []
    # Without BOS an empty prompt has no token: begin with EOS, which separates texts in pre-training.
    rows = [row or [tokenizer.eos_token_id] for row in rows]
    return rows if room is None else [_newest(row, room, tokenizer) for row in rows]


def _newest(ids: list[int], room: int, tokenizer) -> list[int]:
    """The last `room` tokens of a prompt; BOS stays the first one where the tokenizer writes it."""
    if len(ids) <= room:
        return ids
    start = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    return start + ids[len(ids) - room + len(start) :]


def _new_tokens(
    model, tokenizer, batches: Sequence[list[list[int]]], most: int, *, greedy: bool
) -> Iterator[list[list[int]]]:
    """For each batch, as soon as it is done, the new token ids of every row, at most `most`."""
    if greedy and ctranslate2.takes(model):
        yield from ctranslate2.likeliest(model, batches, tokenizer.eos_token_id, most)
        return
    decode = _likeliest if greedy else _sampled
    for rows in batches:
        batch = _left_pad(rows, tokenizer.pad_token_id, model.device)
        yield decode(model, tokenizer, batch, most)


def _left_pad(rows: list[list[int]], pad: int, device) -> dict[str, torch.Tensor]:
    """Padding on the left, so that the last position of every row is its newest token. Tensors (rows, length)."""
    width = max(len(row) for row in rows)
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions of the tokens, counted without the padding on the left: (rows, length) -> the same, 0 on padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


@torch.inference_mode()
def _likeliest(model, tokenizer, batch: dict[str, torch.Tensor], most: int) -> list[list[int]]:
    """Greedy decoding of a padded batch: the likeliest next token of every row, again and again.

    The tokens are those of `model.generate`. Here a row that has ended leaves the batch, so that nothing more is
    computed for it.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    numbered = takes_position_ids(model)
    generated: list[list[int]] = [[] for _ in ids]
    going = list(range(len(generated)))  # the rows that have not ended, by their place in the batch that was given
    cache = DynamicCache(config=model.config)
    for _ in range(most):
        # Forward pass: over the whole prompt the first time, then over the newest token, with keys and values cached.
        positions_of_ids = {"position_ids": _positions(mask)[:, -ids.shape[1] :]} if numbered else {}
        output = model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **positions_of_ids,
        )
        # The likeliest token after each row.
        ids = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        for row, token in zip(going, ids[:, 0].tolist(), strict=True):
            generated[row].append(token)
        # Rows that have just generated EOS leave the batch, the mask and the cache.
        stay = [i for i, row in enumerate(going) if generated[row][-1] != tokenizer.eos_token_id]
        if not stay:
            break
        if len(stay) < len(going):
            going = [going[i] for i in stay]
            kept = torch.tensor(stay, device=ids.device)
            ids, mask = ids[kept], mask[kept]
            cache.batch_select_indices(kept)
        # The new token is attended to from now on.
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return generated


@torch.inference_mode()
def _sampled(model, tokenizer, batch: dict[str, torch.Tensor], most: int) -> list[list[int]]:
    """New tokens of a padded batch, sampled from the policy's distribution at temperature 1."""
    settings = GenerationConfig(
        max_new_tokens=most,
        do_sample=True,
        top_k=0,  # sample from the whole vocabulary: the library's default takes the 50 likeliest tokens only
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with quiet():
        output = model.generate(**batch, generation_config=settings)
    # Leave out the prompt.
    return output[:, batch["input_ids"].shape[1] :].tolist()


def _decode(new: list[int], tokenizer, last_of_prompt: int) -> tuple[str, int, bool]:
    """A response from its new tokens: (text without EOS, tokens with EOS, whether there was EOS)."""
    # Cut at the first EOS.
    ended = tokenizer.eos_token_id in new
    length = new.index(tokenizer.eos_token_id) if ended else len(new)
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    response = tokenizer.decode(new[:length], **plain)
    # SentencePiece tokenizers drop a space at the beginning of a text. Decode with the prompt's last token in front.
    start = tokenizer.decode([last_of_prompt], **plain)
    together = tokenizer.decode([last_of_prompt, *new[:length]], **plain)
    if start and together.startswith(start):
        response = together[len(start) :]
    return response, length + ended, ended
