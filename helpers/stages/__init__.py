"""The stage graph: what the experiment is made of, and what each part is made from.

    pairs ──┬── base ─────┬── sft ── sft_dpo ──┐
            │             └── dpo ─────────────┼── responses ── scores ── evaluation
            └── reward_model ── calibration ───┘

Every function takes a run and returns its result, building what is missing on the way. Notebooks ask for what
they need and never care whether it was there already. data: pairs and prompts; policies: the four models and the
judge; answers: what the models say and how it is judged.
"""

from ..metrics import LABELS
from .answers import (
    calibration_replies,
    evaluation,
    evaluation_prompts,
    heldout_scores,
    responses,
    sampled_responses,
    sampled_scores,
    scores,
    second_opinion,
    thresholds,
    truth,
)
from .data import EMBEDDED, Pairs, knows_truth, pairs, source
from .policies import (
    MODELS,
    STARTS_FROM,
    base_policy,
    policy,
    reward_model,
    training_log,
    training_summary,
    training_timing,
)

__all__ = [
    "EMBEDDED",
    "LABELS",
    "MODELS",
    "STARTS_FROM",
    "Pairs",
    "base_policy",
    "calibration_replies",
    "evaluation",
    "evaluation_prompts",
    "heldout_scores",
    "knows_truth",
    "pairs",
    "policy",
    "responses",
    "reward_model",
    "sampled_responses",
    "sampled_scores",
    "scores",
    "second_opinion",
    "source",
    "thresholds",
    "training_log",
    "training_summary",
    "training_timing",
    "truth",
]
