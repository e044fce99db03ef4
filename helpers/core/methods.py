"""The methods by which a policy is trained, one row of a table for each.

To add a preference loss, write its formula in `training.losses`, a row here, and a test that compares the two.

A model of a run is named after its method, `orpo`, or `sft_orpo` where it starts from the SFT model instead of Base.
`dpo` and `sft_dpo` are trained with the loss that setting preference_loss names.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from helpers.core.settings import Settings

PAPER_MODELS = ("base", "sft", "dpo", "sft_dpo")  # the four that arXiv 2509.09055 compares
REFERENCE_DIFFERS = (
    "policy and reference model differ before the first step. Known causes: dropout is on (OPT ignores TRL's "
    "disable_dropout), the reference is another model, or the policy already carries an adapter"
)


class Scale(NamedTuple):
    """How the dashboard of a training is drawn.

    level: where the loss starts, and that value as a formula, for the dashed line; None for no line. unit: of the
    log-probabilities.
    """

    level: tuple[float, str] | None = (math.log(2), "ln 2")
    unit: str = "nats"


@dataclass(frozen=True)
class Method:
    """One way of training a policy.

    name: of a model that is trained with it. title: for tables and figures. description: for sentences.
    loss: the value of setting preference_loss; "" for supervised fine-tuning. formula: name of the function in
    `training.losses`. trainer, config: TRL's classes by dotted name; see `imported`. rows: what one training example
    is. prefix: the method takes the settings {prefix}_epochs, {prefix}_batch_size and so on.
    fixed: arguments of the config that are the same in each run. from_settings: argument of the config -> setting.
    has_reference: whether the loss compares the policy with a reference model.
    first_loss: settings -> the loss of a policy that equals its reference model; None where it is not known.
    first_loss_name: that value as a formula. cause: what is wrong when a training starts at another loss.
    memory: which formula of `training.memory` gives its peak memory. unit: of logps_chosen, logps_rejected in its log.
    """

    name: str
    title: str
    description: str
    loss: str
    formula: str
    trainer: str
    config: str
    rows: Literal["completions", "pairs"] = "pairs"
    prefix: Literal["sft", "dpo"] = "dpo"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    from_settings: Mapping[str, str] = field(default_factory=dict)
    has_reference: bool = False
    first_loss: Callable[[Settings], float] | None = None
    first_loss_name: str = ""
    cause: str = ""
    memory: Literal["sft", "dpo", "dpo, all logits"] = "dpo"
    unit: str = "nats"

    def expected_first_loss(self, settings: Settings) -> float | None:
        """The loss before the first step without dropout; None where it is not known in advance."""
        known = self.first_loss and reference_used(self, settings) != "none"
        return self.first_loss(settings) if known else None

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """The arguments of the config that belong to this method; all trainings share the others."""
        arguments = dict(self.fixed)
        for argument, setting in self.from_settings.items():
            arguments[argument] = getattr(settings, setting)
        return arguments

    def scale(self, settings: Settings) -> Scale:
        """How the dashboard of a training with these settings is drawn."""
        if self.first_loss is None:
            return Scale(None, self.unit)
        return Scale((self.first_loss(settings), self.first_loss_name), self.unit)


def _ln_2(settings: Settings) -> float:
    """-log sigmoid(0): the sigmoid loss at margin 0 (Rafailov et al. 2023, equation 7)."""
    return math.log(2)


def _ipo_without_margin(settings: Settings) -> float:
    """(0 - 1 / (2 beta))²: the IPO loss at margin 0 (Azar et al. 2023, equation 17)."""
    return (1 / (2 * settings.beta)) ** 2


_DPO = {"trainer": "trl.DPOTrainer", "config": "trl.DPOConfig", "has_reference": True, "cause": REFERENCE_DIFFERS}
_ALL_LOGITS = {"memory": "dpo, all logits", "unit": "nats a token"}  # TRL's experimental trainers keep every logit

_ROWS = (
    Method(
        name="sft",
        title="SFT",
        description="supervised fine-tuning on chosen completions",
        loss="",
        formula="sft_loss",
        trainer="trl.SFTTrainer",
        config="trl.SFTConfig",
        rows="completions",
        prefix="sft",
        memory="sft",
    ),
    Method(
        name="dpo",
        title="DPO",
        description="direct preference optimization",
        loss="sigmoid",
        formula="dpo_loss",
        fixed={"loss_type": "sigmoid"},
        from_settings={"beta": "beta"},
        first_loss=_ln_2,
        first_loss_name="ln 2",
        **_DPO,
    ),
    Method(
        name="ipo",
        title="IPO",
        description="identity preference optimization",
        loss="ipo",
        formula="ipo_loss",
        fixed={"loss_type": "ipo"},
        from_settings={"beta": "beta"},
        first_loss=_ipo_without_margin,
        first_loss_name="1 / (2 beta)²",
        **_DPO,
    ),
    Method(
        name="robust",
        title="rDPO",
        description="DPO that allows for swapped labels (robust DPO)",
        loss="robust",
        formula="robust_loss",
        fixed={"loss_type": "robust"},
        from_settings={"beta": "beta", "label_smoothing": "label_smoothing"},
        first_loss=_ln_2,
        first_loss_name="ln 2",
        **_DPO,
    ),
    Method(
        name="simpo",
        title="SimPO",
        description="simple preference optimization, which has no reference model",
        loss="simpo",
        formula="simpo_loss",
        trainer="trl.experimental.cpo.CPOTrainer",
        config="trl.experimental.cpo.CPOConfig",
        fixed={"loss_type": "simpo", "cpo_alpha": 0.0},  # CPO adds an SFT term by default; SimPO has none
        from_settings={"beta": "simpo_beta", "simpo_gamma": "simpo_gamma"},
        **_ALL_LOGITS,
    ),
    Method(
        name="orpo",
        title="ORPO",
        description="odds ratio preference optimization, which has no reference model",
        loss="orpo",
        formula="orpo_loss",
        trainer="trl.experimental.orpo.ORPOTrainer",
        config="trl.experimental.orpo.ORPOConfig",
        from_settings={"beta": "orpo_weight"},
        **_ALL_LOGITS,
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
BY_LOSS: dict[str, Method] = {method.loss: method for method in _ROWS if method.rows == "pairs"}
LOSSES = tuple(BY_LOSS)


def imported(dotted: str) -> Any:
    """Import the object of a dotted name, such as "trl.DPOTrainer", and return it."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


