"""The stage graph: what the experiment is made of, and what each part is made from.

    pairs ──┬── base ─────┬── sft ── sft_dpo ──┐   (sft_ipo, sft_orpo, ...)
            │             └── dpo ─────────────┼── responses ── scores ── evaluation
            └── reward_model ── calibration ───┘

Every function takes a run and returns its result, building what is missing on the way. Notebooks call what they need,
whether it was there already or not. pairs: the data; policies: base policy, trainings and reward model; responses: what
the models answer, and the scores; evaluation: cut-offs and rates; sources: where given folders and models come from.
"""

from helpers.core.methods import PAPER_MODELS, starts_from
from helpers.core.names import label
from helpers.pipeline.evaluation import (
    calibration_replies,
    evaluation,
    heldout_scores,
    second_opinion,
    thresholds,
    truth,
)
from helpers.pipeline.pairs import Pairs, pairs
from helpers.pipeline.policies import (
    base_policy,
    method,
    models,
    policy,
    reward_model,
    trained,
    training_log,
    training_summary,
    training_timing,
)
from helpers.pipeline.responses import evaluation_prompts, responses, sampled_responses, sampled_scores, scores
from helpers.pipeline.sources import EMBEDDED, knows_truth, source

__all__ = [
    "EMBEDDED",
    "PAPER_MODELS",
    "Pairs",
    "base_policy",
    "calibration_replies",
    "evaluation",
    "evaluation_prompts",
    "heldout_scores",
    "knows_truth",
    "label",
    "method",
    "models",
    "pairs",
    "policy",
    "responses",
    "reward_model",
    "sampled_responses",
    "sampled_scores",
    "scores",
    "second_opinion",
    "source",
    "starts_from",
    "thresholds",
    "trained",
    "training_log",
    "training_summary",
    "training_timing",
    "truth",
]
