"""Families of language models: what differs between OPT, GPT-2, Llama and the others, in one table.

A family is the `model_type` of a config. For a policy of a family that is not in the table, the fields of its config
and the names of its layers are looked at instead. What all configs call alike (hidden_size) is not in the table.
"""

import inspect
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

ATTENTION_DROPOUT = "attention_dropout"
# Fields of configs that hold a dropout probability.
DROPOUTS = (
    *("dropout", "hidden_dropout", "activation_dropout", ATTENTION_DROPOUT, "layerdrop"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "emb_pdrop", "resid_dropout", "embed_dropout"),
)
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
SEPARATE = ("q_proj", "v_proj")  # queries and values have matrices of their own
FUSED = (("c_attn",), ("query_key_value",), ("qkv_proj",), ("Wqkv",))  # one matrix makes queries, keys and values


class Family(NamedTuple):
    """What differs between families.

    dropout: the config's fields that the setting `dropout` sets. query_value: the layers that make queries and values
    of attention, by the last part of their names; LoRA adapts them where lora_targets is "q_v".
    """

    dropout: tuple[str, ...]
    query_value: tuple[str, ...]


# fmt: off
FAMILIES = {
    # model_type        dropout                                         query_value
    "opt":       Family(("dropout",),                                   SEPARATE),  # OPT's dropout is no layer
    "gpt2":      Family(("resid_pdrop", "embd_pdrop", "attn_pdrop"),    ("c_attn",)),
    "gpt_neo":   Family(("resid_dropout", "embed_dropout", ATTENTION_DROPOUT), SEPARATE),
    "gpt_neox":  Family(("hidden_dropout", ATTENTION_DROPOUT),          ("query_key_value",)),  # Pythia
    "llama":     Family((ATTENTION_DROPOUT,),                           SEPARATE),
    "qwen2":     Family((ATTENTION_DROPOUT,),                           SEPARATE),
    "qwen3":     Family((ATTENTION_DROPOUT,),                           SEPARATE),
    "bloom":     Family(("hidden_dropout", ATTENTION_DROPOUT),          ("query_key_value",)),
}
# fmt: on


def positions(config: "PretrainedConfig") -> int | None:
    """The longest input of a model in tokens (its context length); None where the config names no limit (BLOOM).

    config: the model's.
    """
    text = config.get_text_config()
    for name in POSITIONS:
        number = getattr(text, name, None)
        if number and number > 0:
            return number
    return None


def dropout_fields(config: "PretrainedConfig") -> tuple[str, ...]:
    """The fields of a policy's config that the setting `dropout` sets; () for a family without dropout."""
    text = config.get_text_config()
    if known := FAMILIES.get(text.model_type):
        return known.dropout
    return tuple(name for name in DROPOUTS if name != "layerdrop" and getattr(text, name, None) is not None)


def set_dropout(config: "PretrainedConfig", dropout: float) -> None:
    """Write a dropout probability into a policy's config, before the model is built from it.

    config: changed in place. dropout: a probability; 0 switches every kind of dropout off, also those kinds that a
    positive one leaves as they are, such as dropout of whole layers.
    """
    text = config.get_text_config()
    for name in DROPOUTS:
        if dropout == 0 and getattr(text, name, None):
            setattr(text, name, 0.0)
    for name in dropout_fields(config):
        setattr(text, name, dropout)


def dropout_remark(config: "PretrainedConfig", dropout: float) -> str | None:
    """A line on what a dropout probability does not do in this family; None where there is nothing to say.

    config: the policy's. dropout: the probability that was asked for.
    """
    fields, kind = dropout_fields(config), config.get_text_config().model_type
    if not dropout or set(fields) - {ATTENTION_DROPOUT}:
        return None
    if not fields:
        return f"dropout = {dropout} changes nothing: the family {kind} has no dropout"
    return f"dropout = {dropout} acts on attention weights only: the family {kind} has no other dropout"


def query_value(model: "nn.Module") -> tuple[str, ...]:
    """The layers that lora_targets "q_v" means, by the last part of their names; () where they are not known.

    model: a policy. A family that makes queries, keys and values in one layer (GPT-2, GPT-NeoX, BLOOM) has only that.
    """
    if known := FAMILIES.get(model.config.get_text_config().model_type):
        return known.query_value
    # Another family: look for the usual names.
    layers = {name.split(".")[-1] for name, _ in model.named_modules()}
    for names in (SEPARATE, *FUSED):
        if layers.issuperset(names):
            return names
    return ()


def takes_position_ids(model: "nn.Module") -> bool:
    """Whether a model's forward pass has the argument position_ids.

    Where it is left out, GPT-2 and GPT-Neo count padding on the left as positions. BLOOM has no positions (ALiBi).
    """
    # The wrapper that PEFT puts around a model does not show the arguments.
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(type(plain).forward).parameters
