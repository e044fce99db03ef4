"""Load and save policies, adapters, reward models and tokenizers: dtype, dropout and file format are decided here.

OPT's traps (see also notebook 05): opt-350m's config says float16, so a plain load trains in half precision; its
dropout is functional, so nobody can switch it off after loading; its tokenizer puts ``</s>`` in front of every text.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from . import folders, hub
from .errors import DataError
from .hardware import pick_device

# What OPT's tokenizer_config.json says. Without that file its vocab.json and merges.txt would be read as GPT-2's.
OPT_TOKENS = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
REWARD_MAX_LENGTH = 512  # tokens of prompt and reply together that the judge reads


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the Hugging Face libraries' progress bars, advice and telemetry inside a ``with`` block."""
    import datasets
    import huggingface_hub
    from transformers.utils import logging as library

    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    dataset_bars, trl = not datasets.are_progress_bars_disabled(), logging.getLogger("trl")
    level = trl.level
    library.set_verbosity_error()
    library.disable_progress_bar()
    datasets.disable_progress_bars()
    trl.setLevel(logging.ERROR)
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # else TRL reports every training
    try:
        # TRL draws one more bar, for reference log-probabilities, and asks this variable about it.
        with warnings.catch_warnings(), mock.patch.dict(os.environ, TQDM_DISABLE="1"):
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        trl.setLevel(level)
        if bars:
            library.enable_progress_bar()
        if dataset_bars:
            datasets.enable_progress_bars()


def model_folder(source: str | Path) -> Path:
    """The local folder that a folder's or hub id's model is loaded from, its weights as safetensors: see `hub`."""
    return hub.model_folder(source)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub id; for an OPT, vocab.json and merges.txt are enough."""
    return _load(AutoTokenizer, source)


def load_policy(source: str | Path, *, dropout: float = 0.0, device: str = "auto") -> PreTrainedModel:
    """A causal language model in float32 and eval mode.

    ``dropout`` replaces the config's value at load, the only moment at which OPT's functional dropout can be set.
    """
    model = _load(AutoModelForCausalLM, source, dtype=torch.float32, dropout=dropout)
    return model.to(pick_device(device)).eval()


def load_reward_model(source: str | Path, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A sequence classifier with one logit, float32 and eval mode, and its tokenizer, which cuts from the left."""
    model = _load(AutoModelForSequenceClassification, source, dtype=torch.float32, num_labels=1)
    try:
        # tokenizer.json as it is: DebertaV2Tokenizer rebuilds the normaliser and turns "…" or a hard space into [UNK].
        tokenizer = _load(PreTrainedTokenizerFast, source)
    except DataError:
        tokenizer = load_tokenizer(source)
    tokenizer.truncation_side = "left"
    return model.to(pick_device(device)).eval(), tokenizer


def _load(kind, source: str | Path, **options):
    """from_pretrained of a folder that `hub` finds: safetensors, pinned, no remote code; a readable complaint."""
    name = str(source)
    if not Path(source).is_dir() and name.count("/") != 1:
        raise DataError(f"model {name!r} is neither a folder nor a hub id: check policy= or reward_model=")
    is_model = kind in (AutoModelForCausalLM, AutoModelForSequenceClassification)
    folder = model_folder(source) if is_model else hub.tokenizer_folder(source)
    options |= {"trust_remote_code": False, "local_files_only": True}
    if is_model:
        options |= {"use_safetensors": True, "output_loading_info": True}
    elif _is_bare_opt(folder):
        options |= OPT_TOKENS | {"add_bos_token": True}
    try:
        with quiet():
            loaded = kind.from_pretrained(str(folder), **options)
    except Exception as error:  # damaged or foreign files raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"model {name!r} cannot be loaded ({reason}): give a complete folder or a reachable hub id"
        ) from None
    if not is_model:
        return loaded
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # they would be random numbers
        raise DataError(
            f"model {name!r} has no weights for {missing[0]} ({len(missing)} such): it is no "
            f"{type(model).__name__}, or its files are not complete: check policy= or reward_model="
        )
    return model


def _is_bare_opt(folder: Path) -> bool:
    """Whether a folder holds an OPT's vocabulary without a word on its special tokens."""
    told = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return not told and folders.read_json(folder / "config.json").get("model_type") == "opt"


def save_model(model: PreTrainedModel, tokenizer, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write model and tokenizer as safetensors; with ``dtype`` the weights and the config's dtype become that."""
    if dtype is not None:
        model = model.to(dtype)
        model.config.dtype = dtype
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def merge_adapter(policy: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Add a LoRA adapter to the weights it was trained on and write the sum as a plain model in float32."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_policy(policy, device="cpu"), str(adapter))
    save_model(model.merge_and_unload(), load_tokenizer(policy), out)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, trainable in sizes if trainable), sum(n for n, _ in sizes)


# ------------------------------------------------------------------------------------------- small models made here


def train_policy_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with OPT's conventions: <s> 0, <pad> 1, </s> 2, <unk> 3; </s> opens every text."""
    tokenizer = _byte_bpe(texts, vocab_size, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="</s>"
    )


def train_reward_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with DeBERTa's special tokens: [CLS] first text [SEP] second text [SEP]."""
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
    """A small OPT with random weights and OPT-350M's peculiarities: post-norm, embeddings narrower than the layers."""
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
        init_std=hidden**-0.5,  # OPT's 0.02 suits 1,024 dimensions: a narrow post-norm model stays at word frequencies
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return OPTForCausalLM(config)


def new_reward_model(tokenizer, *, seed: int, hidden: int = 128, layers: int = 4) -> DebertaV2ForSequenceClassification:
    """A small DeBERTa-v2 with one logit and random weights, with v3's relative positions and no token types."""
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
