"""How fast a device is: what was measured on it, or a stated share of its data sheet.

`rehearse` measures, into results/rates.json. Those in benchmarks/rates.json come with the course; yours count first.
"""

import datetime
import re
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SettingsError
from ..folders import read_json, versions, write_json
from ..methods import reference_used
from ..settings import ROOT, results_root
from .shapes import Shape
from .units import GB

if TYPE_CHECKING:
    from ..methods import Method
    from ..settings import Settings

RATES = ROOT / "benchmarks" / "rates.json"
ASSUMED_SHARE = 0.3  # of the data sheet's rate, where nobody has measured
ASSUMED_STEP = 0.03  # seconds to decode a token of a batch on a GPU that nobody has measured
CONTEXT = GB // 2  # what a GPU's driver and libraries take
USABLE = 0.95  # of a GPU's memory; the rest is lost between torch's blocks
HOST_SHARE = 0.8  # of a computer's memory that a training may take
PROCESS = 1.0 * GB  # what Python takes with all its libraries before a model is loaded


class Device(NamedTuple):
    """Where a run is planned: memory in bytes, dense matrix rates of the data sheet in FLOP/s (None: unknown)."""

    name: str
    memory: float
    gpu: bool = True
    bfloat16: bool = True
    half: float | None = None
    single: float | None = None

    @property
    def room(self) -> float:
        """Bytes that a training may take, torch's own count."""
        return USABLE * self.memory - CONTEXT if self.gpu else HOST_SHARE * self.memory - PROCESS


CARDS = {
    device.name: device
    for device in (
        Device("T4", 16 * GB, bfloat16=False, half=65e12, single=8.1e12),
        Device("RTX 3090", 24 * GB, half=71e12, single=35.6e12),
        Device("RTX 4090", 24 * GB, half=165e12, single=82.6e12),
        Device("A100 40GB", 40 * GB, half=312e12, single=19.5e12),
        Device("A100 80GB", 80 * GB, half=312e12, single=19.5e12),
        Device("H100", 80 * GB, half=989e12, single=67e12),
        Device("H200", 141 * GB, half=989e12, single=67e12),
    )
}


def device_called(name: str) -> Device:
    """A card by its name, "T4", or any GPU by its memory, "16GB". Raises SettingsError for anything else."""
    wanted = re.sub(r"[\s-]", "", name.lower())
    for card in CARDS.values():
        if re.sub(r"\s", "", card.name.lower()) in (wanted, f"rtx{wanted}"):
            return card
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)(gb?|gib)?", wanted):
        return Device(f"GPU with {size[1]} GB", float(size[1]) * GB)
    raise SettingsError(f"--gpu {name!r} is neither a memory size, such as 16GB, nor one of {', '.join(CARDS)}")


