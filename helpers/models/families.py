"""Families of language models: what differs between OPT, GPT-2, Llama and the others, in one table.

A family is the `model_type` of a config. A policy of a family that is not in the table works too: then the config and
the model are asked. What every config says under one name (hidden_size, num_hidden_layers) is not repeated here.
"""

import inspect
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

ATTENTION_DROPOUT = "attention_dropout"
# Names under which configs hold probabilities of leaving something out in training.
DROPOUTS = (
    *("dropout", "hidden_dropout", "activation_dropout", ATTENTION_DROPOUT, "layerdrop"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "emb_pdrop", "resid_dropout", "embed_dropout"),
)
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
SEPARATE = ("q_proj", "v_proj")  # queries and values have matrices of their own
FUSED = (("c_attn",), ("query_key_value",), ("qkv_proj",), ("Wqkv",))  # one matrix makes queries, keys and values


class Family(NamedTuple):
    """What is peculiar to a family.

    dropout: the config's fields that the setting `dropout` sets. query_value: last names of the weight matrices that
    make queries and values, which LoRA adapts where lora_targets is "q_v".
    """

    dropout: tuple[str, ...]
    query_value: tuple[str, ...]


# fmt: off
FAMILIES = {
    # model_type        dropout                                         query_value
    "opt":       Family(("dropout",),                                   SEPARATE),  # a function's argument, no module
    "gpt2":      Family(("resid_pdrop", "embd_pdrop", "attn_pdrop"),    ("c_attn",)),
    "gpt_neo":   Family(("resid_dropout", "embed_dropout", ATTENTION_DROPOUT), SEPARATE),
    "gpt_neox":  Family(("hidden_dropout", ATTENTION_DROPOUT),          ("query_key_value",)),  # Pythia
    "llama":     Family((ATTENTION_DROPOUT,),                           SEPARATE),
    "qwen3":     Family((ATTENTION_DROPOUT,),                           SEPARATE),
    "bloom":     Family(("hidden_dropout", ATTENTION_DROPOUT),          ("query_key_value",)),
}
# fmt: on


def positions(config: "PretrainedConfig") -> int | None:
    """The longest input in tokens that a model's config allows; None where it names no limit (BLOOM)."""
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in POSITIONS)
    return next((number for number in found if number and number > 0), None)


def dropout_fields(config: "PretrainedConfig") -> tuple[str, ...]:
    """The fields of a policy's config that the setting `dropout` sets; () for a family that has no dropout."""
    text = config.get_text_config()
    if known := FAMILIES.get(text.model_type):
        return known.dropout
    return tuple(name for name in DROPOUTS if name != "layerdrop" and getattr(text, name, None) is not None)


def set_dropout(config: "PretrainedConfig", dropout: float) -> None:
    """Write a dropout probability into a policy's config, before the model is built from it.

    0 switches off whatever the family can leave out at random, also what the setting does not set otherwise.
    """
    text = config.get_text_config()
    for name in DROPOUTS:
        if dropout == 0 and getattr(text, name, None):
            setattr(text, name, 0.0)
    for name in dropout_fields(config):
        setattr(text, name, dropout)


def dropout_remark(config: "PretrainedConfig", dropout: float) -> str | None:
    """What a reader who asks for dropout should know about this family; None where there is nothing special."""
    fields, kind = dropout_fields(config), config.get_text_config().model_type
    if not dropout or set(fields) - {ATTENTION_DROPOUT}:
        return None
    if not fields:
        return f"dropout = {dropout} changes nothing: the family {kind} has no dropout"
    return f"dropout = {dropout} acts on attention weights only: the family {kind} has no other dropout"


def query_value(model: "nn.Module") -> tuple[str, ...]:
    """Last names of the matrices that lora_targets "q_v" means; () where nobody knows them.

    Where a family has one matrix for queries, keys and values together (GPT-2, GPT-NeoX, BLOOM), it is that one.
    """
    if known := FAMILIES.get(model.config.get_text_config().model_type):
        return known.query_value
    there = {name.split(".")[-1] for name, _ in model.named_modules()}
    return next((names for names in (SEPARATE, *FUSED) if there.issuperset(names)), ())


def takes_position_ids(model: "nn.Module") -> bool:
    """Whether a model can be told the position of each token.

    Without being told, GPT-2 and GPT-Neo count the padding on the left as positions. ALiBi (BLOOM) has none to tell.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT hides the arguments
    return "position_ids" in inspect.signature(type(plain).forward).parameters
