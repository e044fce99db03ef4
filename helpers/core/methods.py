"""The methods by which a policy is trained: one row each. To add a preference loss, write its formula in `losses`, a
row here and a test that holds the two together.

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
    """What a training dashboard needs to know: the dashed level of the loss with its name, the unit of log pi(y|x)."""

    level: tuple[float, str] | None = (math.log(2), "ln 2")
    unit: str = "nats"


@dataclass(frozen=True)
class Method:
    """One way of training a policy.

    name: of a model that is trained with it. title: for tables and figures. description: for sentences.
    loss: the value of setting preference_loss; "" for supervised fine-tuning. formula: the function in `losses`.
    trainer, config: TRL's classes by dotted name; see `imported`. rows: what one training example is.
    prefix: the settings it takes are called prefix_epochs, prefix_batch_size and so on.
    fixed: arguments of the config beyond those that all trainings share. from_settings: argument -> setting.
    has_reference: whether the loss compares the policy with a reference model.
    first_loss: the loss of a policy that equals its reference, from the settings; None where there is none.
    first_loss_name: that value as a formula. cause: what is wrong where a training starts at another loss.
    memory: what its peak memory is made of, see `planning.memory`. unit: of logps_chosen and logps_rejected in its log.
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
        """The loss before the first step, dropout off, where it is known in advance; None where it is not."""
        known = self.first_loss and reference_used(self, settings) != "none"
        return self.first_loss(settings) if known else None

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """The arguments of the config that this method has beyond those that all trainings share."""
        return {**self.fixed, **{name: getattr(settings, value) for name, value in self.from_settings.items()}}

    def scale(self, settings: Settings) -> Scale:
        """How the dashboard of a training with these settings is drawn."""
        level = self.first_loss(settings) if self.first_loss else None
        return Scale(None if level is None else (level, self.first_loss_name), self.unit)


def _ln_2(settings: Settings) -> float:
    return math.log(2)


def _ipo_without_margin(settings: Settings) -> float:
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
    """The object of a dotted name, "trl.DPOTrainer"; its module is imported now."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


# ------------------------------------------------------------------------------------------- the models of a run


def model_names() -> tuple[str, ...]:
    """Every name that a model can have: base, then each method from Base and, but for SFT itself, from SFT."""
    from_sft = [f"sft_{method.name}" for method in BY_LOSS.values()]
    return ("base", *METHODS, *from_sft)


def models_of(settings: Settings) -> tuple[str, ...]:
    """The models of a run in their order, Base first."""
    return tuple(name.strip() for name in settings.models.split(","))


def starts_from(model: str) -> str:
    """The model from which a trained one starts: "sft" for sft_dpo, else "base"."""
    return "sft" if model.startswith("sft_") else "base"


def method_of(model: str, preference_loss: str = "sigmoid") -> Method:
    """The method that trains a model; preference_loss: that of `dpo` and `sft_dpo`."""
    name = model.removeprefix("sft_")
    return BY_LOSS[preference_loss] if name == "dpo" else METHODS[name]


def title(model: str) -> str:
    """The name of a model as readers see it ("sft_dpo" -> "SFT+DPO"); any other name stays as it is."""
    if model == "base":
        return "Base"
    if model not in model_names():
        return model
    own = METHODS[model.removeprefix("sft_")].title
    return f"SFT+{own}" if model.startswith("sft_") else own


def reference_used(method: Method, settings: Settings) -> str:
    """Where the reference's log-probabilities come from: "live", "precomputed", or "none" where there is none."""
    return settings.dpo_reference if method.has_reference else "none"


# ------------------------------------------------------------------------------------------------- what is refused


def model_problems(settings: Settings) -> list[str]:
    """What is wrong with the settings models and preference_loss, one sentence each."""
    names = models_of(settings)
    unknown = [name for name in names if name not in model_names()]
    if unknown:
        return [f"models: no model is called {name!r}{near_miss(name)}" for name in unknown]
    if len(set(names)) < len(names):
        return [f"models names {next(name for name in names if names.count(name) > 1)} twice"]
    if names[0] != "base" or len(names) < 2:
        return ["models must begin with base, with which the others are compared, and name at least one other"]
    orphans = [name for name in names if starts_from(name) not in names[: names.index(name)] and name != "base"]
    if orphans:
        return [f"models: {orphans[0]} starts from sft, so sft must stand before it"]
    refused = [found for name in names[1:] if (found := problem(name, settings))]
    return [*_loss_problems(names, settings), *refused[:1], *_idle_settings(names, settings)]


def near_miss(name: str) -> str:
    """What was probably meant, for a message about an unknown model; else all names."""
    close = difflib.get_close_matches(name.lower(), model_names(), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f": choose from {', '.join(model_names())}"


def _loss_problems(names: tuple[str, ...], settings: Settings) -> list[str]:
    """preference_loss must train something, and nothing that the list names already."""
    loss = settings.preference_loss
    if loss == "sigmoid":
        return []
    if not {"dpo", "sft_dpo"} & set(names):
        return [f"preference_loss = {loss!r} is the loss of dpo and sft_dpo, and models names neither"]
    same = [(a, b) for a, b in (("dpo", loss), ("sft_dpo", f"sft_{loss}")) if {a, b} <= set(names)]
    return [f"models: with preference_loss = {loss!r} {a} and {b} are one model: leave one out" for a, b in same]


def _idle_settings(names: tuple[str, ...], settings: Settings) -> list[str]:
    """Settings of a loss that were changed although no model is trained with that loss."""
    used = [method_of(name, settings.preference_loss) for name in names[1:]]
    at_work = {setting for method in used for setting in method.from_settings.values()}
    problems = []
    for method in BY_LOSS.values():
        for setting in method.from_settings.values():
            usual = type(settings).model_fields[setting].default
            if setting not in at_work and getattr(settings, setting) != usual:
                at_work.add(setting)  # told once
                problems.append(
                    f"{setting} belongs to the {method.loss} loss, with which no model of this run is trained: "
                    f"add {method.name} to models"
                )
    return problems


def problem(model: str, settings: Settings) -> str | None:
    """Why a model cannot be trained with these settings; None where it can."""
    method = method_of(model, settings.preference_loss)
    if settings.dpo_reference == "none" and method.has_reference and method.loss != "sigmoid":
        return (
            f"dpo_reference = 'none' is the sigmoid loss without its reference model, as the paper prints it; "
            f"the {method.loss} loss of {model} needs one: use 'live' or 'precomputed'"
        )
    return None
