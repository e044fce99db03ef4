"""Simulated annotators, who choose one reply of a pair.

Each of them sees a reply's utility with noise and likes long or polite replies more or less than the others do. So they
agree on pairs whose replies differ much in utility, and disagree on close ones.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

from helpers.data.synthetic.replies import Reply

CROWD = 24  # annotators
# Noise of the most and of the least careful annotator: temperatures, in units of utility.
SHARPEST, DULLEST = 0.45, 2.4
# The planted length bias: utility that ten more words are worth to the average annotator.
LENGTH_TASTE = 0.12
# Standard deviation of the two tastes over annotators, in units of utility.
TASTES_DIFFER = 0.15


@dataclass(frozen=True)
class Annotator:
    """One annotator; everything is in units of utility.

    temperature: the noise; the larger it is, the closer to a coin toss the choice. length: what ten more words are
    worth to this annotator. courtesy: what one step of courtesy is worth (rude, neutral, polite).
    """

    temperature: float
    length: float
    courtesy: float

    def prefers(self, a: Reply, b: Reply) -> float:
        """P(this annotator prefers reply a to reply b), from 0 to 1.

        The Bradley-Terry model (Bradley and Terry 1952): sigmoid of the perceived difference over the temperature.
        """
        more_words = len(a.text.split()) - len(b.text.split())
        # The difference as this annotator perceives it: utility, and the two tastes.
        felt = a.utility - b.utility + self.length * more_words / 10
        felt += self.courtesy * (a.courtesy - b.courtesy)
        return 1 / (1 + math.exp(-felt / self.temperature))


@cache
def crowd() -> tuple[Annotator, ...]:
    """All annotators, the same in every world, from the most careful one to the least careful one."""
    rng = random.Random("crowd")
    # Temperatures grow by a constant factor from the first annotator to the last.
    step = (DULLEST / SHARPEST) ** (1 / (CROWD - 1))
    annotators = []
    for i in range(CROWD):
        length = rng.gauss(LENGTH_TASTE, TASTES_DIFFER)
        courtesy = rng.gauss(0, TASTES_DIFFER)
        annotators.append(Annotator(SHARPEST * step**i, length, courtesy))
    return tuple(annotators)


def expected_agreement(a: Reply, b: Reply) -> float:
    """P(two annotators drawn at random prefer the same reply of a pair), from 0.5 to 1."""
    p = sum(annotator.prefers(a, b) for annotator in crowd()) / CROWD
    # Both prefer a, or both prefer b.
    return p * p + (1 - p) * (1 - p)
