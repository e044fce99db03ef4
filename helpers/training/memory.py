"""How much memory a stage takes at its peak, in bytes, and how many rows a device can hold at once.

Counted, not guessed: weights, gradients, optimiser state, the half-precision copies that autocast makes, and what
autograd keeps for the backward pass. activations.json was measured with benchmarks/activations.py, which asks
autograd itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
RowsAtOnce = tuple[int, bool] | None  # rows at once, and whether activations are computed again
MEASURED = Path(__file__).with_name("activations.json")
TILE = (4096, 32_768)  # tokens and words: TRL makes logits in tiles of this size and never holds them all
LOGIT_COPIES = 4  # of all logits in float32 where none are made in tiles: they, shifted, log-softmax, gradient
COPIES = 8  # float32 copies of a tile where TRL has no kernel of its own for it, as on a processor


@cache
def _kept() -> dict[str, dict[str, float]]:
    return read_json(MEASURED)["bytes"]


def activations(shape: Shape, kind: Kind, tokens: int, *, bfloat16: bool, checkpointing: bool) -> float:
    """What autograd keeps of `tokens` tokens (padding included) until the backward pass.

    A layer keeps so many bytes for each of its hidden units and tokens. With checkpointing it keeps its input only,
    and one layer at a time is computed again.
    """
    measured = "sft" if kind == "sft" else "dpo"
    kept, whole = _kept(), f"{measured}, {'bfloat16' if bfloat16 else 'float32'}"
    layer = kept[whole]["layer"] * shape.hidden * tokens
    rest = kept[whole]["rest"] * shape.hidden * tokens
    copies = 2.0 * shape.inside if bfloat16 else 0.0  # the layers' weights in half precision
    if checkpointing:
        return (
            kept["checkpointed"]["layer"] * shape.hidden * tokens * shape.layers + rest + layer + copies / shape.layers
        )
    return layer * shape.layers + rest + copies


def peak(
    shape: Shape, kind: Kind, rows: int, length: int, *, bfloat16: bool, checkpointing: bool = False,
    adapter: int = 0, accumulate: int = 1, gpu: bool = True,
) -> float:  # fmt: skip
    """The most memory of a training step with `rows` rows (DPO: pairs) of `length` tokens at once.

    SFT trains every weight: 4 bytes each for weight and gradient, 8 for AdamW's two moments. DPO trains `adapter`
    weights only. Gradients come while activations go, so that the peak is at either end of the backward pass; with
    accumulation the gradients of the batches before are there all the time.
    """
    trained = shape.parameters if kind == "sft" else adapter
    tokens = rows * length * (1 if kind == "sft" else 2)
    resting = 4.0 * shape.parameters + (0 if kind == "sft" else 4.0 * adapter) + 8.0 * trained
    working = activations(shape, kind, tokens, bfloat16=bfloat16, checkpointing=checkpointing)
    if kind == "dpo, all logits":  # counted, not measured
        working += 4.0 * LOGIT_COPIES * tokens * shape.vocabulary
    else:
        tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
        working += tile * ((2 if bfloat16 else 4) + (0 if gpu else 4 * COPIES))
    gradients = 4.0 * trained
    return resting + (working + gradients if accumulate > 1 else max(working, gradients))


def most_rows(shape: Shape, kind: Kind, room: float, rows: int, length: int, **how) -> int:
    """The largest number of rows at once, a divisor of `rows`, whose `peak` stays below `room` bytes; 0 for none."""
    for n in (n for n in range(rows, 0, -1) if rows % n == 0):
        if peak(shape, kind, n, length, accumulate=rows // n, **how) <= room:
            return n
    return 0


def generating(shape: Shape, rows: int, length: int) -> float:
    """The most memory of greedy decoding in float32: weights, keys and values, one layer's work, the last logits."""
    return 4.0 * (shape.parameters + 2 * shape.layers * shape.hidden * rows * length + 8 * shape.hidden * rows * length)


def scoring(shape: Shape, rows: int, length: int) -> float:
    """The most memory of a DeBERTa that scores `rows` rows of `length` tokens in float32: weights and one layer's work.

    Its disentangled attention holds three score matrices of rows x heads x length x length, made in float32.
    """
    heads = max(1, shape.hidden // 64)
    return 4.0 * (shape.parameters + 10 * shape.hidden * rows * length + 4 * heads * rows * length**2)


def rows_for_device(
    settings: Settings, method: Method, shape: Shape, device: Device, processes: int = 1
) -> tuple[int, bool]:
    """(rows on the device at once, whether activations are computed again) so that a step fits into its memory.

    processes: how many of them share a computer's memory; GPUs are not shared.

    Fewer rows cost next to nothing, so checkpointing is the last resort. (0, True): it does not fit at all.
    """
    room = device.room if device.gpu else device.room / processes
    how = {"bfloat16": precision_on(settings, device) == "bfloat16", "gpu": device.gpu}
    how |= {"adapter": shape.adapter(settings.lora_rank, settings.lora_targets)}
    rows, length = (getattr(settings, f"{method.prefix}_{what}") for what in ("batch_size", "max_length"))
    rows = min(rows, settings.rows_at_once or rows)
    for checkpointing in (False, True) if not settings.activation_checkpointing else (True,):
        if n := most_rows(shape, method.memory, room, rows, length, checkpointing=checkpointing, **how):
            return n, checkpointing
    return 0, True


def rows_for_this_device(settings: Settings, method: Method, model: torch.nn.Module) -> RowsAtOnce:
    """How a training of a model fits into this device's memory; None where weights are in parts (FSDP).

    Raises DataError when not even one row does, SettingsError when a row may be longer than the policy can see.
    """
    limit = f"{method.prefix}_max_length"
    longest, sees = getattr(settings, limit), positions(model.config)
    if sees is not None and longest > sees:
        raise SettingsError(f"{limit} = {longest}, but this policy sees {sees} tokens: lower it to {sees}")
    if distributed.sharded():
        return None
    device = this_device(settings.device)
    found = rows_for_device(settings, method, shape_of_model(model), device, distributed.count())
    rows, checkpointing = min(distributed.gathered(found))  # alike in all processes: what the smallest device holds
    if not rows:
        raise DataError(
            f"{method.title} of this policy does not fit into {device.name} ({device.memory / 1e9:.0f} GB), not even "
            f"one row at once: lower {limit}, or see `python -m helpers plan --profile {settings.profile}`"
        )
    return rows, checkpointing
