"""The types of the numbers and names in metrics.json, checked wherever they are made."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, PlainSerializer

from helpers.core import methods

Metric = Literal["hmr", "hpr", "cas"]
PaperModel = Literal[methods.PAPER_MODELS]
# Six significant digits in files: the same run gives the same bytes, whatever the last bits of a sum were.
Number = Annotated[FiniteFloat, PlainSerializer(lambda value: float(f"{value:.6g}") + 0.0, return_type=float)]
Percent = Annotated[Number, Field(ge=0, le=100)]
Points = Annotated[Number, Field(ge=-100, le=100)]
Probability = Annotated[Number, Field(gt=0, le=1)]
STRICT = ConfigDict(extra="forbid")


def _known(model: str) -> str:
    if model not in methods.model_names():
        raise ValueError(f"no model is called {model!r}")
    return model


Model = Annotated[str, AfterValidator(_known)]
