"""New small models and their tokenizers: an OPT, a DeBERTa reward model, and byte-level BPE tokenizers for both."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from helpers.models.loading import REWARD_MAX_LENGTH


def train_policy_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with OPT's special tokens: <s> 0, <pad> 1, </s> 2, <unk> 3.

    texts: to train on. vocab_size: tokens, special ones included. As in OPT, </s> is put in front of every text.
    """
    tokenizer = _byte_bpe(texts, vocab_size, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="</s>"
    )


def train_reward_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with DeBERTa's special tokens: [CLS] first text [SEP] second text [SEP].

    texts, vocab_size: as for `train_policy_tokenizer`.
    """
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = _byte_bpe(texts, vocab_size, special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(names, special, strict=True)),
        model_input_names=["input_ids", "attention_mask"],
        truncation_side="left",
    )


def _byte_bpe(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    """Byte-level BPE trained on texts. All 256 bytes are in the vocabulary, so every text can be encoded."""
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def new_policy(
    tokenizer, *, seed: int, hidden: int = 192, layers: int = 4, positions: int = 512, dropout: float = 0.1
) -> OPTForCausalLM:
    """A small OPT with random weights, built like OPT-350M: post-norm, embeddings narrower than the layers.

    tokenizer: gives vocabulary and special tokens. seed: of the weights. hidden: units of a hidden state. layers: their
    number. positions: the longest input in tokens. dropout: a probability.
    """
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        ffn_dim=4 * hidden,
        num_attention_heads=max(1, hidden // 64),
        word_embed_proj_dim=hidden // 2,
        do_layer_norm_before=False,
        max_position_embeddings=positions,
        dropout=dropout,
        attention_dropout=0.0,
        # OPT's 0.02 is for 1,024 units: with it a narrow post-norm model learns little beyond frequencies of tokens.
        init_std=hidden**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return OPTForCausalLM(config)


def new_reward_model(tokenizer, *, seed: int, hidden: int = 128, layers: int = 4) -> DebertaV2ForSequenceClassification:
    """A small DeBERTa-v2 with one logit and random weights, with DeBERTa-v3's relative positions, no token types.

    tokenizer: gives vocabulary and padding token. seed, hidden, layers: as for `new_policy`.
    """
    torch.manual_seed(seed)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=4 * hidden,
        num_attention_heads=max(1, hidden // 32),
        max_position_embeddings=REWARD_MAX_LENGTH,
        relative_attention=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=hidden,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    return DebertaV2ForSequenceClassification(config)