# ------------------------------------------------------------------------------------------- the models of a run


def model_names() -> tuple[str, ...]:
    """Every name that a model can have: base, each method started from Base, each preference loss started from SFT."""
    from_sft = [f"sft_{method.name}" for method in BY_LOSS.values()]
    return ("base", *METHODS, *from_sft)


def models_of(settings: Settings) -> tuple[str, ...]:
    """The names of a run's models, in the order in which they are trained; base is the first."""
    return tuple(name.strip() for name in settings.models.split(","))


def starts_from(model: str) -> str:
    """The model whose weights a trained model starts from: "sft" for names such as sft_dpo, else "base"."""
    return "sft" if model.startswith("sft_") else "base"


def method_of(model: str, preference_loss: str = "sigmoid") -> Method:
    """The method that trains a model. preference_loss: the setting, which decides for `dpo` and `sft_dpo`.

    Raises KeyError for base and for an unknown name.
    """
    name = model.removeprefix("sft_")
    return BY_LOSS[preference_loss] if name == "dpo" else METHODS[name]


def model_title(model: str) -> str:
    """The name of a model as readers see it ("sft_dpo" -> "SFT+DPO"); any other name stays as it is."""
    if model == "base":
        return "Base"
    if model not in model_names():
        return model
    own = METHODS[model.removeprefix("sft_")].title
    return f"SFT+{own}" if model.startswith("sft_") else own


def reference_used(method: Method, settings: Settings) -> str:
    """Where the reference model's log-probabilities come from: "live", "precomputed"; "none" without a reference."""
    return settings.dpo_reference if method.has_reference else "none"


# ------------------------------------------------------------------------------------------------- what is refused


def model_problems(settings: Settings) -> list[str]:
    """What is wrong with the settings models and preference_loss, one sentence each; [] if nothing."""
    names = models_of(settings)
    # The names themselves.
    unknown = [name for name in names if name not in model_names()]
    if unknown:
        return [f"models: no model is called {name!r}{nearest_model(name)}" for name in unknown]
    for name in names:
        if names.count(name) > 1:
            return [f"models names {name} twice"]
    # Their order: a model must stand after the one whose weights it starts from.
    if names[0] != "base" or len(names) < 2:
        return ["models must begin with base, with which the others are compared, and name at least one other"]
    for position, name in enumerate(names[1:], start=1):
        if starts_from(name) not in names[:position]:
            return [f"models: {name} starts from sft, so sft must stand before it"]
    # The loss, the reference model, and settings without effect.
    problems = _loss_problems(names, settings)
    refused = list(filter(None, (why_not_trainable(name, settings) for name in names[1:])))
    return [*problems, *refused[:1], *_settings_without_effect(names, settings)]


def nearest_model(name: str) -> str:
    """The end of a message about an unknown model: the name that was probably meant, or else all names."""
    close = difflib.get_close_matches(name.lower(), model_names(), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f": choose from {', '.join(model_names())}"


def _loss_problems(names: tuple[str, ...], settings: Settings) -> list[str]:
    """What is wrong with preference_loss: no model is trained with it, or it makes two models of the run the same."""
    loss = settings.preference_loss
    if loss == "sigmoid":
        return []
    if "dpo" not in names and "sft_dpo" not in names:
        return [f"preference_loss = {loss!r} is the loss of dpo and sft_dpo, and models names neither"]
    problems = []
    for name, same in (("dpo", loss), ("sft_dpo", f"sft_{loss}")):
        if name in names and same in names:
            problems.append(f"models: with preference_loss = {loss!r} {name} and {same} are one model: leave one out")
    return problems


def _settings_without_effect(names: tuple[str, ...], settings: Settings) -> list[str]:
    """Settings of a loss that were changed although no model is trained with that loss."""
    # The settings that the losses of this run take.
    effective = set()
    for name in names[1:]:
        effective.update(method_of(name, settings.preference_loss).from_settings.values())
    # Those of the other losses must have their default.
    problems = []
    for method in BY_LOSS.values():
        for setting in method.from_settings.values():
            usual = type(settings).model_fields[setting].default
            if setting not in effective and getattr(settings, setting) != usual:
                effective.add(setting)  # so that it is named once
                problems.append(
                    f"{setting} belongs to the {method.loss} loss, with which no model of this run is trained: "
                    f"add {method.name} to models"
                )
    return problems


def why_not_trainable(model: str, settings: Settings) -> str | None:
    """Why a model cannot be trained with these settings, in one sentence; None where it can."""
    method = method_of(model, settings.preference_loss)
    if settings.dpo_reference == "none" and method.has_reference and method.loss != "sigmoid":
        return (
            f"dpo_reference = 'none' is the sigmoid loss without its reference model, as the paper prints it; "
            f"the {method.loss} loss of {model} needs one: use 'live' or 'precomputed'"
        )
    return None
