"""Types of the numbers and names in metrics.json; pydantic checks them where an object with them is made."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, PlainSerializer

from helpers.core import methods

Metric = Literal["hmr", "hpr", "cas"]
PaperModel = Literal[methods.PAPER_MODELS]
# Six significant digits in files: a run gives the same bytes on every computer, although last bits of sums differ.
Number = Annotated[FiniteFloat, PlainSerializer(lambda value: float(f"{value:.6g}") + 0.0, return_type=float)]
Percent = Annotated[Number, Field(ge=0, le=100)]
Points = Annotated[Number, Field(ge=-100, le=100)]
Probability = Annotated[Number, Field(gt=0, le=1)]
STRICT = ConfigDict(extra="forbid")


def _known(model: str) -> str:
    """A model's name, if it is one of `core.methods.model_names`."""
    if model not in methods.model_names():
        raise ValueError(f"no model is called {model!r}")
    return model


Model = Annotated[str, AfterValidator(_known)]
