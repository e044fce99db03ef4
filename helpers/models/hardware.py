"""This computer and well-known GPUs: memory, speed by the data sheet, and the precision that they multiply in.

Torch is imported only inside the functions that need it: a computer's memory can be found without it.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers.core.errors import DataError, SettingsError
from helpers.core.text import GB

if TYPE_CHECKING:
    from helpers.core.settings import Settings


CONTEXT = GB // 2  # bytes of a GPU that its driver and libraries take
USABLE = 0.95  # of a GPU's memory; the rest is lost between torch's blocks
HOST_SHARE = 0.8  # of a computer's memory that a training may take
PROCESS = 1.0 * GB  # bytes that Python takes with all its libraries before a model is loaded
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # of processors; without one of them bfloat16 is slow


class Device(NamedTuple):
    """A GPU, or a computer with its processor.

    name: for people. memory: in bytes. gpu: whether it is one. bfloat16: whether the device multiplies fast in it.
    half, single: the data sheet's rates for dense matrices in 16 and in 32 bits, in FLOP/s; None: unknown.
    """

    name: str
    memory: float
    gpu: bool = True
    bfloat16: bool = True
    half: float | None = None
    single: float | None = None

    @property
    def room(self) -> float:
        """Bytes that a training may take, as torch counts them."""
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
    """A GPU. name: of a card, "T4", or a memory size, "16GB". Raises SettingsError for anything else."""
    wanted = re.sub(r"[\s-]", "", name.lower())
    for card in CARDS.values():
        if re.sub(r"\s", "", card.name.lower()) in (wanted, f"rtx{wanted}"):
            return card
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)(gb?|gib)?", wanted):
        return Device(f"GPU with {size[1]} GB", float(size[1]) * GB)
    raise SettingsError(f"--gpu {name!r} is neither a memory size, such as 16GB, nor one of {', '.join(CARDS)}")


def card_of(name: str) -> Device | None:
    """The data sheet of a card; None for one that is not in CARDS. name: as torch gives it, "NVIDIA A100-SXM4-40GB"."""
    words = set(re.split(r"[\s-]+", name.upper()))
    for card in CARDS.values():
        if words.issuperset(card.name.upper().split()):
            return card
    return None


def pick_device(wanted: str) -> str:
    """The torch device, "cuda" or "cpu".

    wanted: the setting, "auto" (a GPU if there is one), "cpu" or "cuda". Raises DataError for "cuda" without a GPU.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise DataError("device is 'cuda' but torch sees no GPU here: set device to 'cpu' or 'auto'")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def this_device(wanted: str = "auto") -> Device:
    """The device of this computer that a training uses. wanted: as for `pick_device`, which raises DataError."""
    import torch

    # A GPU: what torch says about it, rates from its data sheet.
    if pick_device(wanted) == "cuda":
        properties = torch.cuda.get_device_properties(0)
        sheet = card_of(properties.name)
        return (sheet or Device("", 0))._replace(
            name=properties.name,
            memory=float(properties.total_memory),
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    # A processor: the computer's memory, and whether it has instructions for bfloat16.
    able = torch.cpu.get_capabilities()
    fast = any(able.get(name) for name in BFLOAT16_INSTRUCTIONS)
    return Device(f"cpu, {torch.get_num_threads()} threads", float(memory()), gpu=False, bfloat16=fast)


def memory() -> int:
    """The memory in bytes that this process may use: the computer's, or a container's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(physical, int(text)) if text.isdigit() else physical


def peak_memory() -> int:
    """The most memory in bytes that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def precision_on(settings: Settings, device: Device) -> str:
    """The precision in which SFT and DPO multiply: "float32" or "bfloat16" (autocast; weights stay float32).

    settings: `precision` decides, and for "auto" the profile. device: for "auto", bfloat16 where a GPU has it. On a
    processor with instructions for it only in profile paper: small models do not become faster there, and their
    reference results are in float32.
    """
    if settings.precision != "auto":
        return settings.precision
    worth_it = device.gpu or settings.profile == "paper"
    return "bfloat16" if device.bfloat16 and worth_it else "float32"


def wants_bfloat16(settings: Settings) -> bool:
    """Whether SFT and DPO multiply in bfloat16 on this computer: see `precision_on`.

    Raises DataError where the settings ask for bfloat16 on a GPU that has none.
    """
    device = this_device(settings.device)
    wanted = precision_on(settings, device) == "bfloat16"
    if wanted and device.gpu and not device.bfloat16:
        raise DataError("precision is 'bfloat16' but this GPU has no bfloat16: set precision to 'float32'")
    return wanted
