"""How much memory a training takes at its peak, in bytes, and how many rows a device can hold at once.

The peak is a sum of weights, gradients, optimiser state, the half-precision copies that autocast makes, and the
activations that autograd keeps for the backward pass. benchmarks/activations.py measured these for activations.json.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from helpers.core import distributed
from helpers.core.errors import DataError, SettingsError
from helpers.core.files import read_json
from helpers.models.families import positions
from helpers.models.hardware import Device, precision_on, this_device
from helpers.models.sizes import Shape, shape_of_model

if TYPE_CHECKING:
    from helpers.core.methods import Method
    from helpers.core.settings import Settings


Kind = Literal["sft", "dpo", "dpo, all logits"]
MEASURED = Path(__file__).with_name("activations.json")
TILE = (4096, 32_768)  # tokens, words of the vocabulary: TRL computes logits tile by tile and never holds them all
LOGIT_COPIES = 4  # float32 copies of all logits where there are no tiles: logits, shifted, log-softmax, gradient
COPIES = 8  # float32 copies of a tile on a processor, where TRL has no kernel that computes it in one go


class OnDevice(NamedTuple):
    """How a training step is computed on a device.

    rows: how many are in a batch (0: all of a process's share; from `rows_for_device`: not even one has room).
    checkpointing: whether activations are computed again in the backward pass instead of kept (activation
    checkpointing).
    """

    rows: int
    checkpointing: bool


@cache
def _kept() -> dict[str, dict[str, float]]:
    """Bytes that autograd keeps, for each token and hidden unit: of one layer, and of the rest of a model."""
    return read_json(MEASURED)["bytes"]


def activations(shape: Shape, kind: Kind, tokens: int, *, bfloat16: bool, checkpointing: bool) -> float:
    """Bytes of activations that autograd keeps until the backward pass.

    shape: the policy's. kind: of training. tokens: in a batch, padding included. bfloat16: whether autocast multiplies
    in it. checkpointing: whether a layer keeps its input only, and is computed again in the backward pass.
    """
    # Bytes for each token and hidden unit, as measured: of one layer, and of what lies outside the layers.
    training = "sft" if kind == "sft" else "dpo"
    measured = _kept()[f"{training}, {'bfloat16' if bfloat16 else 'float32'}"]
    layer = measured["layer"] * shape.hidden * tokens
    rest = measured["rest"] * shape.hidden * tokens
    # Autocast keeps a copy of the layers' weights in half precision.
    copies = 2.0 * shape.inside if bfloat16 else 0.0
    if not checkpointing:
        return layer * shape.layers + rest + copies
    # With checkpointing: the inputs of all layers, and one whole layer at a time.
    inputs = _kept()["checkpointed"]["layer"] * shape.hidden * tokens * shape.layers
    return inputs + rest + layer + copies / shape.layers


def peak(
    shape: Shape, kind: Kind, rows: int, length: int, *, bfloat16: bool, checkpointing: bool = False,
    adapter: int = 0, accumulate: int = 1, gpu: bool = True,
) -> float:  # fmt: skip
    """The most memory in bytes that a training step takes.

    shape: the policy's. kind: SFT trains every weight; a preference loss trains a LoRA adapter, on two sequences a row;
    "dpo, all logits" keeps every logit. rows, length: in a batch, and tokens of each sequence. bfloat16: whether
    autocast multiplies in it. checkpointing: see `activations`. adapter: weights of the LoRA adapter. accumulate:
    batches whose gradients are summed before a step. gpu: whether the device is one.

    A trained weight takes 4 bytes, its gradient 4, AdamW's two moments 8. Each layer's activations are freed while the
    backward pass makes its gradients, so the peak is at the beginning or at the end of the backward pass. With
    accumulation the gradients of the batches before take their memory all the time.
    """
    # Held all the time: weights, and for the trained ones AdamW's moments.
    trained = shape.parameters if kind == "sft" else adapter
    resting = 4.0 * shape.parameters + (0 if kind == "sft" else 4.0 * adapter) + 8.0 * trained
    # Of one batch: activations and logits.
    tokens = rows * length * (1 if kind == "sft" else 2)
    working = activations(shape, kind, tokens, bfloat16=bfloat16, checkpointing=checkpointing)
    if kind == "dpo, all logits":
        working += 4.0 * LOGIT_COPIES * tokens * shape.vocabulary
    else:
        tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
        working += tile * ((2 if bfloat16 else 4) + (0 if gpu else 4 * COPIES))
    # Gradients come on top where those of earlier batches are there already.
    gradients = 4.0 * trained
    return resting + (working + gradients if accumulate > 1 else max(working, gradients))


def most_rows(shape: Shape, kind: Kind, room: float, rows: int, length: int, **how) -> int:
    """The largest batch, a divisor of `rows`, whose `peak` is not above `room` bytes; 0 where there is none.

    shape, kind, length: as for `peak`. rows: of a training step. how: the other arguments of `peak` by name.
    """
    for batch in range(rows, 0, -1):
        if rows % batch:
            continue
        if peak(shape, kind, batch, length, accumulate=rows // batch, **how) <= room:
            return batch
    return 0


def generating(shape: Shape, rows: int, length: int) -> float:
    """The most memory in bytes of greedy decoding in float32: weights, key-value cache, one layer's activations.

    shape: the policy's. rows, length: in a batch, and tokens of prompt and response together.
    """
    key_value_cache = 2 * shape.layers * shape.hidden * rows * length
    one_layer = 8 * shape.hidden * rows * length
    return 4.0 * (shape.parameters + key_value_cache + one_layer)


def scoring(shape: Shape, rows: int, length: int) -> float:
    """The most memory in bytes of a DeBERTa that scores in float32: weights and one layer's activations.

    shape: the reward model's. rows, length: in a batch, and tokens of each row. DeBERTa's disentangled attention holds
    three matrices of attention scores and their sum, each of rows x heads x length x length.
    """
    heads = max(1, shape.hidden // 64)
    attention = 4 * heads * rows * length**2
    one_layer = 10 * shape.hidden * rows * length
    return 4.0 * (shape.parameters + one_layer + attention)


def rows_for_device(settings: Settings, method: Method, shape: Shape, device: Device, processes: int = 1) -> OnDevice:
    """The largest batch for which a training step's memory is there, and whether it takes activation checkpointing.

    settings: batch size, lengths, precision, LoRA. method: the training. shape: the policy's. device: its memory.
    processes: how many share a computer's memory (a GPU belongs to one). Smaller batches cost hardly any time, so
    checkpointing, which costs a second forward pass, is tried last. Returns OnDevice(0, True) where there is no way.
    """
    room = device.room if device.gpu else device.room / processes
    how = {
        "bfloat16": precision_on(settings, device) == "bfloat16",
        "gpu": device.gpu,
        "adapter": shape.adapter(settings.lora_rank, settings.lora_targets),
    }
    # The rows of a step before accumulation, or fewer where the setting rows_at_once says so.
    rows = getattr(settings, f"{method.prefix}_batch_size")
    rows = min(rows, settings.rows_at_once or rows)
    length = getattr(settings, f"{method.prefix}_max_length")
    for checkpointing in (True,) if settings.activation_checkpointing else (False, True):
        batch = most_rows(shape, method.memory, room, rows, length, checkpointing=checkpointing, **how)
        if batch:
            return OnDevice(batch, checkpointing)
    return OnDevice(0, True)


def rows_for_this_device(settings: Settings, method: Method, model: torch.nn.Module) -> OnDevice | None:
    """The batch and the checkpointing for a training on this device; None with FSDP, whose memory is not counted here.

    settings, method: as for `rows_for_device`. model: the policy. Raises DataError when not even one row has room,
    SettingsError when the setting for the longest row is more than the policy's context length.
    """
    # Rows must not be longer than the policy's context length.
    limit = f"{method.prefix}_max_length"
    longest, sees = getattr(settings, limit), positions(model.config)
    if sees is not None and longest > sees:
        raise SettingsError(f"{limit} = {longest}, but this policy sees {sees} tokens: lower it to {sees}")
    if distributed.sharded():
        return None
    device = this_device(settings.device)
    found = rows_for_device(settings, method, shape_of_model(model), device, distributed.count())
    # The same batch in all processes: the one for which the smallest device has room.
    smallest = min(distributed.gathered(found))
    if not smallest.rows:
        raise DataError(
            f"{method.title} of this policy does not fit into {device.name} ({device.memory / 1e9:.0f} GB), not even "
            f"one row at once: lower {limit}, or see `python -m helpers plan --profile {settings.profile}`"
        )
    return smallest
