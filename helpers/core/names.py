"""The names of sides, metrics and models."""

from helpers.core import methods

# The two kinds of evaluation prompt, and what is computed from the responses to them: HmR, HpR, and their mean CAS.
SIDES = ("harmful", "helpful")
METRICS = ("hmr", "hpr", "cas")
METRIC_NAMES = {"hmr": "HmR", "hpr": "HpR", "cas": "CAS"}


def label(model: str) -> str:
    """The name of a model as readers see it ("sft_dpo" -> "SFT+DPO"); any other name stays as it is."""
    return methods.model_title(model)
