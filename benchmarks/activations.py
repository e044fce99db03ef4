"""What autograd keeps of SFT and DPO at OPT-350M's widths: bytes for each hidden unit and token of a layer.

python -m benchmarks.activations    writes helpers/training/activations.json, which the planner reads.
Two models of OPT-350M's widths, one layer and three, do one forward pass through TRL; every tensor that autograd saves
is counted once. The difference is two layers' worth. Exact and quick; no GPU is needed, none would change it much.
"""

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import torch
import trl
from transformers import OPTConfig, OPTForCausalLM

from benchmarks.measuring import keep
from helpers.core.profiles import DATA_CACHE
from helpers.core.repositories import POLICY
from helpers.core.settings import resolve
from helpers.models import loading
from helpers.models.sizes import PUBLISHED
from helpers.training import callbacks, dpo, memory, sft

ROWS, LAYERS = 4, (1, 3)


class Saved(NamedTuple):
    """Bytes that autograd keeps, copies of weights apart, and the tokens that they belong to."""

    activations: int
    tokens: int


class Seen(Exception):
    """The forward pass is over; nothing else is wanted."""


def saved(kind: str, layers: int, **given) -> Saved:
    found: list[Saved] = []
    trainer = {"sft": trl.SFTTrainer, "dpo": trl.DPOTrainer}[kind]
    compute = trainer.compute_loss

    def counted(self, model, inputs, *args, **kwargs):
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        widths = {n for p in model.parameters() for n in p.shape}
        kept: dict[int, torch.Tensor] = {}  # the tensors themselves, so that no address is used twice

        def keep_in_mind(tensor):
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep_in_mind, lambda tensor: tensor):
            compute(self, model, inputs, *args, **kwargs)
        # A matrix whose sides are both widths of the model is a weight in half precision.
        rest = [t for t in kept.values() if not (t.ndim == 2 and set(t.shape) <= widths)]
        found.append(Saved(sum(t.untyped_storage().nbytes() for t in rest), inputs["input_ids"].numel()))
        raise Seen

    with tempfile.TemporaryDirectory() as work, unevaluated(), mock.patch.object(trainer, "compute_loss", counted):
        model = Path(work) / "model"
        loading.save_model(wide(layers), loading.load_tokenizer(DATA_CACHE / "policy"), model)
        settings = resolve(profile="paper", device="cpu", dpo_reference="live", **given).settings
        train = {"sft": sft.train_sft, "dpo": dpo.train_preferences}[kind]
        try:
            train(model, pairs(), pairs(), settings, Path(work) / "out")
        except Seen:
            return found[0]
    raise AssertionError("no step was taken")


@contextmanager
def unevaluated():
    """Without the evaluation on held-out pairs that a training begins with."""
    with mock.patch.object(callbacks.TrainingWatch, "on_train_begin", lambda *_, **__: None):
        yield


def wide(layers: int) -> OPTForCausalLM:
    torch.manual_seed(0)
    sizes = PUBLISHED[POLICY.id] | {"num_hidden_layers": layers}
    return OPTForCausalLM(OPTConfig(**{n: v for n, v in sizes.items() if n not in ("architectures", "torch_dtype")}))


def pairs() -> pd.DataFrame:
    prompt = "\n\nHuman: " + "May I water the basil in the morning? " * 25 + "\n\nAssistant:"
    return pd.DataFrame({"prompt": prompt, "chosen": [" Yes, do." * 20] * ROWS, "rejected": " No, wait." * 20})


def measure(kind: str, precision: str, checkpointing: bool = False) -> dict[str, float]:
    """Bytes a hidden unit and token, for one layer and for what lies outside the layers."""
    given = {"precision": precision, "activation_checkpointing": checkpointing}
    given |= {"sft_batch_size": ROWS, "dpo_batch_size": ROWS}
    few, many = (saved(kind, layers, **given) for layers in LAYERS)
    units = few.tokens * PUBLISHED[POLICY.id]["hidden_size"]
    layer = (many.activations - few.activations) / (LAYERS[1] - LAYERS[0]) / units
    return {"layer": round(layer, 2), "rest": round(few.activations / units - LAYERS[0] * layer, 2)}


if __name__ == "__main__":
    sizes = {
        f"{kind}, {precision}": (kind, precision) for kind in ("sft", "dpo") for precision in ("bfloat16", "float32")
    }
    found = {name: measure(*how) for name, how in sizes.items()}
    found["checkpointed"] = measure("sft", "bfloat16", checkpointing=True)
    keep(__file__, {"bytes": found}, to=memory.MEASURED)
