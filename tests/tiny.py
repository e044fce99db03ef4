"""Models of a few thousand weights and made-up pairs, shared by the tests that need something to train or to run."""

import functools
import random
import tempfile
from pathlib import Path

import pandas as pd
import torch

from helpers import models
from helpers.settings import Settings, resolve

WORDS = ["red", "tall", "happy", "dog", "cat", "house", "river", "runs", "sleeps", "near", "under", "the", "a", "your"]


def made_up(n: int, seed: int = 0) -> pd.DataFrame:
    """n preference pairs of random words: agreeing is chosen, refusing is rejected."""
    draw = random.Random(seed)

    def words() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))

    rows = [
        (f"\n\nHuman: {words()}?\n\nAssistant:", f" Yes, {words()}.", f" No! {words()} {words()}!") for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"]).assign(subset="harmless-base")


@functools.cache
def texts() -> tuple[str, ...]:
    pairs = made_up(60)
    return (*(pairs["prompt"] + pairs["chosen"]), *(pairs["prompt"] + pairs["rejected"]))


@functools.cache
def policy() -> tuple[torch.nn.Module, object]:
    """A random OPT with its tokenizer. Do not change the model: it is shared."""
    tokenizer = models.train_policy_tokenizer(texts(), 400)
    return models.new_policy(tokenizer, seed=0, hidden=64, layers=2, positions=128).eval(), tokenizer


@functools.cache
def judge() -> tuple[torch.nn.Module, object]:
    """A random DeBERTa with its tokenizer, its output widened so that scores differ visibly."""
    tokenizer = models.train_reward_tokenizer(texts(), 400)
    model = models.new_reward_model(tokenizer, seed=0, hidden=64, layers=2).eval()
    model.classifier.weight.data *= 1000
    return model, tokenizer


@functools.cache
def policy_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-policy-"))
    models.save_model(*policy(), folder)
    return folder


def settings(**given) -> Settings:
    """Settings for a training of a dozen steps on the CPU."""
    sizes = {"sft_batch_size": 4, "dpo_batch_size": 4, "gradient_accumulation": 1, "max_new_tokens": 4}
    sizes |= {"sft_max_length": 96, "dpo_max_length": 96, "max_prompt_length": 8, "lora_rank": 4, "dpo_epochs": 2.0}
    return resolve(**({"profile": "smoke", "device": "cpu"} | sizes | given)).settings
