"""Settings of a run: every parameter with its type, its range and its meaning, and the check of given values.

A value comes from the first of these that has one:
what you give > PROFILE_AND_RECIPE > BY_RECIPE > BY_PROFILE > the default written beside the field.
The tables of values are in `profiles`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers.core import methods, repositories
from helpers.core.errors import SettingsError
from helpers.core.profiles import (
    BY_PROFILE,
    BY_RECIPE,
    PROFILE_AND_RECIPE,
    PROFILES,
    RECIPES,
    SMALL_POSITIONS,
    SUBSETS,
    Profile,
    Recipe,
)

if TYPE_CHECKING:
    from pandas import DataFrame


PreferenceLoss = Literal[methods.LOSSES]


class Settings(BaseModel):
    """Every setting of a run, checked. Strict: text is never a number, True is never 1. See `resolve`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    # The run and the machine.
    profile: Profile = Field("mini", description="where data, models and sizes come from")
    recipe: Recipe = Field(
        "recommended", description="how models are trained and evaluated: the authors' way or a sound one"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of sampling, initial weights and data order")
    run: str | None = Field(
        None,
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*$",
        description="name of the run folder (None: from what you change)",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models run")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="numbers in SFT and DPO: bfloat16 products over float32 weights where that is fast, or not"
    )
    rows_at_once: int = Field(
        0, ge=0, le=4096, description="SFT and DPO: most rows on a device at once (0: as many as its memory holds)"
    )
    activation_checkpointing: bool = Field(
        False, description="SFT and DPO: compute activations again (False: only where memory is too short to keep them)"
    )

    # Models and losses.
    models: str = Field(
        ",".join(methods.PAPER_MODELS),
        description="models that are trained and compared, with commas between: base, sft, a method, sft_ and a method",
    )
    preference_loss: PreferenceLoss = Field("sigmoid", description="loss of the models dpo and sft_dpo")

    # Data and repositories.
    dataset: str | None = Field(description="preference data: folder or hub id (None: the embedded dialogues)")
    policy: str | None = Field(description="language model to align: folder or hub id (None: the profile's own)")
    reward_model: str | None = Field(
        description="model that scores responses: folder or hub id (None: the profile's own)"
    )
    subsets: str = Field("harmless-base,helpful-base", description="parts of the preference data, with commas between")
    skip_malformed: bool = Field(False, description="leave out malformed data lines (counted) instead of stopping")
    clean: Literal["no", "marked", "labels", "truth"] = Field(
        "no",
        description="training pairs left out: none, those the audit marks (notebook 02), likely wrong labels too, or "
        "all that are wrong in truth (embedded dialogues only)",
    )
    outside_labels: str | None = Field(
        None, description="comparisons labelled by others, for the audit: JSON lines with prompt, chosen, rejected"
    )
    train_pairs: int = Field(ge=0, description="preference pairs to train on (0: all)")
    heldout_pairs: int = Field(ge=1, description="preference pairs kept aside to watch training")
    eval_prompts: int = Field(ge=1, description="evaluation prompts on each side, harmful and helpful")

    # Lengths, in tokens.
    sft_max_length: int = Field(512, ge=16, description="longest SFT example, tokens")
    dpo_max_length: int = Field(512, ge=16, description="longest DPO prompt + completion, tokens")
    max_prompt_length: int = Field(ge=8, description="longest prompt, tokens; longer ones lose their beginning")
    max_new_tokens: int = Field(ge=1, description="longest generated response, tokens")

    # Base model and reward model of profile local.
    pretrain_epochs: float = Field(1.5, gt=0, le=100, description="passes over the dialogues (profile local)")
    pretrain_learning_rate: float = Field(5e-3, gt=0, le=0.1, description="step size of pretraining (profile local)")
    reward_epochs: float = Field(1.0, gt=0, le=100, description="passes over the pairs by the reward model (local)")
    reward_learning_rate: float = Field(5e-3, gt=0, le=0.1, description="step size of the reward model (local)")
    reward_pairs: int = Field(ge=0, description="pairs the reward model learns from (local; 0: all)")

    # SFT, DPO and the other preference losses.
    sft_epochs: float = Field(2.0, gt=0, le=100, description="SFT passes over the chosen completions")
    sft_learning_rate: float = Field(gt=0, le=0.1, description="SFT step size")
    sft_batch_size: int = Field(ge=1, le=4096, description="SFT dialogues in a batch")
    completion_only: bool = Field(description="SFT loss on the response only, not on the human turns")
    dpo_epochs: float = Field(1.0, gt=0, le=100, description="DPO passes over the pairs")
    dpo_learning_rate: float = Field(gt=0, le=0.1, description="DPO step size")
    dpo_batch_size: int = Field(ge=1, le=4096, description="DPO pairs in a batch")
    dpo_reference: Literal["live", "precomputed", "none"] = Field(
        "live",
        description="DPO: reference log-probabilities in each step, before training, or none (printed loss)",
    )
    beta: float = Field(0.1, gt=0, le=100, description="DPO: how strongly the policy is held to the reference model")
    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, description="robust loss: share of the preference labels that is taken to be swapped"
    )
    simpo_beta: float = Field(2.0, gt=0, le=100, description="SimPO: scale of the mean log-probability as a reward")
    simpo_gamma: float = Field(1.0, ge=0, le=100, description="SimPO: by how much the chosen reward must be ahead")
    orpo_weight: float = Field(0.1, gt=0, le=100, description="ORPO: weight of the odds ratio beside the SFT loss")
    lora_rank: int = Field(ge=1, le=1024, description="LoRA: rank of the trained update")
    lora_alpha: int = Field(ge=1, le=8192, description="LoRA: the update is scaled by alpha / rank")
    lora_dropout: float = Field(ge=0, lt=1, description="LoRA: dropout on the input of the update")
    lora_targets: Literal["q_v", "all-linear"] = Field(
        description="LoRA: which weight matrices get an update (q_v: of queries and values; GPT-2, GPT-NeoX and BLOOM "
        "have one for queries, keys and values together)"
    )
    explicit_prompt: bool = Field(description="DPO: split at the last assistant cue, not at the first difference")
    gradient_accumulation: int = Field(ge=1, le=4096, description="batches summed before a step")
    dropout: float = Field(ge=0, lt=1, description="the policy's own dropout in SFT and DPO")

    # Evaluation.
    closing_cue: bool = Field(description="evaluation prompts end with 'Assistant:'")
    thresholds: Literal["published", "calibrated"] = Field(description="pass marks: -3 and -2, or set for this model")
    generation_batch_size: int = Field(32, ge=1, le=4096, description="prompts answered at once")
    scoring_batch_size: int = Field(32, ge=1, le=4096, description="responses scored at once")

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        problems = [*_subset_problems(self.subsets), *_length_problems(self), *methods.model_problems(self)]
        if self.profile == "local" and not self.dataset:
            problems.append(
                "profile = 'local' trains on your own data: give dataset, a folder in HH-RLHF's layout "
                "(papermill: -p dataset FOLDER; in the notebook: dataset = 'FOLDER')"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self


@dataclass(frozen=True)
class Resolved:
    """Checked settings with, for each, where its value came from (`source`: setting -> origin)."""

    settings: Settings
    given: dict[str, Any]
    source: dict[str, str]

    def table(self) -> DataFrame:
        """All settings as a DataFrame with the columns setting, value, from, meaning."""
        from pandas import DataFrame

        rows = [
            (name, getattr(self.settings, name), self.source[name], field.description)
            for name, field in Settings.model_fields.items()
        ]
        return DataFrame(rows, columns=["setting", "value", "from", "meaning"], dtype=object)

    def changes(self) -> dict[str, tuple[Any, Any, str]]:
        """Given settings that really differ: setting -> (your value, value without you, where that comes from)."""
        usual, origin = _layers(self.settings.profile, self.settings.recipe)
        changed = {}
        for name in self.given:
            value = getattr(self.settings, name)
            if name not in SWITCHES and value != usual[name]:
                changed[name] = (value, usual[name], origin[name])
        return changed

    @property
    def run_name(self) -> str:
        """Folder name of the run: the `run` setting, or derived, such as mini-published-seed1-beta=0.3.

        Equal settings give equal names and, up to a hash of 32 bits, different settings give different ones.
        """
        if self.settings.run:
            return self.settings.run
        changes = self.changes()
        parts = [self.settings.profile]
        if self.settings.recipe == "published":
            parts.append("published")
        if "seed" in changes:
            parts.append(f"seed{self.settings.seed}")
        parts += [f"{name}={changes[name][0]}" for name in Settings.model_fields if name in changes and name != "seed"]
        # A hash replaces what no folder name may hold, or what is too long.
        full = "-".join(parts)
        safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", full)
        if safe == full and len(safe) <= 80:
            return safe
        return f"{safe[:70]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


SWITCHES = ("profile", "recipe", "run")


def resolve(**given: Any) -> Resolved:
    """Check the given values and fill in all others. None means "not given".

    Raises SettingsError: one line that names up to three problems, with the nearest valid name or choice.
    """
    given = {name: value for name, value in given.items() if value is not None}
    problems = [_unknown(name) for name in given if name not in Settings.model_fields]
    profile, recipe = given.get("profile", "mini"), given.get("recipe", "recommended")
    # With a wrong switch the other parameters are still checked, so that one message names all mistakes.
    values, source = _layers(profile if profile in PROFILES else "mini", recipe if recipe in RECIPES else "recommended")
    for name in given.keys() & Settings.model_fields.keys():
        values[name], source[name] = given[name], "you"
    # Check types and ranges, then how the values go together.
    settings = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for detail in error.errors():
            problems += _explain(detail)
    if settings is None or problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise SettingsError("; ".join(problems[:3]) + more)
    return Resolved(settings, given, source)


def _layers(profile: str, recipe: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their origins for a valid profile and recipe, before anything is given."""
    layers = [
        ("default", {n: f.default for n, f in Settings.model_fields.items() if not f.is_required()}),
        (f"profile {profile}", {n: row[PROFILES.index(profile)] for n, row in BY_PROFILE.items()}),
        (f"recipe {recipe}", {n: row[RECIPES.index(recipe)] for n, row in BY_RECIPE.items()}),
        (f"{profile} x {recipe}", PROFILE_AND_RECIPE.get((profile, recipe), {})),
    ]
    # A later layer replaces an earlier one.
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    for origin, layer in layers:
        values |= layer
        source |= dict.fromkeys(layer, origin)
    return values | {"profile": profile, "recipe": recipe}, source


def _subset_problems(subsets: str) -> list[str]:
    names = [name.strip() for name in subsets.split(",")]
    unknown = [name for name in names if name not in SUBSETS]
    if not unknown and len(set(names)) < len(names):
        return ["subsets names a subset twice"]
    return [f"subsets: {name!r} is not one of {', '.join(SUBSETS)}{_nearest(name, SUBSETS)}" for name in unknown]


def _length_problems(s: Settings) -> list[str]:
    """Prompts, completions and responses must fit into each other and into the policy's positions."""
    problems = []
    if s.completion_only and s.max_prompt_length >= s.sft_max_length:
        problems.append(
            f"max_prompt_length = {s.max_prompt_length} leaves no room in sft_max_length = {s.sft_max_length}"
        )
    if s.explicit_prompt and s.max_prompt_length >= s.dpo_max_length:
        problems.append(
            f"max_prompt_length = {s.max_prompt_length} leaves no room in dpo_max_length = {s.dpo_max_length}"
        )
    hub = repositories.POLICY
    policy, positions = (hub.id, hub.positions) if s.profile == "paper" else (None, SMALL_POSITIONS)
    if s.policy != policy:
        return problems  # a policy of your own: its limit is in its config, known when it is loaded
    lengths = {
        "sft_max_length": s.sft_max_length,
        "dpo_max_length": s.dpo_max_length,
        "max_prompt_length + max_new_tokens": s.max_prompt_length + s.max_new_tokens,
    }
    for what, length in lengths.items():
        if length > positions:
            problems.append(f"{what} = {length} is more than the policy's {positions} positions")
    return problems


def _unknown(name: str) -> str:
    # First the parameters in whose name it occurs, then the one that is spelt nearly so.
    names = list(Settings.model_fields)
    inside = [n for n in names if name.lower() in n.split("_", 1)[-1].lower()][:4] if len(name) > 3 else []
    hint = f" (did you mean {' or '.join(inside)}?)" if inside else _nearest(name, names)
    return f"{name!r} is not a parameter{hint or ' (run.table() lists them all)'}"


def _nearest(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(str(word).lower(), choices, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(detail: Any) -> list[str]:
    """One pydantic error as plain sentences: which setting, what was given, what is needed."""
    if not detail["loc"]:
        return str(detail["ctx"]["error"]).split("\n")
    name, value, kind = detail["loc"][0], detail["input"], detail["type"]
    if kind == "extra_forbidden":
        return [_unknown(name)]
    shown = f"{name} = {reprlib.repr(value)}"
    wanted = {"int": "a whole number", "float": "a number", "bool": "True or False", "string": "text in quotes"}
    # A choice, a pattern, a type; last a range, in pydantic's words.
    if kind == "literal_error":
        choices = get_args(Settings.model_fields[name].annotation)
        return [f"{shown}: choose one of {', '.join(choices)}{_nearest(value, choices)}"]
    if kind == "string_pattern_mismatch":
        return [f"{shown}: use letters, digits and . _ = , + - only"]
    for prefix, needed in wanted.items():
        if kind.startswith(prefix + "_") and kind != "string_too_long":
            return [f"{shown}: {needed} is needed{_typing_hint(value, prefix)}"]
    return [f"{shown}: {detail['msg'].replace('Input should be', 'must be').replace('String should', 'must')}"]


def _typing_hint(value: Any, needed: str) -> str:
    """What to write instead, for text that looks like the value it was meant to be."""
    if not isinstance(value, str):
        return ""
    text = value.strip()
    if needed == "bool":
        words = {"true": "True", "yes": "True", "1": "True", "false": "False", "no": "False", "0": "False"}
        word = words.get(text.lower())
        return f" (write {word}, capital letter and no quotes)" if word else ""
    if needed in ("int", "float") and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", text):
        return f" (YAML reads {text} as text: write {re.sub(r'[eE]', '.0e', text)})"
    if needed in ("int", "float") and re.fullmatch(r"[+-]?[\d_]*\.?\d+([eE][+-]?\d+)?", text):
        return f" (write {text} without quotes)"
    return ""
