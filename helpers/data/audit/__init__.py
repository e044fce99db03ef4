"""The audit: what is wrong with a collection of preference pairs, and how far the answer can be trusted.

checks looks at rows, copies compares them, labels asks for second opinions; truth examines the detectors themselves.
"""

from helpers.data.audit.detector_quality import is_sound, measure, planted
from helpers.data.audit.duplicates import SIMILAR, shared_first_turns
from helpers.data.audit.label_noise import (
    foretold,
    from_scores,
    label_issues,
    label_probability,
    precision_recall,
    read_outside,
)
from helpers.data.audit.row_checks import CHECKS, clean_index, detect, length_bias, read, report, split

__all__ = [
    "CHECKS",
    "SIMILAR",
    "clean_index",
    "detect",
    "foretold",
    "from_scores",
    "is_sound",
    "label_issues",
    "label_probability",
    "length_bias",
    "measure",
    "planted",
    "precision_recall",
    "read",
    "read_outside",
    "report",
    "shared_first_turns",
    "split",
]
