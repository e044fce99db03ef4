"""How fast a device is: what was measured on it, or a stated share of its data sheet.

`python -m helpers rehearse` measures rates and keeps them in results/rates.json. Those in rates.json beside this file
come with the course; yours count first.
"""

import datetime
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.core.files import read_json, versions, write_json
from helpers.core.methods import reference_used
from helpers.core.profiles import results_root
from helpers.models.hardware import CARDS, Device, card_of
from helpers.models.sizes import Shape

if TYPE_CHECKING:
    from helpers.core.methods import Method
    from helpers.core.settings import Settings


RATES = Path(__file__).with_name("rates.json")
ASSUMED_SHARE = 0.3  # of the data sheet's rate, where nobody has measured
ASSUMED_STEP = 0.03  # seconds to decode a token of a batch on a GPU that nobody has measured


def forward_flops(shape: Shape, length: float) -> float:
    """Floating-point operations of one token's forward pass: 2 a weight, and attention over `length` tokens.

    A third of what a training step takes by Chowdhery et al. 2022 (arXiv 2204.02311), appendix B: 6N + 12LHQT a token.
    """
    return 2.0 * shape.inside + 4.0 * shape.layers * shape.hidden * length


PASSES = {"sft": 3, "dpo, live": 3, "dpo, precomputed": 2, "dpo, none": 2, "score": 1}
"""Forward passes' worth of work for each token. A backward pass costs two where every weight is trained. It costs one
where an adapter is: the frozen weights need no gradient. A live reference is one more forward pass."""


def measured(device: Device, kind: str, precision: str, shape: Shape) -> dict[str, Any] | None:
    """The record of that kind on that device whose model is nearest in size, None where there is none.

    kind: sft, dpo, generate, score, or matrix (whose size does not count). precision: float32 or bfloat16.
    """

    def distance(record: dict[str, Any]) -> float:
        return abs(log(record["inside"] / shape.inside))

    # Your own records stand first: of equals, `min` takes the first.
    found = []
    for path in (results_root() / RATES.name, RATES):
        for record in read_json(path).get("measured", ()):
            same_work = record["kind"] == kind and record["precision"] == precision
            if same_work and _is_same_device(record["device"], device):
                found.append(record)
    return min(found, key=distance, default=None)


def _is_same_device(name: str, device: Device) -> bool:
    """Whether a recorded device is of the same kind: a processor with as many threads, or the same card."""
    if not device.gpu:
        return name.startswith("cpu") and name.split(", ")[-1] == device.name.split(", ")[-1]
    one, other = card_of(name), card_of(device.name) or CARDS.get(device.name)
    return name == device.name or (one is not None and one == other)


def rate(device: Device, kind: str, precision: str, shape: Shape) -> tuple[float, str] | None:
    """(FLOP/s, where the figure comes from) of a kind of work, as in `measured`; None where it is not known."""
    record = measured(device, kind, precision, shape)
    if record:
        return record["flops_a_second"], f"by a rate measured on {record['device']}, {record['date']}"
    # Not measured: a share of the data sheet, where the card has one.
    sheet = device.single if precision == "float32" else device.half
    if not sheet:
        return None
    return ASSUMED_SHARE * sheet, f"by {ASSUMED_SHARE:.0%} of the data sheet's rate, not measured"


def decoding_step(device: Device, shape: Shape, rows: int) -> float | None:
    """Seconds to decode one token of each of `rows` responses; None where it is not known.

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
    """Useful FLOP/s of a training: no padding, nothing that is computed twice. timing: what timing.json says."""
    a_token = PASSES[work_of(method, settings)] * forward_flops(shape, timing["tokens_a_sequence"])
    return round(timing["tokens_a_second"] * a_token)


def training_record(
    settings: "Settings", method: "Method", shape: Shape, timing: dict[str, Any], precision: str
) -> dict:
    """The rate of a training as `keep_rates` takes it. timing: what timing.json says."""
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
    """FLOP/s of square matrix products here and now, the most that a device can do.

    device: "cpu" or "cuda". bfloat16: else float32. seconds: how long to try; the fastest product counts.
    """
    import time

    import torch

    n = 8192 if device == "cuda" else 2048
    one = torch.randn(n, n, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)

    def finished() -> None:
        # A GPU works on after its call has returned.
        if device == "cuda":
            torch.cuda.synchronize()

    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        finished()
        start = time.perf_counter()
        one @ one
        finished()
        rates.append(2 * n**3 / (time.perf_counter() - start))
    return max(rates)


def keep_rates(records: list[dict[str, Any]], path: Path) -> None:
    """Put records into a file, in place of those of the same device, kind, precision and model size."""
    known = {}
    for record in [*read_json(path).get("measured", ()), *records]:
        known[tuple(record[name] for name in ("device", "kind", "precision", "inside"))] = record
    write_json(path, {"measured": [known[key] for key in sorted(known, key=str)]})
