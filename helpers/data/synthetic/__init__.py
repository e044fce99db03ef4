"""The embedded world: HH-style dialogues of our own making, whose truth is known."""

from helpers.data.synthetic.oracle import Assessment, assess
from helpers.data.synthetic.summary import describe
from helpers.data.synthetic.world import HARMLESS, HELPFUL, generate_pairs, is_hard, raw_corpus

__all__ = ["HARMLESS", "HELPFUL", "Assessment", "assess", "describe", "generate_pairs", "is_hard", "raw_corpus"]
