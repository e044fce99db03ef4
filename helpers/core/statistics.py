"""The statistics of the metrics: intervals and paired tests on pass/fail data, computed by scipy and statsmodels.

`samples` holds one array for each side (harmful, helpful prompts), with a number for each prompt. What is estimated is
the mean of the sides' means: with one side a pass rate or a paired difference, with two sides CAS. Proportions run from
0 to 1.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 9_999
SMALLEST = np.finfo(float).tiny  # the smallest p-value that is returned: it is never zero


def wilson_limits(passing: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (Wilson 1927) of the proportion passing / n; sound at 0 and 1 and for few prompts."""
    low, high = proportion_confint(passing, n, method="wilson")
    return float(low), float(high)


def bootstrap_limits(samples: Sequence[np.ndarray], seed: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap limits (Efron 1979) of the mean of the samples' means.

    samples: arrays of shape (prompts,), each resampled by itself. Returns None where no sample varies: resampling then
    tells nothing. A constant sample beside one that varies only shifts the interval.
    """
    # Resample what varies; add the mean of what does not.
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
    """95 % limits of the mean of the samples' means, for pass rates (0/1) or their paired differences (-1/0/1).

    samples: arrays of shape (prompts,). By bootstrap; where every prompt gives the same result, a bootstrap interval
    would have no width and claim certainty from a few prompts, so the half-width is then Wilson's upper limit for 0
    of n.
    """
    if limits := bootstrap_limits(samples, seed):
        return limits
    centre = np.mean([sample.mean() for sample in samples])
    width = np.mean([wilson_limits(0, len(sample))[1] for sample in samples])
    return float(centre - width), float(centre + width)


def crossed_limits(samples: Sequence[np.ndarray], seed: int = 0, resamples: int = 2_000) -> tuple[float, float]:
    """95 % percentile bootstrap limits of the mean of the samples' means, over training seeds and prompts together.

    samples: arrays of shape (training seeds, prompts), the same seeds in each. seed: of the resampling. Every resample
    draws training seeds and, for each side by itself, prompts, because both could have been others (the pigeonhole
    bootstrap, Owen 2007). The interval is rather too wide than too narrow.
    """
    rng = np.random.default_rng(seed)
    seeds = samples[0].shape[0]
    means = np.zeros(resamples)
    # How often each seed is drawn, as weights that sum to 1: shape (resamples, seeds).
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    for sample in samples:
        # The same for prompts, shape (resamples, prompts); then the weighted mean of this side in each resample.
        n = sample.shape[1]
        prompt_weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
        means += np.einsum("rs,sp,rp->r", seed_weights, sample, prompt_weights, optimize=True) / len(samples)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def discordant(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int]:
    """Discordant prompts: on how many only a passes, and on how many only b; the paired tests depend on these alone.

    a, b: whether each of two models passes on each prompt, in the same order.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    return int((a & ~b).sum()), int((b & ~a).sum())


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test (McNemar 1947) from the counts of `discordant`; 1 if both are 0."""
    p_value = mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue
    return float(np.clip(p_value, SMALLEST, 1.0))


def sign_flip_p(harmless: tuple[int, int], helpful: tuple[int, int], n_harmless: int, n_helpful: int) -> float:
    """Two-sided exact p-value of a difference in CAS between two models: a paired sign-flip permutation test.

    harmless, helpful: the counts of `discordant` on the prompts of each side. n_harmless, n_helpful: numbers of
    prompts. Under the null hypothesis each discordant prompt favours either model with probability 1/2, so the count of
    each side is binomial, and the permutation distribution is summed exactly instead of sampled. Where one side has no
    discordant prompt this is the exact McNemar test on the other.
    """
    # A side weighs 1 / prompts in CAS. Times the product of both numbers of prompts that is an integer, so that equal
    # differences compare as equal.
    shifts_a, chances_a, observed_a = _permuted(harmless, weight=n_helpful)
    shifts_b, chances_b, observed_b = _permuted(helpful, weight=n_harmless)
    # The probability of all differences at least as large as the observed one.
    extreme = np.abs(np.add.outer(shifts_a, shifts_b)) >= abs(observed_a + observed_b)
    p_value = np.outer(chances_a, chances_b)[extreme].sum()
    return float(np.clip(p_value, SMALLEST, 1.0))


def _permuted(counts: tuple[int, int], weight: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The weighted differences of one side that sign flips can give, their probabilities, and the observed one."""
    n = sum(counts)
    wins = np.arange(n + 1)
    return weight * (2 * wins - n), binom.pmf(wins, n, 0.5), weight * (counts[1] - counts[0])


def mcnemar_power(n: int, share: float, difference: float, level: float = 0.05) -> float:
    """Power of McNemar's test: the exact probability that it finds a true difference of two pass rates.

    n: number of prompts. share: of prompts on which exactly one of the two models passes, at least as large as
    difference, the true difference of the pass rates. level: of significance. The number of discordant prompts is
    binomial, and so is the number of them that favour one model (Miettinen 1968).
    """
    discordant_counts = np.arange(n + 1)
    # The largest number of losses at which the two-sided test still rejects; -1 where there is none.
    critical = binom.ppf(level / 2, discordant_counts, 0.5).astype(int)
    critical -= 2 * binom.cdf(critical, discordant_counts, 0.5) >= level
    # The probability that a discordant prompt favours the better model, and that the test rejects in either direction.
    chance = (1 + difference / share) / 2
    rejects = binom.cdf(critical, discordant_counts, chance) + binom.cdf(critical, discordant_counts, 1 - chance)
    return float(binom.pmf(discordant_counts, n, share) @ rejects)
