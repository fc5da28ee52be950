"""Frechet inception distance: statistics of features and the distance of two sets.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium, 2017, equation 6. Everything on the host in float64.
"""

from typing import NamedTuple

import numpy as np


class TooFewSamples(ValueError):
    """Fewer features than a covariance of their dimension needs."""


class Statistics(NamedTuple):
    """Sums over feature vectors, from which mean and covariance follow.

    Attributes:
        count: how many vectors.
        total: f64[D], their sum.
        outer: f64[D, D], the sum of their outer products.
    """

    count: int
    total: np.ndarray
    outer: np.ndarray


def empty(dimension: int) -> Statistics:
    """Statistics of no vectors."""
    return Statistics(0, np.zeros(dimension), np.zeros((dimension, dimension)))


def add(statistics: Statistics, features: np.typing.ArrayLike,
        valid: np.typing.ArrayLike | None = None) -> Statistics:
    """Statistics with a batch added.

    Args:
        statistics: of the vectors before.
        features: f[B, D].
        valid: bool[B], False for padding; everything is valid by default.

    Raises:
        ValueError: another dimension, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1:] != statistics.total.shape:
        raise ValueError(
            f'features: expected [B, {len(statistics.total)}], got '
            f'{list(features.shape)}'
        )
    if valid is not None:
        features = features[np.asarray(valid, bool)]
    if not np.isfinite(features).all():
        raise ValueError('features: not finite; were the images finite?')
    return Statistics(
        statistics.count + len(features),
        statistics.total + features.sum(0),
        statistics.outer + features.T @ features,
    )


def merge(*parts: Statistics) -> Statistics:
    """Statistics of several sets together, such as those of all hosts."""
    return Statistics(
        sum(part.count for part in parts),
        sum(part.total for part in parts),
        sum(part.outer for part in parts),
    )


def pack(statistics: Statistics) -> np.ndarray:
    """Statistics as u32[n], to travel where float64 would be rounded to float32."""
    count, total, outer = statistics
    flat = np.concatenate([np.float64(count)[None], total, outer.ravel()])
    return flat.view(np.uint32)


def unpack(words: np.ndarray) -> Statistics:
    """What `pack` packed."""
    flat = np.ascontiguousarray(words, np.uint32).view(np.float64)
    # flat has 1 + D + D^2 entries.
    dimension = int(np.sqrt(len(flat) - 0.75) - 0.5)
    return Statistics(
        int(flat[0]), flat[1:1 + dimension],
        flat[1 + dimension:].reshape(dimension, dimension),
    )


def check_count(count: int, dimension: int) -> None:
    """Raises TooFewSamples unless `count` vectors have a covariance of full rank."""
    if count <= dimension:
        raise TooFewSamples(
            f'{count} images are too few for FID: the covariance of {dimension} '
            f'features needs more than {dimension} images (10,000 and more are usual)'
        )


def mean_covariance(statistics: Statistics, ddof: int, *,
                    allow_few: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the vectors that were added.

    Args:
        statistics: `Statistics`.
        ddof: the covariance divides by count - ddof.
        allow_few: compute a covariance without full rank too.

    Returns:
        f64[D], f64[D, D].

    Raises:
        TooFewSamples: count <= D (with `allow_few`: count <= ddof).
    """
    count, total, outer = statistics
    check_count(count, ddof if allow_few else len(total))
    mean = total / count
    return mean, (outer - count * np.outer(mean, mean)) / (count - ddof)


def frechet_distance(mean_a: np.typing.ArrayLike, covariance_a: np.typing.ArrayLike,
                     mean_b: np.typing.ArrayLike, covariance_b: np.typing.ArrayLike) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of A B, which are
    those of the symmetric A^(1/2) B A^(1/2): real and, but for rounding, not negative.

    Args:
        mean_a, mean_b: f[D].
        covariance_a, covariance_b: f[D, D], symmetric, A and B above.

    Returns:
        float, at least 0 but for rounding.

    Raises:
        ValueError: shapes that do not fit.
    """
    arrays = [
        np.asarray(x, np.float64)
        for x in (mean_a, covariance_a, mean_b, covariance_b)
    ]
    mean_a, covariance_a, mean_b, covariance_b = arrays
    shapes = [list(x.shape) for x in arrays]
    dimension = shapes[0][0] if shapes[0] else 0
    if shapes != [[dimension], [dimension, dimension]] * 2:
        raise ValueError(
            f'expected [D], [D, D], [D] and [D, D] of one D, got {shapes}')
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ covariance_b @ root)
    root_trace = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    difference = mean_a - mean_b
    return float(
        difference @ difference
        + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace
    )


def fid(real: Statistics | np.typing.ArrayLike, fake: Statistics | np.typing.ArrayLike,
        ddof: int, *, allow_few: bool = False) -> float:
    """FID of two sets of features.

    Args:
        real, fake: `Statistics`, or f[N, D] and f[M, D].
        ddof, allow_few: as in `mean_covariance`.

    Returns:
        float.

    Raises:
        ValueError: dimensions that differ; values that are not finite.
        TooFewSamples: as in `mean_covariance`.
    """
    gaussians = []
    for features in (real, fake):
        if not isinstance(features, Statistics):
            features = add(empty(np.shape(features)[-1]), features)
        gaussians += mean_covariance(features, ddof, allow_few=allow_few)
    return frechet_distance(*gaussians)
