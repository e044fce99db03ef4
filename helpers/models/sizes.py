"""The sizes of a model that memory and time depend on, from its config: no weight is read."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers.core.errors import DataError
from helpers.core.repositories import POLICY, REWARD_MODEL
from helpers.models import families

if TYPE_CHECKING:
    from torch import nn

# The published configs of the paper's two models: a plan needs no network, and a rehearsal makes folders with them.
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
    """The sizes of a model.

    parameters: all weights. inside: weights of the linear layers and the output head, with which every token is
    multiplied. layers, hidden: number of layers, and units of a hidden state. vocabulary: rows of the output head, 0
    without one. linear: inputs + outputs, summed over all linear layers but the head. queries: the same sum over the
    layers that make queries and values, see `families.query_value`.
    """

    parameters: int
    inside: int
    layers: int
    hidden: int
    vocabulary: int
    linear: int
    queries: int

    def adapter(self, rank: int, targets: str) -> int:
        """Weights of a LoRA adapter: rank * (inputs + outputs) of each layer that it adapts.

        rank: of the adapter's matrices. targets: the setting lora_targets, "q_v" or "all-linear".
        """
        return rank * (self.queries if targets == "q_v" else self.linear)


def shape_of(source: str | Path) -> Shape:
    """The shape of a model, from its config alone. source: a folder, an adapter's folder, or a hub id.

    Raises DataError where there is no config to be found.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from helpers.models import adapters, checkpoint_files

    # The config: a published one, or that of the folder or hub id; of an adapter, that of its base model.
    published = PUBLISHED.get(str(source))
    if published:
        config = AutoConfig.for_model(**{name: value for name, value in published.items() if name != "torch_dtype"})
    else:
        try:
            plain = adapters.base_of(source) if adapters.is_adapter(source) else source
            config = AutoConfig.from_pretrained(checkpoint_files.tokenizer_folder(plain), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise DataError(f"no config of model {str(source)!r} ({reason}): give a complete folder") from None
    # A model on the device "meta" has the shapes of its weights and takes no memory for them.
    scores = any("SequenceClassification" in name for name in config.architectures or ())
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with torch.device("meta"):
        return shape_of_model(kind.from_config(config))


def shape_of_model(model: "nn.Module") -> Shape:
    """The shape of a loaded model, with or without a LoRA adapter.

    model: a policy or a reward model. Tied weights are counted once, those of an adapter not at all.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers, their weights the other way round

    # The linear layers. A layer that LoRA adapts is found as "base_layer"; the adapter's own begin with "lora_".
    linear = {}
    for name, module in model.named_modules():
        in_adapter = any(part.startswith("lora_") for part in name.split("."))
        if isinstance(module, nn.Linear | Conv1D) and not in_adapter:
            linear[name] = module
    # LoRA adapts them all but the output head; its matrices are as long as a layer's inputs and outputs.
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    sizes = {name: sum(module.weight.shape) for name, module in linear.items() if module is not head}
    query_value = set(families.query_value(model))
    queries = sum(size for name, size in sizes.items() if query_value & set(name.split(".")))
    text = model.config.get_text_config()
    own = [p.numel() for name, p in model.named_parameters() if "lora_" not in name]
    return Shape(
        parameters=sum(own),
        inside=sum(module.weight.numel() for module in linear.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=0 if head is None else head.weight.shape[0],
        linear=sum(sizes.values()),
        queries=queries,
    )
