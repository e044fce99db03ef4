"""Which experiments there are, and the runs that each is made of."""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

from helpers.core.errors import SettingsError
from helpers.core.methods import PAPER_MODELS
from helpers.core.profiles import BY_RECIPE, RECIPES

SEEDS, PROMPTS_A_SIDE = 5, 200
FEW_SEEDS = 3  # where an experiment has many arms
CLEANING_SEEDS = 6  # each collection gives other pairs to each seed, so more seeds are needed to see through that

# What the published recipe does differently, each fault by itself, put into the recommended recipe. The cut-offs are
# missing here: every table holds both.
FAULTS: dict[str, tuple[str, ...]] = {
    "whole-dialogue loss": ("completion_only",),
    "dropout left on": ("dropout",),
    "small LoRA on q and v": ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
    "low learning rates": ("sft_learning_rate", "dpo_learning_rate"),
    "batches of 8": ("sft_batch_size", "dpo_batch_size", "gradient_accumulation"),
    "guessed DPO prompt": ("explicit_prompt",),
    "no closing cue": ("closing_cue",),
}
TAUGHT = ("sft", "sft_dpo")
SMALL = {"train_pairs": 500, "heldout_pairs": 100, "eval_prompts": 100}  # a third of the pairs, half of the prompts

PUZZLE_PAIRS, PUZZLE_HELD_OUT = 480, 100
PUZZLE_RATES = (2e-5, 2e-4)  # the published rate, and ten times it
PUZZLE_GRID = {
    "dropout": (0.0, 0.1),
    "dpo_learning_rate": PUZZLE_RATES,
    "lora_targets": ("q_v", "all-linear"),
    "dpo_reference": ("live", "precomputed"),
}


class Job(NamedTuple):
    """One run of an experiment.

    arm: what is varied, in words. settings: its parameters. models: those whose responses are measured; none: only the
    log of DPO's training is kept. sampled: also measure one response a prompt at temperature 1.
    """

    arm: str
    settings: dict[str, Any]
    models: tuple[str, ...] = PAPER_MODELS
    sampled: bool = False

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return self.settings["run"]


def _job(experiment: str, arm: str, seed: int, *, models: tuple[str, ...], sampled: bool = False, **settings) -> Job:
    # The run is called by experiment, arm and seed, with dashes between words.
    words = arm.replace(",", "").replace("=", "").split()
    name = "-".join([experiment, *words, str(seed)])
    return Job(arm, {"seed": seed, "run": name, **settings}, models, sampled)


def _seeds() -> list[Job]:
    """Both recipes over several training seeds: does SFT+DPO beat SFT, by the reward model and in truth?"""
    shared = {"models": PAPER_MODELS, "sampled": True, "eval_prompts": PROMPTS_A_SIDE}
    todo = []
    for seed, recipe in product(range(SEEDS), RECIPES):
        todo.append(_job("seeds", recipe, seed, recipe=recipe, **shared))
    return todo


def _faults() -> list[Job]:
    """The recommended recipe with one of the paper's faults at a time: which one costs most?"""
    # Each arm takes some settings from the published recipe.
    column = RECIPES.index("published")
    arms: dict[str, dict[str, Any]] = {"recommended": {}}
    for fault, names in FAULTS.items():
        arms[fault] = {name: BY_RECIPE[name][column] for name in names}
    shared = {"models": TAUGHT, **SMALL}
    todo = []
    for seed in range(FEW_SEEDS):
        for arm, own in arms.items():
            todo.append(_job("faults", arm, seed, **shared, **own))
    return todo


def _printed() -> list[Job]:
    """DPO, and the loss that the paper prints, which has no reference model: same data, same start."""
    arms = {"DPO": "live", "loss as printed": "none"}
    shared = {"models": TAUGHT, **SMALL}
    return [_job("printed", arm, seed, dpo_reference=arms[arm], **shared) for seed in range(FEW_SEEDS) for arm in arms]


def _cleaning() -> list[Job]:
    """As many pairs from what the audit leaves: do sound rows help, undoubted labels, or the truth itself?"""
    arms = {"all pairs": "no", "without marked rows": "marked", "without doubted labels": "labels"}
    # The most that any audit could reach.
    arms["only what is right in truth"] = "truth"
    shared = {"models": TAUGHT, **SMALL}
    return [_job("cleaning", arm, seed, clean=arms[arm], **shared) for seed in range(CLEANING_SEEDS) for arm in arms]


def _puzzle() -> list[Job]:
    """DPO from Base over dropout x rate x LoRA targets x reference: why did the published loss stay above ln 2?"""
    shared = {"train_pairs": PUZZLE_PAIRS, "heldout_pairs": PUZZLE_HELD_OUT, "lora_rank": 8, "lora_alpha": 16}
    shared |= {"dpo_batch_size": 8}  # the published number of pairs a step
    todo = []
    # Every combination of the factors' levels, with every seed.
    for seed, *values in product(range(FEW_SEEDS), *PUZZLE_GRID.values()):
        factors = dict(zip(PUZZLE_GRID, values, strict=True))
        arm = ", ".join(map(str, values))
        todo.append(_job("puzzle", arm, seed, models=(), **shared, **factors))
    return todo


_EXPERIMENTS: dict[str, Callable[[], list[Job]]] = {
    "seeds": _seeds,
    "puzzle": _puzzle,
    "printed": _printed,
    "faults": _faults,
    "cleaning": _cleaning,
}
# Minutes a run on one core, for the planner only, as seen.
MINUTES = {"seeds": 12.0, "puzzle": 2.3, "printed": 3.6, "faults": 3.5, "cleaning": 2.4}


def experiments() -> dict[str, str]:
    """The experiments by name, with the question that each asks."""
    return {name: made.__doc__ for name, made in _EXPERIMENTS.items()}


def jobs(name: str) -> list[Job]:
    """The runs of an experiment. Raises SettingsError for a name that is none."""
    if name not in _EXPERIMENTS:
        raise SettingsError(f"no experiment is called {name!r}: choose {', '.join(_EXPERIMENTS)}")
    return _EXPERIMENTS[name]()
