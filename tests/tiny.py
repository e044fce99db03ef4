"""Models of a few thousand weights and made-up pairs, shared by the tests that need something to train or to run."""

import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from helpers.core.errors import DataError
from helpers.core.settings import Settings, resolve
from helpers.models import loading, small_models

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
    tokenizer = small_models.train_policy_tokenizer(texts(), 400)
    return small_models.new_policy(tokenizer, seed=0, hidden=64, layers=2, positions=128).eval(), tokenizer


@functools.cache
def reward_model() -> tuple[torch.nn.Module, object]:
    """A random DeBERTa with its tokenizer, its output widened so that scores differ visibly."""
    tokenizer = small_models.train_reward_tokenizer(texts(), 400)
    model = small_models.new_reward_model(tokenizer, seed=0, hidden=64, layers=2).eval()
    model.classifier.weight.data *= 1000
    return model, tokenizer


@functools.cache
def policy_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-policy-"))
    loading.save_model(*policy(), folder)
    return folder


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
GATED = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}


class Row(NamedTuple):
    """A policy of a family as small as can be. files: what is peculiar about them, a dtype or "shards"."""

    sizes: dict  # what the config says; the rest is the library's default
    tokenizer: str  # one of TOKENIZERS
    files: str = ""


# The first word is the family, the rest tells two rows of a family apart.
FAMILIES = {
    "opt": Row(
        SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False}, "bos, pad", "float16"
    ),
    "opt pre-norm": Row(SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "bos, no pad"),
    "opt untied": Row(SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "tie_word_embeddings": False}, "no bos, pad"),
    "gpt2": Row(SIZES, "no bos, no pad"),
    "gpt_neo": Row(SIZES | {"attention_types": [[["global", "local"], 1]], "window_size": 16}, "no bos, no pad"),
    "gpt_neox": Row(SIZES | {"intermediate_size": 64}, "no bos, pad"),
    "llama": Row(GATED | {"tie_word_embeddings": False}, "bos, no pad", "shards"),
    "llama tied": Row(GATED | {"tie_word_embeddings": True}, "bos, pad"),
    "qwen2": Row(GATED | {"tie_word_embeddings": True}, "no bos, no pad"),
    "qwen3": Row(GATED | {"head_dim": 8}, "no bos, pad", "bfloat16"),
    "bloom": Row({"hidden_size": 32, "n_layer": 2, "n_head": 4}, "bos, pad"),
    "mistral": Row(GATED | {"sliding_window": 16}, "bos, no pad"),  # not in the table of families
}


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2, Pythia and Qwen have it: no BOS in front; only the special tokens that are named."""
    own = small_models._byte_bpe(texts(), 400, sorted(set(special.values())))
    return PreTrainedTokenizerFast(tokenizer_object=own, **special)


def sentence_tokenizer(*, across: bool = False) -> PreTrainedTokenizerFast:
    """Pieces as Llama 2 has them: BOS and a space in front of every text, an unknown token, nothing to pad with.

    across: whether a piece may reach over a space, so that a colon and the next word become one.
    """
    own = Tokenizer(token_models.BPE(unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Metaspace(split=not across)
    own.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    own.train_from_iterator(texts(), trainer)
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {
    "bos, pad": lambda: small_models.train_policy_tokenizer(texts(), 400),
    "bos, no pad": sentence_tokenizer,
    "no bos, no pad": lambda: byte_tokenizer(eos_token="<|end|>", bos_token="<|end|>", unk_token="<|end|>"),
    "no bos, pad": lambda: byte_tokenizer(eos_token="<|end|>", pad_token="<|pad|>"),
}


def family_model(name: str, tokenizer, kind: type = AutoModelForCausalLM, **more) -> torch.nn.Module:
    """A random model of a row of FAMILIES, its matrices widened so that tokens and positions matter visibly."""
    torch.manual_seed(0)
    special = {f"{which}_token_id": getattr(tokenizer, f"{which}_token_id") for which in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(
        name.split()[0], vocab_size=len(tokenizer) + 4, **special, **FAMILIES[name].sizes, **more
    )
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.25 / parameter.std())
    return model


def folder_of(tokenizer, folder: Path, family: str = "llama") -> Path:
    """A random policy of a family with that tokenizer, saved."""
    loading.save_model(family_model(family, tokenizer), tokenizer, folder)
    return folder


def refused(load: Callable, source: Path) -> str:
    """The one line with which a source is refused; it names the source."""
    with pytest.raises(DataError) as caught:
        load(source)
    text = str(caught.value)
    assert "\n" not in text and str(source) in text
    return text


def settings(**given) -> Settings:
    """Settings for a training of a dozen steps on the CPU."""
    sizes = {"sft_batch_size": 4, "dpo_batch_size": 4, "gradient_accumulation": 1, "max_new_tokens": 4}
    sizes |= {"sft_max_length": 96, "dpo_max_length": 96, "max_prompt_length": 8, "lora_rank": 4, "dpo_epochs": 2.0}
    return resolve(**({"profile": "smoke", "device": "cpu"} | sizes | given)).settings
