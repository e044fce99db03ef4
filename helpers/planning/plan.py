"""The plan of a run: what each stage takes on a device, whether it fits, and what to change where it does not."""

import math
from typing import NamedTuple

from helpers.core.methods import method_of, models_of
from helpers.core.repositories import download_of
from helpers.core.settings import Settings
from helpers.models.hardware import CARDS, Device, precision_on
from helpers.models.sizes import Shape, shape_of
from helpers.planning import throughput
from helpers.planning.lengths import Lengths, lengths_of
from helpers.training import memory
from helpers.training.memory import rows_for_device

LOOKS, ASKED = 5, 24  # looks at held-out data in a training, and prompts answered at each
SEQUENCE = 512  # tokens of prompt and response that the reward model reads at most
NO_RATE = "unknown: none was measured here (see rehearse), and only a card that is named has a data sheet"


class Stage(NamedTuple):
    """What a stage takes; memory and disk in bytes, seconds None where no rate is known.

    rows_at_once, checkpointing: as the training will choose them by itself; 0 where not even one row fits. settings:
    what has to be changed by hand for it to fit, as -p name=value would. source: of the rate behind the seconds.
    """

    name: str
    memory: float
    rows_at_once: int
    checkpointing: bool
    tokens: float
    seconds: float | None
    disk: float
    source: str
    settings: dict[str, int]


class Plan(NamedTuple):
    """All stages of a run on one device."""

    device: Device
    stages: tuple[Stage, ...]
    download: float

    @property
    def fits(self) -> bool:
        return all(stage.rows_at_once and stage.memory <= self.device.room for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        parts = [stage.seconds for stage in self.stages]
        return None if None in parts else sum(parts)

    @property
    def disk(self) -> float:
        return sum(stage.disk for stage in self.stages)


def plan(
    settings: Settings, device: Device, lengths: Lengths | None = None, longest: dict[str, int] | None = None
) -> Plan:
    """Plan the trainings and the evaluation of a run. Raises DataError where a model's config cannot be read.

    longest: tokens of the longest row of each training where they are known; else the longest that settings allow.
    """
    lengths = lengths or lengths_of(settings)
    policy, judge = (shape_used(settings, what) for what in ("policy", "reward_model"))
    trainings = [
        _training(name, settings, device, policy, lengths, (longest or {}).get(name))
        for name in models_of(settings)[1:]
    ]
    sources = [settings.dataset, settings.policy, settings.reward_model]
    from helpers.pipeline.sources import locate

    download = sum(download_of(source) for source in sources if source and not locate(source))
    return Plan(device, (*trainings, _evaluation(settings, device, policy, judge, lengths)), download)


def shape_used(settings: Settings, what: str) -> Shape:
    """The shape of the run's "policy" or "reward_model"; where a run trains its own, it is as large as the embedded."""
    from helpers.core.profiles import DATA_CACHE
    from helpers.pipeline.sources import locate

    given = getattr(settings, what)
    return shape_of(DATA_CACHE / what if given is None else locate(given) or given)


def _training(
    name: str, settings: Settings, device: Device, shape: Shape, lengths: Lengths, longest: int | None
) -> Stage:
    s, method = settings, method_of(name, settings.preference_loss)
    kind = method.prefix
    precision = precision_on(s, device)
    adapter = shape.adapter(s.lora_rank, s.lora_targets)
    batch, length = getattr(s, f"{kind}_batch_size"), getattr(s, f"{kind}_max_length")
    rows, checkpointing = rows_for_device(s, method, shape, device)
    accumulate = batch * s.gradient_accumulation // max(rows, 1)
    how = {"bfloat16": precision == "bfloat16", "checkpointing": checkpointing, "gpu": device.gpu}
    peak = memory.peak(
        shape, method.memory, max(rows, 1), longest or length, adapter=adapter, accumulate=accumulate, **how
    )
    a_row = lengths.sft if kind == "sft" else lengths.dpo
    tokens = lengths.pairs * a_row * getattr(s, f"{kind}_epochs")
    work = throughput.work_of(method, s)
    seconds, source = _seconds(s, device, shape, kind, work, precision, tokens, a_row, checkpointing, lengths)
    trained = shape.parameters if kind == "sft" else adapter
    # The model, and two checkpoints of weights and moments: a new one is written before the old one goes.
    disk = 4.0 * shape.parameters + (0 if kind == "sft" else 4.0 * adapter) + 2 * 12.0 * trained
    return Stage(name, peak, rows, checkpointing, tokens, seconds, disk, source, {})


def _seconds(
    s: Settings, device: Device, shape: Shape, kind: str, work: str, precision: str,
    tokens: float, a_row: float, checkpointing: bool, lengths: Lengths,
) -> tuple[float | None, str]:  # fmt: skip
    """Seconds of a training with its looks at held-out data, and where the rate comes from."""
    known = throughput.rate(device, kind, precision, shape)
    asked = min(ASKED, s.heldout_pairs)
    step = throughput.decoding_step(device, shape, min(asked, s.generation_batch_size))
    if known is None or step is None:
        return None, NO_RATE
    a_second, source = known
    length = a_row if kind == "sft" else a_row / 2
    one = throughput.forward_flops(shape, length)
    heldout = LOOKS * s.heldout_pairs * a_row * (1 if kind == "sft" else 2)
    reference = lengths.pairs * a_row if work == "dpo, precomputed" else 0.0
    passes = throughput.PASSES[work] + (1 if checkpointing else 0)
    decoded = LOOKS * math.ceil(asked / s.generation_batch_size) * s.max_new_tokens
    return (tokens * passes + heldout + reference) * one / a_second + decoded * step, source


def _evaluation(s: Settings, device: Device, policy: Shape, judge: Shape, lengths: Lengths) -> Stage:
    """All models answer every prompt; the judge scores the answers and the held-out pairs. All in float32."""
    models = len(models_of(s))
    answers = models * 2 * s.eval_prompts
    scored = answers + 2 * s.heldout_pairs
    length = min(SEQUENCE, lengths.prompt + s.max_new_tokens)
    tokens = scored * length
    peak = max(
        memory.generating(policy, s.generation_batch_size, s.max_prompt_length + s.max_new_tokens),
        memory.scoring(judge, s.scoring_batch_size, SEQUENCE),
    )
    rows, change = s.generation_batch_size, {}
    while peak > device.room and rows > 1:
        rows //= 2
        peak = max(
            memory.generating(policy, rows, s.max_prompt_length + s.max_new_tokens),
            memory.scoring(judge, rows, SEQUENCE),
        )
        change = {"generation_batch_size": rows, "scoring_batch_size": rows}
    known, step = throughput.rate(device, "score", "float32", judge), throughput.decoding_step(device, policy, rows)
    seconds, source = None, NO_RATE
    if known and step is not None:
        batches = models * math.ceil(2 * s.eval_prompts / rows)
        seconds = batches * s.max_new_tokens * step + tokens * throughput.forward_flops(judge, length) / known[0]
        source = known[1]
    return Stage("evaluation", peak, rows, False, tokens, seconds, 1e6 * models, source, change)


def across_cards(settings: Settings) -> list[Plan]:
    """The plan on every card of `hardware.CARDS`, from small to large."""
    lengths = lengths_of(settings)
    return [plan(settings, card, lengths) for card in CARDS.values()]
