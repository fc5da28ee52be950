"""P-IDS and U-IDS: known cases and a direct scikit-learn computation."""

import numpy as np
import pytest
from sklearn import svm

from migan_jax.evaluation.metrics import ids


def test_separable_sets_give_zero():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 3)) + 20
    fake = rng.standard_normal((200, 3)) - 20
    assert ids.inception_discriminative_scores(real, fake) == (0, 0)


def test_samples_of_one_distribution_give_a_half():
    real, fake = np.random.default_rng(1).standard_normal((2, 20_000, 2))
    scores = ids.inception_discriminative_scores(real, fake)
    np.testing.assert_allclose(scores, 0.5, atol=0.02)


def test_equals_scikit_learn():
    rng = np.random.default_rng(2)
    real = rng.standard_normal((300, 10)).astype(np.float32)
    # Pairs are correlated, and scores far from each other: swapped ones would show.
    fake = (real + 0.5 * rng.standard_normal(real.shape) + 0.15).astype(np.float32)
    machine = svm.LinearSVC(dual=False, C=1)
    both = np.concatenate([real, fake]).astype(np.float64)
    labels = np.array([1] * 300 + [0] * 300)
    machine.fit(both, labels)
    want_u = 1 - machine.score(both, labels)
    want_p = np.mean(machine.decision_function(fake) > machine.decision_function(real))
    got = ids.inception_discriminative_scores(real, fake)
    np.testing.assert_allclose(got.u_ids, want_u, atol=1e-12)
    np.testing.assert_allclose(got.p_ids, want_p, atol=1e-12)
    assert abs(got.p_ids - got.u_ids) > 0.05


def test_fakes_that_equal_their_originals_do_not_win_the_pair():
    real = np.random.default_rng(3).standard_normal((50, 2))
    assert ids.inception_discriminative_scores(real, real).p_ids == 0


def test_too_few_images_for_the_dimension():
    with pytest.raises(ValueError, match='more than 1024 images are needed'):
        ids.check_count(1024, 2048)
    ids.check_count(1025, 2048)


def test_bad_input():
    with pytest.raises(ValueError, match=r'\[4, 2\] and \[3, 2\]'):
        ids.inception_discriminative_scores(np.zeros((4, 2)), np.zeros((3, 2)))
