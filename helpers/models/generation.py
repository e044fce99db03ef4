"""Batched decoding: greedy, with the same tokens as one prompt at a time, or sampled from the policy.

Small policies on a processor answer through an inference engine, the others through transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import DynamicCache, GenerationConfig

from helpers.core.errors import SettingsError
from helpers.core.quiet import quiet
from helpers.models import ctranslate2
from helpers.models.batching import by_length
from helpers.models.families import positions, takes_position_ids
from helpers.models.loading import load_policy, load_tokenizer


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
    """Answer every prompt greedily, as the paper does, or with ``sample_seed`` by sampling at temperature 1.

    Greedy answers show what a policy holds likeliest, sampled ones the whole of what it has learned. Samples depend on
    the batch size too.

    policy: a folder, hub id, or (model, tokenizer). Prompts are sorted by length and, for transformers, padded on the
    left; positions are counted without the padding, so that it changes nothing. Answers come back in the order given.
    Returns a DataFrame with columns response (text without EOS, not stripped), tokens (generated, with EOS) and
    ended (whether the model said EOS before ``max_new_tokens``). ``progress`` is told (done, all) after a batch.
    A prompt that leaves no room for the answer loses its oldest tokens; SettingsError when none would be left. The
    model comes back in the mode, training or not, it was given in.
    """
    model, tokenizer = (
        policy if isinstance(policy, tuple) else (load_policy(policy, device=device), load_tokenizer(policy))
    )
    ids = _encode(model, tokenizer, prompts, max_new_tokens)
    batches = list(by_length([*map(len, ids)], lambda together, *_: together <= batch_size))
    answers: list[tuple[str, int, bool]] = [("", 0, False)] * len(ids)
    was_training = model.training
    model.eval()
    state = torch.get_rng_state()
    if sample_seed is not None:
        torch.manual_seed(sample_seed)
    try:
        found = _answers(model, tokenizer, [[ids[i] for i in rows] for rows in batches], max_new_tokens, sample_seed)
        done = 0
        for rows, new in zip(batches, found, strict=True):
            for row, tokens in zip(rows, new, strict=True):
                answers[row] = _read(tokens, tokenizer, ids[row][-1])
            done += len(rows)
            if progress:
                progress(done, len(ids))
    finally:
        model.train(was_training)
        torch.set_rng_state(state)
    return pd.DataFrame(answers, columns=["response", "tokens", "ended"])


def _encode(model, tokenizer, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Token ids of the prompts, shortened to what the model sees beside the answer. None is empty."""
    longest = positions(model.config)
    room = None if longest is None else longest - max_new_tokens
    if room is not None and room < 2:
        raise SettingsError(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt: lower it")
    rows = tokenizer(list(prompts))["input_ids"] if len(prompts) else []
    # Without BOS an empty prompt has no token. EOS stands in: it is what separates texts.
    rows = [row or [tokenizer.eos_token_id] for row in rows]
    return rows if room is None else [_newest(row, room, tokenizer) for row in rows]


def _answers(
    model, tokenizer, batches: Sequence[list[list[int]]], most: int, sample_seed: int | None
) -> Iterator[list[list[int]]]:
    """New token ids of every row, batch by batch, each as soon as it is there."""
    if sample_seed is None and ctranslate2.takes(model):
        return ctranslate2.likeliest(model, batches, tokenizer.eos_token_id, most)
    answer = _likeliest if sample_seed is None else _sampled
    return (answer(model, tokenizer, _left_pad(rows, tokenizer.pad_token_id, model.device), most) for rows in batches)


def _newest(ids: list[int], room: int, tokenizer) -> list[int]:
    """The last ``room`` tokens, still behind BOS where there is one."""
    if len(ids) <= room:
        return ids
    start = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    return start + ids[len(ids) - room + len(start) :]


def _left_pad(rows: list[list[int]], pad: int, device) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions of the tokens, counted without the padding on the left: (rows, length) -> the same, 0 on padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


@torch.inference_mode()
def _likeliest(model, tokenizer, batch: dict[str, torch.Tensor], most: int) -> list[list[int]]:
    """The likeliest next token of every row, again and again: what ``model.generate`` gives, but a row that said EOS
    leaves the batch, so that nothing is computed for it any more."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    numbered = takes_position_ids(model)
    found: list[list[int]] = [[] for _ in ids]
    going = list(range(len(found)))
    cache = DynamicCache(config=model.config)
    for _ in range(most):
        # The first pass computes the whole prompt, the later ones the newest token only.
        where = {"position_ids": _positions(mask)[:, -ids.shape[1] :]} if numbered else {}
        output = model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **where
        )
        ids = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        for row, token in zip(going, ids[:, 0].tolist(), strict=True):
            found[row].append(token)
        stay = [i for i, row in enumerate(going) if found[row][-1] != tokenizer.eos_token_id]
        if not stay:
            break
        if len(stay) < len(going):
            going = [going[i] for i in stay]
            kept = torch.tensor(stay, device=ids.device)
            ids, mask = ids[kept], mask[kept]
            cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return found


@torch.inference_mode()
def _sampled(model, tokenizer, batch: dict[str, torch.Tensor], most: int) -> list[list[int]]:
    settings = GenerationConfig(
        max_new_tokens=most,
        do_sample=True,
        top_k=0,  # the library's default would cut the tail of the distribution
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with quiet():
        output = model.generate(**batch, generation_config=settings)
    return output[:, batch["input_ids"].shape[1] :].tolist()


def _read(new: list[int], tokenizer, before: int) -> tuple[str, int, bool]:
    """(text without EOS, tokens with EOS, whether there was EOS) of an answer. before: the prompt's last token."""
    ended = tokenizer.eos_token_id in new
    length = new.index(tokenizer.eos_token_id) if ended else len(new)
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    response = tokenizer.decode(new[:length], **plain)
    # SentencePiece tokenizers take a space from the beginning of what they decode: here the prompt comes before it.
    start, together = tokenizer.decode([before], **plain), tokenizer.decode([before, *new[:length]], **plain)
    if start and together.startswith(start):
        response = together[len(start) :]
    return response, length + ended, ended
