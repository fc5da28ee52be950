"""Confidence intervals of means over images, by resampling the images."""

import numpy as np


def confidence_interval(values: np.typing.ArrayLike, *, resamples: int = 1000,
                        seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean (Efron, 1979).

    Args:
        values: f[N], one figure per image, finite, N >= 1.
        resamples: how many sets of N images are drawn with replacement.
        seed: of the draws.

    Returns:
        (low, high), floats.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f'expected one finite figure per image, got {values.size} values, '
            f'{np.count_nonzero(~np.isfinite(values))} of them not finite'
        )
    rng = np.random.default_rng(seed)
    means = [
        values[rng.integers(0, values.size, values.size)].mean()
        for _ in range(resamples)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
