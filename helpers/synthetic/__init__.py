"""The embedded world: HH-style dialogues of our own making, whose truth is known."""

from .judge import Judgement, judge
from .summary import describe
from .world import HARMLESS, HELPFUL, generate_pairs, is_hard, raw_corpus

__all__ = ["HARMLESS", "HELPFUL", "Judgement", "describe", "generate_pairs", "is_hard", "judge", "raw_corpus"]
