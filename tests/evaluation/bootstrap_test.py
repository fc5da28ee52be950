"""Bootstrap intervals of means."""

import numpy as np
import pytest

from migan_jax.evaluation.metrics.bootstrap import confidence_interval


def test_interval_of_normal_figures():
    values = np.random.default_rng(0).normal(20, 3, 400)
    low, high = confidence_interval(values)
    # The theory's interval of the mean: +- 1.96 standard errors.
    error = 1.96 * values.std(ddof=1) / np.sqrt(400)
    np.testing.assert_allclose(
        [low, high], [values.mean() - error, values.mean() + error], atol=0.05)
    assert confidence_interval(values) == (low, high)
    assert confidence_interval(values, seed=1) != (low, high)


def test_one_value_has_no_spread():
    assert confidence_interval([2.5]) == (2.5, 2.5)


def test_bad_input():
    for values in ([], [1.0, np.nan], [1.0, np.inf]):
        with pytest.raises(ValueError, match='one finite figure per image'):
            confidence_interval(values)
