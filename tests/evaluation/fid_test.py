"""FID: the closed form, an independent float64 implementation, streaming, refusals."""

import numpy as np
import pytest
from scipy import linalg

from migan_jax.evaluation.metrics import fid


def covariance(rng, dimension, rank=None):
    """A random covariance with eigenvalues over four decades."""
    factor = rng.standard_normal((dimension, rank or dimension))
    return factor * np.logspace(0, -2, factor.shape[1]) @ factor.T


def reference(real, fake, ddof):
    """The definition with scipy's matrix root."""
    a, b = (np.cov(x.astype(np.float64), rowvar=False, ddof=ddof) for x in (real, fake))
    root = linalg.sqrtm(a @ b)
    distance = np.sum((real.mean(0, np.float64) - fake.mean(0, np.float64)) ** 2)
    return distance + np.trace(a) + np.trace(b) - 2 * np.trace(root).real


def test_gaussians_with_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    a, b = rng.uniform(0.1, 4, (2, 40))
    mean_a, mean_b = rng.standard_normal((2, 40))
    got = fid.frechet_distance(
        mean_a, basis * a @ basis.T, mean_b, basis * b @ basis.T)
    want = np.sum((mean_a - mean_b) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_two_dimensions_without_a_common_basis():
    # tr sqrt(M) of a 2 x 2 matrix is sqrt(tr M + 2 sqrt(det M)).
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    want = np.trace(a) + np.trace(b) - 2 * root + 5
    got = fid.frechet_distance(np.zeros(2), a, np.array([1.0, 2.0]), b)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize('ddof', [0, 1])
def test_features_against_scipy(ddof):
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((2, 48, 48)) / 7
    real = np.maximum(rng.standard_normal((130, 48)) @ mixing[0], 0) + 0.4
    fake = np.maximum(rng.standard_normal((99, 48)) @ mixing[1], 0) + 0.5
    real, fake = real.astype(np.float32), fake.astype(np.float32)
    want = reference(real, fake, ddof)
    np.testing.assert_allclose(fid.fid(real, fake, ddof), want, rtol=1e-6)
    assert abs(fid.fid(real, fake, 1 - ddof) - want) > 1e-5 * want
    assert abs(fid.fid(real, real, ddof)) < 1e-6


def test_eigenvalues_of_the_product_agree():
    rng = np.random.default_rng(2)
    a, b = covariance(rng, 30), covariance(rng, 30)
    want = np.trace(a) + np.trace(b) - 2 * np.sqrt(
        np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    got = fid.frechet_distance(np.zeros(30), a, np.zeros(30), b)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_streaming_in_parts_with_padding_equals_all_at_once():
    rng = np.random.default_rng(3)
    # A large mean beside a small spread: float32 sums would lose the covariance.
    features = (300 + 0.1 * rng.standard_normal((53, 12))).astype(np.float32)
    hosts = []
    for rows in (features[:20], features[20:]):
        statistics = fid.empty(12)
        for start in range(0, len(rows), 8):
            batch = rows[start:start + 8]
            padded = np.concatenate([batch, np.full((8 - len(batch), 12), 7.0)])
            statistics = fid.add(statistics, padded, np.arange(8) < len(batch))
        hosts.append(fid.unpack(fid.pack(statistics)))
    mean, cov = fid.mean_covariance(fid.merge(*hosts), ddof=1)
    np.testing.assert_allclose(mean, features.mean(0, np.float64), rtol=1e-12)
    want = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(cov, want, atol=1e-9)


def test_packing_keeps_every_bit():
    rng = np.random.default_rng(4)
    statistics = fid.add(fid.empty(5), rng.standard_normal((9, 5)) / 3)
    packed = fid.pack(statistics)
    assert packed.dtype == np.uint32
    for got, want in zip(fid.unpack(packed), statistics):
        np.testing.assert_array_equal(got, want)


def test_too_few_images_is_refused_unless_allowed():
    features = np.random.default_rng(5).standard_normal((16, 16))
    with pytest.raises(fid.TooFewSamples, match='16 images are too few.*than 16'):
        fid.fid(features, features + 1, 1)
    got = fid.fid(features, features + 1, 1, allow_few=True)
    np.testing.assert_allclose(got, 16, rtol=1e-5)
    with pytest.raises(fid.TooFewSamples, match='^1 images'):
        fid.fid(features[:1], features, 1, allow_few=True)


def test_bad_input():
    statistics = fid.empty(4)
    with pytest.raises(ValueError, match=r'expected \[B, 4\], got \[2, 5\]'):
        fid.add(statistics, np.zeros((2, 5)))
    with pytest.raises(ValueError, match='not finite'):
        fid.add(statistics, np.full((2, 4), np.nan))
    # Padding may hold anything.
    assert fid.add(statistics, np.full((2, 4), np.nan), [False, False]).count == 0
    with pytest.raises(ValueError, match=r'\[4\], \[3, 3\]'):
        fid.frechet_distance(np.zeros(4), np.eye(3), np.zeros(4), np.eye(4))
