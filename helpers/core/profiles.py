"""The values that the settings `profile` and `recipe` stand for, and where the project's folders are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from helpers.core import repositories

ROOT = Path(__file__).resolve().parents[2]
DATA_CACHE = ROOT / "data_cache"

Profile = Literal["smoke", "mini", "local", "paper"]
Recipe = Literal["published", "recommended"]
PROFILES, RECIPES = get_args(Profile), get_args(Recipe)
# The subsets of HH-RLHF with preference pairs.
SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
SMALL_POSITIONS = 512  # tokens of the longest input of the embedded OPT

# fmt: off
BY_PROFILE: dict[str, tuple] = {
    #                     smoke  mini  local  paper      (columns in the order of PROFILES; 0 pairs = all)
    "train_pairs":       (  48,  1500,   800,     0),
    "heldout_pairs":     (  16,   200,   100,  1000),
    "reward_pairs":      (  48,  1500,  2000,     0),
    "eval_prompts":      (   6,   200,   100,    50),
    "max_prompt_length": ( 256,   256,   256,   256),
    "max_new_tokens":    (  24,    64,    64,   128),
    "dataset":           (None,  None,  None, repositories.DATASET.id),
    "policy":            (None,  None,  None, repositories.POLICY.id),
    "reward_model":      (None,  None,  None, repositories.REWARD_MODEL.id),
}
BY_RECIPE: dict[str, tuple] = {
    #                         published  recommended     (columns in the order of RECIPES)
    "sft_learning_rate":     (     2e-5,        3e-4),
    "dpo_learning_rate":     (     2e-5,        1e-4),
    "sft_batch_size":        (        2,          16),
    "dpo_batch_size":        (        2,          16),
    "gradient_accumulation": (        4,           1),
    "lora_rank":             (        8,          16),
    "lora_alpha":            (       16,          32),
    "lora_dropout":          (     0.05,         0.0),
    "lora_targets":          (    "q_v", "all-linear"),
    "completion_only":       (    False,        True),
    "explicit_prompt":       (    False,        True),
    "closing_cue":           (    False,        True),
    "dropout":               (      0.1,         0.0),
    "thresholds":            ("published", "calibrated"),
}
PROFILE_AND_RECIPE: dict[tuple[str, str], dict[str, Any]] = {
    # The larger model learns at the authors' rate; the embedded one is too small to move with it.
    # Its reference model takes as long as the policy's forward pass, and is the same for a whole sweep.
    ("paper", "recommended"): {"sft_learning_rate": 2e-5, "dpo_learning_rate": 2e-5, "dpo_reference": "precomputed"},
    # What the authors' notebooks did: every subset, no cut of the prompt, TRL's DPO length of the time, 50 new tokens.
    ("paper", "published"): {"subsets": ",".join(SUBSETS), "dpo_max_length": 1024, "max_prompt_length": 1024,
                             "max_new_tokens": 50},
}
# fmt: on
# What a run of each profile needs, in GB: memory at its peak; disk for the run folder, and for downloads (paper).
MEMORY_GB = {"smoke": 3, "mini": 4, "local": 4, "paper": 16}
DISK_GB = {"smoke": 0.1, "mini": 0.5, "local": 1, "paper": 30}


def results_root() -> Path:
    """Folder that holds one folder per run: $COURSE_RESULTS, or results/ in the project."""
    return Path(os.environ.get("COURSE_RESULTS") or ROOT / "results").expanduser().resolve()
