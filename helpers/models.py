"""Load and save policies, adapters, reward models and tokenizers: dtype, dropout and file format are decided here.

Any causal language model is a policy: what differs between families is in `families`. OPT's traps (see also notebook
05): opt-350m's config says float16, so a plain load trains in half precision; its dropout is functional, so nobody can
switch it off after loading; its tokenizer puts ``</s>`` in front of every text.
"""

from __future__ import annotations

import functools
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
    AutoConfig,
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

from . import adapters, families, folders, hub, reward_labels, special_tokens
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
    """The local folder that a folder's or hub id's model is loaded from, its weights as safetensors: see `hub`.

    For an adapter's folder it is that of the merged model: see `adapters`.
    """
    return hub.model_folder(_found(source))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """A policy's tokenizer, from a folder or hub id; for an OPT, vocab.json and merges.txt are enough.

    One without a padding token gets one. Raises DataError where it cannot serve a policy: see `special_tokens`.
    """
    tokenizer, config = _load_tokenizer(AutoTokenizer, source)
    rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    special_tokens.complete_policy(tokenizer, str(source), rows)
    return tokenizer


def load_policy(source: str | Path, *, dropout: float = 0.0, device: str = "auto") -> PreTrainedModel:
    """A causal language model of any family in float32 and eval mode, from a folder or hub id.

    An adapter's folder is merged with its base model first. ``dropout`` (a probability) replaces the config's values at
    load, the only moment at which OPT's functional dropout can be set; what a family lacks is said in a printed line.
    Raises DataError where the source is no causal language model or not complete.
    """
    model = _load_model(AutoModelForCausalLM, source, dropout)
    return model.to(pick_device(device)).eval()


def load_reward_model(source: str | Path, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A sequence classifier in float32 and eval mode, and its tokenizer: it cuts from the left, pads on the right.

    With one label its logit is the score. With two, the score is the logit of the good label minus that of the bad one,
    which a printed line says: see `reward_labels`. Raises DataError for more labels.
    """
    model = _load_model(AutoModelForSequenceClassification, source)
    if remark := reward_labels.check(model.config, str(source)):
        _say(remark)
    try:
        # tokenizer.json as it is: DebertaV2Tokenizer rebuilds the normaliser and turns "…" or a hard space into [UNK].
        tokenizer, _ = _load_tokenizer(PreTrainedTokenizerFast, source)
    except DataError:
        tokenizer, _ = _load_tokenizer(AutoTokenizer, source)
    special_tokens.complete_classifier(tokenizer, str(source), model.config)
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    return model.to(pick_device(device)).eval(), tokenizer


@functools.cache
def _say(line: str) -> None:
    """Print a line, the first time only."""
    print(line)


def _found(source: str | Path) -> str | Path:
    """The source itself, or the plain model that an adapter's folder stands for. Raises DataError for neither."""
    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise DataError(f"model {str(source)!r} is neither a folder nor a hub id: check policy= or reward_model=")
    return adapters.merged(source, merge_adapter) if adapters.is_adapter(source) else source


def _load_model(kind, source: str | Path, dropout: float | None = None) -> PreTrainedModel:
    """from_pretrained of a folder that `hub` finds: float32 from safetensors, no remote code, no weight missing."""
    folder = model_folder(source)
    with _readable(source):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    _check_kind(kind, config, str(source))
    if dropout is not None:
        families.set_dropout(config, dropout)
        if remark := families.dropout_remark(config, dropout):
            _say(remark)
    options = {"config": config, "dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    with _readable(source):
        model, report = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    if missing := sorted(report["missing_keys"]):  # they would be random numbers
        raise DataError(
            f"model {str(source)!r} has no weights for {missing[0]} ({len(missing)} such): it is no "
            f"{type(model).__name__}, or its files are not complete: check policy= or reward_model="
        )
    return model


def _check_kind(kind, config, name: str) -> None:
    """Raise DataError for a policy that its config calls another kind of model: its weights might load all the same."""
    called = (config.architectures or [""])[0]
    if kind is AutoModelForCausalLM and called.endswith(("ForMaskedLM", "ForSequenceClassification")):
        raise DataError(f"model {name!r} is a {called}, no causal language model, so it cannot be a policy")


def _load_tokenizer(kind, source: str | Path) -> tuple[PreTrainedTokenizerFast, dict]:
    """A tokenizer from a folder that `hub` finds, and the config.json beside it ({} without one)."""
    folder = hub.tokenizer_folder(_found(source))
    options = OPT_TOKENS | {"add_bos_token": True} if _is_bare_opt(folder) else {}
    with _readable(source):
        tokenizer = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, **options)
    return tokenizer, folders.read_json(folder / "config.json")


@contextmanager
def _readable(source: str | Path) -> Iterator[None]:
    """Quiet libraries, and one readable line where they fail."""
    try:
        with quiet():
            yield
    except Exception as error:  # damaged or foreign files raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"model {str(source)!r} cannot be loaded ({reason}): give a complete folder or a reachable hub id"
        ) from None


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

    with quiet():
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
