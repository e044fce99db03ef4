"""The statistics behind the metrics: intervals and paired tests on pass/fail data, thin over scipy and statsmodels.

Samples are one array a side (harmful, helpful prompts); the score of interest is the mean of the sides' means, so that
one side alone gives a rate or a paired difference, and two give CAS. Proportions here run from 0 to 1.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 9_999
SMALLEST = np.finfo(float).tiny  # a p-value is never zero, even where it is smaller than a float can say


def wilson_limits(passing: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, sound at 0 and 1 and for few prompts (Wilson 1927)."""
    low, high = proportion_confint(passing, n, method="wilson")
    return float(low), float(high)


def bootstrap_limits(samples: Sequence[np.ndarray], seed: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap (Efron 1979) of the mean of the samples' means, each sample resampled by itself.

    None where no sample varies: resampling then says nothing. One constant sample only shifts the interval.
    """
    varying = [sample for sample in samples if np.ptp(sample) > 0]
    if not varying:
        return None
    constant = sum(sample.mean() for sample in samples if np.ptp(sample) == 0)

    def statistic(*resampled: np.ndarray, axis: int) -> np.ndarray:
        return (sum(sample.mean(axis=axis) for sample in resampled) + constant) / len(samples)

    options = {"n_resamples": RESAMPLES, "method": "percentile", "vectorized": True, "rng": np.random.default_rng(seed)}
    low, high = bootstrap(varying, statistic, **options).confidence_interval
    return float(low), float(high)


def pass_limits(samples: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """Bootstrap limits for pass rates (0/1) or their paired differences (-1/0/1).

    Where every prompt gives the same result the bootstrap has no width and would claim certainty from a handful of
    prompts; the half-width is then Wilson's upper limit for 0 of n.
    """
    if limits := bootstrap_limits(samples, seed):
        return limits
    centre = np.mean([sample.mean() for sample in samples])
    width = np.mean([wilson_limits(0, len(sample))[1] for sample in samples])
    return float(centre - width), float(centre + width)


def crossed_limits(samples: Sequence[np.ndarray], seed: int = 0, resamples: int = 2_000) -> tuple[float, float]:
    """95 % percentile bootstrap limits of the mean of the samples' means over training seeds and prompts at once.

    samples: one array of shape (seeds, prompts) a side, same seeds in each. Every resample draws seeds and, for each
    side by itself, prompts (the pigeonhole bootstrap, Owen 2007): both could have been others. Errs on the wide side.
    """
    rng = np.random.default_rng(seed)
    seeds = samples[0].shape[0]
    means = np.zeros(resamples)
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    for sample in samples:
        n = sample.shape[1]
        weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
        means += np.einsum("rs,sp,rp->r", drawn, sample, weights, optimize=True) / len(samples)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def discordant(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int]:
    """(only a passes, only b passes) over paired prompts: all that a paired test of two pass rates can learn from."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    return int((a & ~b).sum()), int((b & ~a).sum())


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value from the discordant counts (McNemar 1947); 1 where no pair is discordant."""
    p_value = mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue
    return float(np.clip(p_value, SMALLEST, 1.0))


def sign_flip_p(harmless: tuple[int, int], helpful: tuple[int, int], n_harmless: int, n_helpful: int) -> float:
    """Two-sided exact p-value of a difference in CAS: the paired sign-flip permutation test, stratified by side.

    Arguments: discordant counts and number of prompts of each side. Under the null each discordant prompt favours a or
    b with equal chance, so the count per side is binomial: the permutation distribution is summed, not sampled.
    With one side silent this is the exact McNemar test of the other.
    """

    def side(counts: tuple[int, int], weight: int) -> tuple[np.ndarray, np.ndarray, int]:
        n = sum(counts)
        wins = np.arange(n + 1)
        # A side weighs 1 / prompts in CAS; times the product of both that is an integer, so that ties compare exactly.
        return weight * (2 * wins - n), binom.pmf(wins, n, 0.5), weight * (counts[1] - counts[0])

    shift_a, chance_a, seen_a = side(harmless, n_helpful)
    shift_b, chance_b, seen_b = side(helpful, n_harmless)
    extreme = np.abs(np.add.outer(shift_a, shift_b)) >= abs(seen_a + seen_b)
    return float(np.clip(np.outer(chance_a, chance_b)[extreme].sum(), SMALLEST, 1.0))


def mcnemar_power(n: int, share: float, difference: float, level: float = 0.05) -> float:
    """Exact chance that McNemar's test on n prompts finds a true difference of two pass rates (0 to 1).

    share: of the prompts on which exactly one of the two models passes; at least as large as the difference. The number
    of such prompts is binomial, and so are the wins among them (Miettinen 1968).
    """
    discordant_counts = np.arange(n + 1)
    # The largest number of losses at which the two-sided test still rejects; -1 where there is none.
    critical = binom.ppf(level / 2, discordant_counts, 0.5).astype(int)
    critical -= 2 * binom.cdf(critical, discordant_counts, 0.5) >= level
    chance = (1 + difference / share) / 2
    rejects = binom.cdf(critical, discordant_counts, chance) + binom.cdf(critical, discordant_counts, 1 - chance)
    return float(binom.pmf(discordant_counts, n, share) @ rejects)
