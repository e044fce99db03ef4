"""How fast prompts are answered and scored here, against the authors' way: one prompt, then one pair, at a time.

python -m benchmarks.evaluation_speed    writes evaluation_speed.json beside this file. Both ways take turns in one
process with the same models; loading them is not timed. On a machine with a GPU the same command measures that.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.training_speed import opt_350m
from helpers import open_run
from helpers.core import quiet
from helpers.core.profiles import DATA_CACHE
from helpers.core.settings import resolve
from helpers.models import generation, hardware, loading, scoring
from helpers.models.sizes import shape_of_model
from helpers.pipeline import stages
from helpers.planning import throughput

NEW_TOKENS, LONGEST = 50, loading.REWARD_MAX_LENGTH  # the authors' number; tokens that the reward model reads
EACH_SIDE, ROUNDS = 50, 5
FEW, FEW_ROUNDS = 8, 3  # at full size


class Loaded(NamedTuple):
    """A policy and a reward model, each with its tokenizer, on the device."""

    policy: tuple[Any, Any]
    scorer: tuple[Any, Any]


class Answers(NamedTuple):
    """What a way gave and what it took."""

    texts: list[str]
    scores: np.ndarray
    generating: float
    scoring: float


def one_by_one(loaded: Loaded, prompts: Sequence[str]) -> Answers:
    """The authors' loop: greedy answers prompt by prompt, then the scores pair by pair."""
    (policy, tokenizer), (scorer, reader) = loaded
    began = time.perf_counter()
    texts = []
    for prompt in prompts:
        rows = tokenizer(prompt, return_tensors="pt").to(policy.device)
        with torch.no_grad(), quiet.quiet():
            ids = policy.generate(**rows, max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True)
        texts.append(tokenizer.decode(ids[0, rows["input_ids"].shape[1] :], skip_special_tokens=True))
    between = time.perf_counter()
    scores = []
    for prompt, text in zip(prompts, texts, strict=True):
        # As lists: an empty answer by itself would count as none and lose its [SEP].
        rows = reader([prompt], [text], return_tensors="pt", truncation="only_first", max_length=LONGEST)
        with torch.no_grad():
            scores.append(scorer(**rows.to(scorer.device)).logits[0, 0].item())
    return Answers(texts, np.array(scores), between - began, time.perf_counter() - between)


def in_batches(loaded: Loaded, prompts: Sequence[str]) -> Answers:
    """The course's way."""
    settings = resolve().settings
    began = time.perf_counter()
    size = settings.generation_batch_size
    answers = generation.generate(loaded.policy, prompts, max_new_tokens=NEW_TOKENS, batch_size=size)
    between = time.perf_counter()
    texts = list(answers["response"])
    scores = scoring.score(loaded.scorer, prompts, texts, batch_size=settings.scoring_batch_size)
    return Answers(texts, scores, between - began, time.perf_counter() - between)


def compare(loaded: Loaded, prompts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Let both ways take turns: what they gave, and how many times faster the batches are."""
    ways: dict[str, Callable[..., Answers]] = {"one by one": one_by_one, "in batches": in_batches}
    for way in ways.values():
        way(loaded, prompts[:2])  # warm-up
    found: dict[str, list[Answers]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way(loaded, prompts))
            print(name, round(found[name][-1].generating, 2), round(found[name][-1].scoring, 2), flush=True)
    single, batched = found.values()
    same = [a == b for a, b in zip(single[0].texts, batched[0].texts, strict=True)]
    took = {
        "both": lambda a: a.generating + a.scoring,
        "generating": lambda a: a.generating,
        "scoring": lambda a: a.scoring,
    }
    return {
        "prompts": len(prompts),
        "rounds": rounds,
        "speed_up": {what: measuring.ratio([*map(of, single)], [*map(of, batched)]) for what, of in took.items()},
        "most_possible": _most_possible(loaded, prompts, batched[0].texts, [*map(took["both"], single)]),
        "same_answers": sum(same),
        "largest_gap_between_scores": float(f"{np.abs(single[0].scores - batched[0].scores)[same].max():.2g}"),
        "seconds": {
            name: {"generating": [round(a.generating, 2) for a in all], "scoring": [round(a.scoring, 2) for a in all]}
            for name, all in found.items()
        },
    }


def _most_possible(loaded: Loaded, prompts: Sequence[str], texts: Sequence[str], single: Sequence[float]) -> float:
    """How many times faster than one by one a way would be that spent no time on anything but products with weights.

    Each token meets the layers once, and those that say the next token the policy's head too, at the rate of large
    matrix products on this device. Attention counts as nothing.
    """
    (policy, tokenizer), (scorer, reader) = loaded
    said = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    answered = sum(min(NEW_TOKENS, len(ids) + 1) for ids in said)  # with EOS
    read = sum(map(len, tokenizer(list(prompts))["input_ids"])) + answered - len(texts)  # the last one is not read
    head = policy.get_output_embeddings().weight.numel()
    scored = sum(map(len, scoring.encode_pairs(reader, prompts, texts)["input_ids"]))
    products = 2 * ((shape_of_model(policy).inside - head) * read + head * answered)
    products += 2 * shape_of_model(scorer).inside * scored
    return round(statistics.median(single) / (products / throughput.matrix_rate(policy.device.type, bfloat16=False)), 2)


def embedded() -> dict[str, Any]:
    """The shipped models and a hundred of the evaluation prompts."""
    policy = DATA_CACHE / "policy"
    scorer = loading.load_reward_model(DATA_CACHE / "reward_model")
    return compare(Loaded((loading.load_policy(policy), loading.load_tokenizer(policy)), scorer), prompts(), ROUNDS)


def prompts() -> list[str]:
    with tempfile.TemporaryDirectory() as results, mock.patch.dict(os.environ, COURSE_RESULTS=results):
        return list(stages.evaluation_prompts(open_run(eval_prompts=EACH_SIDE))["prompt"])


def wide() -> dict[str, Any]:
    """OPT-350M and DeBERTa-v3-large with random weights and the embedded tokenizers, and a few prompts."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    small, reader = loading.load_reward_model(DATA_CACHE / "reward_model")
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    large |= {"vocab_size": 128_100, "position_buckets": 256, "pooler_hidden_size": 1024}
    torch.manual_seed(0)
    scorer = (
        DebertaV2ForSequenceClassification(DebertaV2Config(**small.config.to_dict() | large))
        .to(hardware.pick_device("auto"))
        .eval()
    )
    rows = prompts()
    with tempfile.TemporaryDirectory() as work:
        folder = opt_350m(Path(work))
        loaded = Loaded((loading.load_policy(folder), loading.load_tokenizer(folder)), (scorer, reader))
    return compare(loaded, rows[:: len(rows) // FEW], FEW_ROUNDS)


def main() -> None:
    found = {"embedded models": measuring.alone(embedded)}
    found["OPT-350M and DeBERTa-v3-large, random weights"] = measuring.alone(wide)
    measuring.keep(__file__, found)


if __name__ == "__main__":
    main()
