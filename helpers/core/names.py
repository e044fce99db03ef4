"""The names that the course gives to sides, metrics and models, each in one place."""

from helpers.core import methods

SIDES = ("harmful", "helpful")
METRICS = ("hmr", "hpr", "cas")
METRIC_NAMES = {"hmr": "HmR", "hpr": "HpR", "cas": "CAS"}


def label(model: str) -> str:
    """The name of a model as readers see it ("sft_dpo" -> "SFT+DPO"); any other name stays as it is."""
    return methods.title(model)
