"""The file metrics.json: its schema, and its content from an evaluation."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from helpers.evaluation.metrics import Comparison, Evaluation, Rate
from helpers.evaluation.numbers import Metric, Model, PaperModel, Percent
from helpers.evaluation.thresholds import Thresholds


class MetricsFile(BaseModel):
    """The schema of metrics.json: rates in percent, differences in points, numbers to six significant digits.

    schema_: its version. profile, recipe, seed: of the run. thresholds: in force. models, models_published_rule,
    comparisons: as in `metrics.Evaluation`. published: the paper's rates, model -> metric -> percent.
    """

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
        for rates in [*self.models.values(), *self.models_published_rule.values()]:
            if not all(rate.low <= rate.value <= rate.high for rate in rates.values()):
                raise ValueError("a rate lies outside its interval")
        if not all(c.low <= c.difference <= c.high for c in self.comparisons):
            raise ValueError("a difference lies outside its interval")
        return self


def metrics_json(
    evaluation: Evaluation, *, profile: str, recipe: str, published: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """The content of metrics.json, checked by `MetricsFile`, ready for json.dump.

    evaluation: of the run's models. profile, recipe: of the run. published: the paper's rates, model -> metric ->
    percent. Raises pydantic's ValidationError where a number is not possible.
    """
    content = asdict(evaluation)
    content |= {"schema": 1, "profile": profile, "recipe": recipe, "published": published}
    return MetricsFile.model_validate(content).model_dump(mode="json", by_alias=True)