def this_device(wanted: str = "auto") -> Device:
    """The GPU that torch sees here, else this computer."""
    import torch

    from ..doctor import memory
    from ..models import pick_device

    if pick_device(wanted) == "cuda":
        properties = torch.cuda.get_device_properties(0)
        sheet = _card_of(properties.name)
        return (sheet or Device("", 0))._replace(
            name=properties.name,
            memory=float(properties.total_memory),
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    able = torch.cpu.get_capabilities()
    fast = any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return Device(f"cpu, {torch.get_num_threads()} threads", float(memory()), gpu=False, bfloat16=fast)


def _card_of(name: str) -> Device | None:
    """The data sheet for a name that torch gives, such as "NVIDIA A100-SXM4-40GB"."""
    words = set(re.split(r"[\s-]+", name.upper()))
    return next((card for card in CARDS.values() if set(card.name.upper().split()) <= words), None)


# ---------------------------------------------------------------------------------------------- work and speed


def forward_flops(shape: Shape, length: float) -> float:
    """Floating-point operations of one token's forward pass: 2 a weight, and attention over `length` tokens."""
    return 2.0 * shape.inside + 4.0 * shape.layers * shape.hidden * length


PASSES = {"sft": 3, "dpo, live": 3, "dpo, precomputed": 2, "dpo, none": 2, "score": 1}
"""Forward passes' worth of work for each token. A backward pass costs two where every weight is trained. It costs one
where an adapter is: the frozen weights need no gradient. A live reference is one more forward pass."""


def measured(device: Device, kind: str, precision: str, shape: Shape) -> dict[str, Any] | None:
    """The record of that kind on that device whose model is nearest in size, None where there is none.

    kind: sft, dpo, generate, score, or matrix (whose size does not count).
    """
    found = [
        record
        for path in (results_root() / RATES.name, RATES)  # min takes the first of equals
        for record in read_json(path).get("measured", ())
        if record["kind"] == kind and record["precision"] == precision and _same(record["device"], device)
    ]
    return min(found, key=lambda record: abs(log(record["inside"] / shape.inside)), default=None)


def _same(name: str, device: Device) -> bool:
    if not device.gpu:
        return name.startswith("cpu") and name.split(", ")[-1] == device.name.split(", ")[-1]
    one, other = _card_of(name), _card_of(device.name) or CARDS.get(device.name)
    return name == device.name or (one is not None and one == other)


def rate(device: Device, kind: str, precision: str, shape: Shape) -> tuple[float, str] | None:
    """(FLOP/s, where the figure comes from) of a kind of work; None where it cannot be told."""
    if record := measured(device, kind, precision, shape):
        return record["flops_a_second"], f"by a rate measured on {record['device']}, {record['date']}"
    sheet = device.single if precision == "float32" else device.half
    return (ASSUMED_SHARE * sheet, f"by {ASSUMED_SHARE:.0%} of the data sheet's rate, not measured") if sheet else None


def decoding_step(device: Device, shape: Shape, rows: int) -> float | None:
    """Seconds to decode one token of each of `rows` answers; None where it cannot be told.

    A GPU waits for its launches, so the number of rows hardly matters; a processor works for each row and weight.
    """
    record = measured(device, "generate", "float32", shape)
    if record is None:
        return ASSUMED_STEP if device.gpu else None
    work = rows * shape.inside / (record["rows"] * record["inside"])
    return record["seconds_a_step"] * (1 if device.gpu else work)


def work_of(method: "Method", settings: "Settings") -> str:
    """The key of PASSES for a training: what each token costs depends on the reference."""
    return "sft" if method.prefix == "sft" else f"dpo, {reference_used(method, settings)}"


def training_flops(settings: "Settings", method: "Method", shape: Shape, timing: dict[str, Any]) -> int:
    """Useful FLOP/s of a training: no padding, nothing that is computed twice. timing: timing.json."""
    a_token = PASSES[work_of(method, settings)] * forward_flops(shape, timing["tokens_a_sequence"])
    return round(timing["tokens_a_second"] * a_token)


def training_record(
    settings: "Settings", method: "Method", shape: Shape, timing: dict[str, Any], precision: str
) -> dict:
    """What a training taught about its device, as `enter` keeps it."""
    return {
        "kind": method.prefix,
        "device": timing["device"],
        "precision": precision,
        "inside": shape.inside,
        "flops_a_second": training_flops(settings, method, shape, timing),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }


def matrix_rate(device: str, bfloat16: bool, seconds: float = 2.0) -> float:
    """FLOP/s of square matrix products here and now, the most that a device can do; device: cpu or cuda."""
    import time

    import torch

    n = 8192 if device == "cuda" else 2048
    one = torch.randn(n, n, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    finished = torch.cuda.synchronize if device == "cuda" else lambda: None
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        finished()
        start = time.perf_counter()
        one @ one
        finished()
        rates.append(2 * n**3 / (time.perf_counter() - start))
    return max(rates)


def enter(records: list[dict[str, Any]], path: Path) -> None:
    """Put records into a file in place of those of the same device, kind, precision and model size."""
    keys = ("device", "kind", "precision", "inside")
    old, new = (
        {tuple(record[key] for key in keys): record for record in some}
        for some in (read_json(path).get("measured", ()), records)
    )
    write_json(path, {"measured": [(old | new)[key] for key in sorted(old | new, key=str)]})
