"""How the logits of a reward model become a score: one logit is the score, of two it is their difference."""

from typing import TYPE_CHECKING

from helpers.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

GOOD = {"positive", "good", "chosen", "accepted", "preferred", "better", "safe", "harmless", "helpful", "yes", "true"}
BAD = {"negative", "bad", "rejected", "worse", "unsafe", "harmful", "toxic", "unhelpful", "no", "false"}


def good_label(config: "PretrainedConfig") -> int:
    """The index of the good label of a model with two: told by the names in id2label, else 1.

    config: the reward model's.
    """
    first, second = (str(config.id2label[i]).lower() for i in (0, 1))
    return 0 if first in GOOD or second in BAD else 1


def check(config: "PretrainedConfig", name: str) -> str | None:
    """A line that says how a model with two labels gives a score; None for a model with one.

    config, name: the reward model's, the name for the messages. Raises DataError for more than two labels.
    """
    if config.num_labels == 1:
        return None
    if config.num_labels != 2:
        raise DataError(
            f"model {name!r} has {config.num_labels} labels, and it is not known how they make one score: a reward "
            "model has one output, or two for bad and good"
        )
    good = good_label(config)
    names = [config.id2label[i] for i in (good, 1 - good)]
    return f"{name}: of its two labels, a score is the logit of {names[0]!r} minus that of {names[1]!r}"


def scores(logits: "Tensor", config: "PretrainedConfig") -> "Tensor":
    """The score of each row. logits: (rows, labels), one or two labels. config: the model's. Returns (rows,)."""
    if config.num_labels == 1:
        return logits[:, 0]
    good = good_label(config)
    return logits[:, good] - logits[:, 1 - good]
