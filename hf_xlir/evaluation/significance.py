"""Is one system better than another, or lucky?"""

from typing import NamedTuple

import numpy as np

from ..utils.checks import check_choice


METHODS = ("permutation", "t")
PERMUTATIONS_PER_BLOCK = 1_000_000  # signs that are drawn at once, over the number of queries


class Comparison(NamedTuple):
    r"""
    What [`compare_runs`] returns.

    Args:
        num_queries (`int`):
            Queries that both runs have a value of.
        difference (`float`):
            The mean of the first run's values minus that of the second's.
        p_value (`float`):
            How likely runs of which neither is better differ at least so much, in either direction.
    """

    num_queries: int
    difference: float
    p_value: float


def compare_runs(first, second, method="permutation", *, num_permutations=9999, seed=0):
    r"""
    Test whether two runs differ on the same queries, paired and two-sided.

    Args:
        first (`dict[str, float]`):
            Each query's value by a measure, as the metrics return with `per_query=True`.
        second (`dict[str, float]`):
            The other run's values, of the same queries.
        method (`str`, *optional*, defaults to `"permutation"`):
            `"permutation"`: Fisher's randomisation test, which assumes no distribution: each query's two values are
            exchanged at random, by `scipy.stats.permutation_test`; all ways are tried where there are no more than
            `num_permutations`. `"t"`: Student's t test of the differences. Smucker et al. ("A comparison of
            statistical significance tests for information retrieval evaluation", CIKM 2007) find that they agree.
        num_permutations (`int`, *optional*, defaults to 9999):
            Exchanges that are drawn; no p-value is below `2 / (num_permutations + 1)`.
        seed (`int`, *optional*, defaults to 0):
            Of the draws.

    Returns:
        [`Comparison`]: `num_queries`, `difference` and `p_value`, which is 1 where no query has two different values.

    Raises:
        ValueError: If the runs are not of the same queries, of fewer than two, or have a value that is no finite
            number; or an argument is unknown or out of range.

    Example:
    ```python
    >>> from hf_xlir.evaluation import compare_runs

    >>> values = {"q1": 1.0, "q2": 1.0, "q3": 0.5, "q4": 1.0}
    >>> compare_runs(values, dict.fromkeys(values, 0.0))
    Comparison(num_queries=4, difference=0.875, p_value=0.125)

    ```
    """
    from scipy import stats

    check_choice("method", method, METHODS)
    if isinstance(num_permutations, bool) or not isinstance(num_permutations, int) or num_permutations < 1:
        raise ValueError(f"`num_permutations` must be a positive integer, got {num_permutations!r}.")
    other = sorted(first.keys() ^ second.keys(), key=str)
    if other:
        raise ValueError(
            f"The runs must have values of the same queries, but {len(other)} are in one only, such as {other[:3]}."
        )
    if len(first) < 2:
        raise ValueError(f"At least two queries are needed, got {len(first)}.")
    try:
        differences = np.array([first[query] - second[query] for query in first], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The runs have values that are no numbers ({error}).") from None
    if not np.isfinite(differences).all():
        raise ValueError("The runs have values that are not finite.")
    if not differences.any():
        return Comparison(len(first), 0.0, 1.0)
    if method == "t":
        p_value = stats.ttest_1samp(differences, 0.0).pvalue if np.ptp(differences) else 0.0
    else:
        p_value = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=num_permutations,
            batch=max(1, PERMUTATIONS_PER_BLOCK // len(first)),
            random_state=np.random.default_rng(seed),
        ).pvalue
    return Comparison(len(first), float(differences.mean()), float(p_value))


__all__ = ["Comparison", "compare_runs"]
