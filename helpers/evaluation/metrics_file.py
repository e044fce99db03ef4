"""metrics.json: its schema, and its content from an evaluation."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from helpers.evaluation.metrics import Comparison, Evaluation, Rate
from helpers.evaluation.numbers import Metric, Model, PaperModel, Percent
from helpers.evaluation.thresholds import Thresholds


class MetricsFile(BaseModel):
    """metrics.json: rates in percent, differences in points, numbers to six significant digits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[1] = Field(alias="schema")
    profile: str
    recipe: str
    seed: int
    thresholds: Thresholds
    models: dict[Model, dict[Metric, Rate]]
    models_published_rule: dict[Model, dict[Metric, Rate]]
    comparisons: list[Comparison]
    published: dict[PaperModel, dict[Metric, Percent]]

    @model_validator(mode="after")
    def _values_lie_in_their_intervals(self) -> "MetricsFile":
        rates = [r for block in (self.models, self.models_published_rule) for m in block.values() for r in m.values()]
        if not all(r.low <= r.value <= r.high for r in rates):
            raise ValueError("a rate lies outside its interval")
        if not all(c.low <= c.difference <= c.high for c in self.comparisons):
            raise ValueError("a difference lies outside its interval")
        return self


def metrics_json(
    evaluation: Evaluation, *, profile: str, recipe: str, published: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """The content of metrics.json (checked by MetricsFile), ready for json.dump.

    published: the paper's rates, model -> metric -> percent, which stand beside this run's.
    """
    content = asdict(evaluation)
    content |= {"schema": 1, "profile": profile, "recipe": recipe, "published": published}
    return MetricsFile.model_validate(content).model_dump(mode="json", by_alias=True)
