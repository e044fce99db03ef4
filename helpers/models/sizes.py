"""The sizes of a model that memory and time depend on, from its config: no weight is read."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers.core.errors import DataError
from helpers.core.repositories import POLICY, REWARD_MODEL
from helpers.models import families

if TYPE_CHECKING:
    from torch import nn

# What the hub's configs say, for when the hub cannot be asked, and for folders that imitate it.
# fmt: off
PUBLISHED = {
    POLICY.id: {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": 50272, "hidden_size": 1024,
        "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16, "word_embed_proj_dim": 512,
        "do_layer_norm_before": False, "max_position_embeddings": POLICY.positions, "dropout": 0.1,
        "attention_dropout": 0.0, "activation_function": "relu", "bos_token_id": 2, "eos_token_id": 2,
        "pad_token_id": 1, "prefix": "</s>", "torch_dtype": "float16",
    },
    REWARD_MODEL.id: {
        "model_type": "deberta-v2", "architectures": ["DebertaV2ForSequenceClassification"], "vocab_size": 128100,
        "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096, "num_attention_heads": 16,
        "max_position_embeddings": 512, "relative_attention": True, "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": -1, "position_biased_input": False, "type_vocab_size": 0,
        "pooler_hidden_size": 1024, "layer_norm_eps": 1e-7, "id2label": {"0": "LABEL_0"}, "pad_token_id": 0,
        "torch_dtype": "float32",
    },
}
# fmt: on


class Shape(NamedTuple):
    """Sizes in numbers of weights. `inside`: those that every token is multiplied with, the output head included."""

    parameters: int
    inside: int
    layers: int
    hidden: int
    vocabulary: int  # rows of the output head; 0 for a model that has none
    linear: int  # inputs + outputs, summed over the linear layers that LoRA adapts with all-linear
    queries: int  # the same over those that make queries and values: see `families.query_value`

    def adapter(self, rank: int, targets: str) -> int:
        """Weights of a LoRA adapter of that rank: rank * (inputs + outputs) of every layer that it adapts."""
        return rank * (self.queries if targets == "q_v" else self.linear)


def shape_of(source: str | Path) -> Shape:
    """The shape of a model folder or hub id. Raises DataError where its config is nowhere to be had."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from helpers.models import adapters, checkpoint_files

    if known := PUBLISHED.get(str(source)):
        config = AutoConfig.for_model(**{name: value for name, value in known.items() if name != "torch_dtype"})
    else:
        try:
            plain = adapters.base_of(source) if adapters.is_adapter(source) else source
            config = AutoConfig.from_pretrained(checkpoint_files.tokenizer_folder(plain), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise DataError(f"no config of model {str(source)!r} ({reason}): give a complete folder") from None
    judges = any("SequenceClassification" in name for name in config.architectures or ())
    with torch.device("meta"):
        return shape_of_model(
            (AutoModelForSequenceClassification if judges else AutoModelForCausalLM).from_config(config)
        )


def shape_of_model(model: "nn.Module") -> Shape:
    """The shape of a model that is at hand; weights that are tied are counted once, LoRA's own not at all."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers, their weights the other way round

    # A folder of LoRA's layers keeps the frozen one inside: base_layer.
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not any(part.startswith("lora_") for part in name.split("."))
    }
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    sizes = {name: sum(module.weight.shape) for name, module in linear.items() if module is not head}
    adapted = set(families.query_value(model))
    text = model.config.get_text_config()
    own = [p.numel() for name, p in model.named_parameters() if "lora_" not in name]
    return Shape(
        parameters=sum(own),
        inside=sum(module.weight.numel() for module in linear.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=0 if head is None else head.weight.shape[0],
        linear=sum(sizes.values()),
        queries=sum(n for name, n in sizes.items() if adapted & set(name.split("."))),
    )
