"""The plan of a run: what each stage takes on a device, whether it fits, and what to change where it does not."""

import math
from typing import NamedTuple

from helpers.core.methods import method_of, models_of
from helpers.core.profiles import DATA_CACHE
from helpers.core.repositories import download_of
from helpers.core.settings import Settings
from helpers.models.hardware import CARDS, Device, precision_on
from helpers.models.sizes import Shape, shape_of
from helpers.planning import throughput
from helpers.planning.lengths import Lengths, lengths_of
from helpers.training import memory
from helpers.training.memory import rows_for_device

EVALUATIONS, ANSWERED = 5, 24  # evaluations on held-out pairs in a training, and prompts answered at each
SEQUENCE = 512  # tokens of prompt and response that the reward model reads at most
NO_RATE = "unknown: none was measured here (see rehearse), and only a card that is named has a data sheet"


class Stage(NamedTuple):
    """What a stage takes. memory (at its peak) and disk are in bytes, tokens are those that are worked through.

    rows_at_once, checkpointing: as the training will choose them by itself; 0 where not even one row fits. seconds:
    None where no rate is known. source: where the rate behind the seconds comes from, in words. settings: what has to
    be changed by hand for it to fit, as -p name=value would.
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
    """All stages of a run on one device; download: bytes from the hub."""

    device: Device
    stages: tuple[Stage, ...]
    download: float

    @property
    def fits(self) -> bool:
        """Whether every stage fits into the device's memory."""
        return all(stage.rows_at_once and stage.memory <= self.device.room for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Seconds of all stages together; None where those of one are not known."""
        parts = [stage.seconds for stage in self.stages]
        return None if None in parts else sum(parts)

    @property
    def disk(self) -> float:
        return sum(stage.disk for stage in self.stages)


def plan(
    settings: Settings, device: Device, lengths: Lengths | None = None, longest: dict[str, int] | None = None
) -> Plan:
    """Plan the trainings and the evaluation of a run on a device.

    lengths: sizes of the training data; None: they are read from it. longest: tokens of the longest row of each
    training where they are known; else the longest that settings allow. Raises DataError where a model's config cannot
    be read.
    """
    from helpers.pipeline.sources import locate

    lengths = lengths or lengths_of(settings)
    longest = longest or {}
    policy, scorer = shape_used(settings, "policy"), shape_used(settings, "reward_model")
    # The trainings in their order, then the evaluation.
    stages = []
    for name in models_of(settings)[1:]:
        stages.append(_training(name, settings, device, policy, lengths, longest.get(name)))
    stages.append(_evaluation(settings, device, policy, scorer, lengths))
    # What is not here comes from the hub.
    sources = [settings.dataset, settings.policy, settings.reward_model]
    download = sum(download_of(source) for source in sources if source and not locate(source))
    return Plan(device, tuple(stages), download)


def shape_used(settings: Settings, what: str) -> Shape:
    """The shape of the run's "policy" or "reward_model"; where a run trains its own, it is as large as the embedded."""
    from helpers.pipeline.sources import locate

    given = getattr(settings, what)
    return shape_of(DATA_CACHE / what if given is None else locate(given) or given)


def _training(
    name: str, settings: Settings, device: Device, shape: Shape, lengths: Lengths, longest: int | None
) -> Stage:
    """One training. longest: tokens of its longest row; None: as long as the settings allow."""
    s, method = settings, method_of(name, settings.preference_loss)
    kind = method.prefix
    # Memory: rows at once and checkpointing are chosen for the device, as the training does it.
    precision = precision_on(s, device)
    adapter = shape.adapter(s.lora_rank, s.lora_targets)
    batch, length = getattr(s, f"{kind}_batch_size"), getattr(s, f"{kind}_max_length")
    rows, checkpointing = rows_for_device(s, method, shape, device)
    accumulate = batch * s.gradient_accumulation // max(rows, 1)
    how = {"bfloat16": precision == "bfloat16", "checkpointing": checkpointing, "gpu": device.gpu}
    peak = memory.peak(
        shape, method.memory, max(rows, 1), longest or length, adapter=adapter, accumulate=accumulate, **how
    )
    # Time: tokens of all epochs, by the rate of this kind of work.
    a_row = lengths.sft if kind == "sft" else lengths.dpo
    tokens = lengths.pairs * a_row * getattr(s, f"{kind}_epochs")
    work = throughput.work_of(method, s)
    seconds, source = _seconds(s, device, shape, kind, work, precision, tokens, a_row, checkpointing, lengths)
    # Disk: the model, and two checkpoints of weights and moments: a new one is written before the old one goes.
    trained = shape.parameters if kind == "sft" else adapter
    disk = 4.0 * shape.parameters + (0 if kind == "sft" else 4.0 * adapter) + 2 * 12.0 * trained
    return Stage(name, peak, rows, checkpointing, tokens, seconds, disk, source, {})


def _seconds(
    s: Settings, device: Device, shape: Shape, kind: str, work: str, precision: str,
    tokens: float, a_row: float, checkpointing: bool, lengths: Lengths,
) -> tuple[float | None, str]:  # fmt: skip
    """Seconds of a training with its evaluations on held-out pairs, and where the rate comes from.

    kind: "sft" or "dpo". work: a key of `throughput.PASSES`. a_row: tokens of an SFT row or of a DPO pair.
    """
    known = throughput.rate(device, kind, precision, shape)
    answered = min(ANSWERED, s.heldout_pairs)
    step = throughput.decoding_step(device, shape, min(answered, s.generation_batch_size))
    if known is None or step is None:
        return None, NO_RATE
    a_second, source = known
    length = a_row if kind == "sft" else a_row / 2
    one = throughput.forward_flops(shape, length)
    # Forward passes over held-out pairs (DPO's reference reads them too) and for a reference computed beforehand.
    heldout = EVALUATIONS * s.heldout_pairs * a_row * (1 if kind == "sft" else 2)
    reference = lengths.pairs * a_row if work == "dpo, precomputed" else 0.0
    # Passes over the training rows; checkpointing computes the forward pass twice.
    passes = throughput.PASSES[work] + (1 if checkpointing else 0)
    # Steps of decoding at the evaluations.
    decoded = EVALUATIONS * math.ceil(answered / s.generation_batch_size) * s.max_new_tokens
    return (tokens * passes + heldout + reference) * one / a_second + decoded * step, source


def _evaluation(s: Settings, device: Device, policy: Shape, scorer: Shape, lengths: Lengths) -> Stage:
    """All models answer every prompt; the reward model (`scorer`) scores responses and held-out pairs, in float32."""

    def peak_of(generated_at_once: int, scored_at_once: int) -> float:
        generating = memory.generating(policy, generated_at_once, s.max_prompt_length + s.max_new_tokens)
        return max(generating, memory.scoring(scorer, scored_at_once, SEQUENCE))

    # Tokens that the reward model reads.
    models = len(models_of(s))
    responses = models * 2 * s.eval_prompts
    scored = responses + 2 * s.heldout_pairs
    length = min(SEQUENCE, lengths.prompt + s.max_new_tokens)
    tokens = scored * length
    # Halve the batches until they fit.
    rows, change = s.generation_batch_size, {}
    peak = peak_of(rows, s.scoring_batch_size)
    while peak > device.room and rows > 1:
        rows //= 2
        peak = peak_of(rows, rows)
        change = {"generation_batch_size": rows, "scoring_batch_size": rows}
    # Time to decode the responses and to score.
    known = throughput.rate(device, "score", "float32", scorer)
    step = throughput.decoding_step(device, policy, rows)
    seconds, source = None, NO_RATE
    if known and step is not None:
        batches = models * math.ceil(2 * s.eval_prompts / rows)
        seconds = batches * s.max_new_tokens * step + tokens * throughput.forward_flops(scorer, length) / known[0]
        source = known[1]
    return Stage("evaluation", peak, rows, False, tokens, seconds, 1e6 * models, source, change)


def across_cards(settings: Settings) -> list[Plan]:
    """The plan on every card of `hardware.CARDS`, from small to large."""
    lengths = lengths_of(settings)
    return [plan(settings, card, lengths) for card in CARDS.values()]
