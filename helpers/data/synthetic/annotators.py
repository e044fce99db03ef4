"""Simulated annotators: each reads a reply's quality through own noise and own tastes, and so do close pairs split."""

import math
import random
from dataclasses import dataclass
from functools import cache

from helpers.data.synthetic.replies import Reply

CROWD = 24  # annotators
SHARPEST, DULLEST = 0.45, 2.4  # temperatures, in units of utility
LENGTH_TASTE = 0.12  # utility that ten more words are worth to the average annotator: the planted length bias
TASTES_DIFFER = 0.15


@dataclass(frozen=True)
class Annotator:
    """Tastes in units of utility: ``length`` for ten more words, ``courtesy`` for one step of courtesy."""

    temperature: float
    length: float
    courtesy: float

    def prefers(self, a: Reply, b: Reply) -> float:
        """P(this annotator prefers a to b): Bradley-Terry, sigmoid of the felt difference over the temperature."""
        felt = a.utility - b.utility + self.length * (len(a.text.split()) - len(b.text.split())) / 10
        felt += self.courtesy * (a.courtesy - b.courtesy)
        return 1 / (1 + math.exp(-felt / self.temperature))


@cache
def crowd() -> tuple[Annotator, ...]:
    """Return the annotators, the same in every world: sharp to dull, some fond of length, some of courtesy."""
    rng = random.Random("crowd")
    step = (DULLEST / SHARPEST) ** (1 / (CROWD - 1))
    return tuple(
        Annotator(SHARPEST * step**i, rng.gauss(LENGTH_TASTE, TASTES_DIFFER), rng.gauss(0, TASTES_DIFFER))
        for i in range(CROWD)
    )


def expected_agreement(a: Reply, b: Reply) -> float:
    """P(two annotators drawn at random prefer the same reply of a pair)."""
    p = sum(annotator.prefers(a, b) for annotator in crowd()) / CROWD
    return p * p + (1 - p) * (1 - p)
