"""The audit of preference pairs: which rows are faulty, which labels are doubtful, and how reliable the checks are.

`row_checks` examines each row alone and holds the table of all checks; `duplicates` compares rows with each other;
`label_noise` finds labels that a second model contradicts; `detector_quality` tests the checks on planted flaws.
"""

from helpers.data.audit.detector_quality import is_sound, measure, planted
from helpers.data.audit.duplicates import SIMILAR, shared_first_turns
from helpers.data.audit.label_noise import (
    from_scores,
    label_issues,
    label_probability,
    precision_recall,
    predicted_probability,
    read_outside,
)
from helpers.data.audit.row_checks import CHECKS, clean_index, detect, length_bias, read, report, split

__all__ = [
    "CHECKS",
    "SIMILAR",
    "clean_index",
    "detect",
    "from_scores",
    "is_sound",
    "label_issues",
    "label_probability",
    "length_bias",
    "measure",
    "planted",
    "precision_recall",
    "predicted_probability",
    "read",
    "read_outside",
    "report",
    "shared_first_turns",
    "split",
]
