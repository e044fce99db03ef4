"""The embedded world: dialogues in HH-RLHF's form, written by a program that knows how good each reply is."""

from helpers.data.synthetic.oracle import Assessment, assess
from helpers.data.synthetic.summary import describe
from helpers.data.synthetic.world import HARMLESS, HELPFUL, generate_pairs, is_hard, raw_corpus

__all__ = ["HARMLESS", "HELPFUL", "Assessment", "assess", "describe", "generate_pairs", "is_hard", "raw_corpus"]
