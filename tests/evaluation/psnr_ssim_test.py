"""psnr, hole_psnr and ssim against reference arrays, plain numpy and known cases."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from migan_jax.evaluation.metrics.psnr import hole_psnr
from migan_jax.evaluation.metrics.psnr import psnr
from migan_jax.evaluation.metrics.ssim import ssim

GOLDEN = pathlib.Path(__file__).parents[1] / 'goldens' / 'psnr_ssim.npz'


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as arrays:
        images = [arrays[f'in/{k}'].transpose(0, 2, 3, 1) for k in 'ab']
        return *images, arrays['out/psnr'], arrays['out/ssim']


def test_golden(golden):
    a, b, want_psnr, want_ssim = golden
    np.testing.assert_allclose(jax.jit(psnr)(a, b), want_psnr, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(ssim)(a, b), want_ssim, rtol=1e-5)


def test_results_are_float32_for_every_float_type(golden):
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in golden[:2])
    mask = jnp.zeros((*a.shape[:3], 1), jnp.bfloat16)
    for value in (psnr(a, b), ssim(a, b), hole_psnr(a, b, mask)):
        assert value.dtype == jnp.float32 and value.shape == (3,)


def numpy_ssim(a, b):
    """The definition, written with scipy in float64."""

    def mean(x):
        return ndimage.gaussian_filter(
            x, 1.5, mode='constant', radius=5, axes=(0, 1)
        )

    a, b = a.astype(np.float64), b.astype(np.float64)
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 1e-4, 9e-4
    top = (2 * ma * mb + c1) * (2 * cov + c2)
    return np.mean(top / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


@pytest.mark.parametrize('brightness', [1, 0.03])  # dark: the constants matter
def test_numpy_formulae(brightness):
    rng = np.random.default_rng(0)
    # Smooth, so that covariances carry weight; oblong, so that a swapped axis shows.
    a = ndimage.gaussian_filter(rng.random((2, 33, 21, 3)), (0, 2, 1, 0))
    a = (brightness * a).astype(np.float32)
    noise = 0.1 * brightness * rng.standard_normal(a.shape)
    b = np.clip(a + noise, 0, 1).astype(np.float32)
    want = [numpy_ssim(x, y) for x, y in zip(a, b)]
    np.testing.assert_allclose(ssim(a, b), want, rtol=1e-5)
    error = np.mean((a - b) ** 2, axis=(1, 2, 3), dtype=np.float64)
    want = 10 * np.log10(1 / error)
    np.testing.assert_allclose(psnr(a, b), want, rtol=1e-5)


def test_identical_images():
    a = np.random.default_rng(1).random((2, 16, 12, 3), dtype=np.float32)
    assert np.isposinf(psnr(a, a)).all()
    np.testing.assert_array_equal(ssim(a, a), 1)
    assert np.isposinf(hole_psnr(a, a, np.zeros((2, 16, 12, 1), np.float32))).all()


def test_constant_difference():
    a = np.full((1, 40, 40, 3), 0.5, np.float32)
    b = np.full((1, 40, 40, 3), 0.6, np.float32)
    np.testing.assert_allclose(psnr(a, b), [20], rtol=1e-5)
    np.testing.assert_allclose(psnr(np.zeros_like(a), np.ones_like(a)), [0], atol=1e-6)
    # Zeros beyond the border give constant images a variance there, so only the
    # middle has the closed form; a far larger image is nearly all middle.
    a = np.full((1, 600, 600, 1), 0.5, np.float32)
    b = np.full((1, 600, 600, 1), 0.6, np.float32)
    closed = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)
    np.testing.assert_allclose(ssim(a, b), [closed], atol=2e-3)


def test_one_image_does_not_touch_another():
    a, b = np.random.default_rng(2).random((2, 3, 16, 16, 3), dtype=np.float32)
    for metric in (psnr, ssim):
        together = metric(a, b)
        alone = [metric(a[i:i + 1], b[i:i + 1])[0] for i in range(3)]
        np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_hole_psnr_counts_the_hole_only():
    a = np.full((3, 8, 8, 3), 0.5, np.float32)
    b = a.copy()
    mask = np.ones((3, 8, 8, 1), np.float32)
    mask[:2, 2:4, 2:6] = 0
    b[0, 2:4, 2:6] += 0.1
    b[1] += 0.1  # everywhere: the known part must not matter
    b[2] += 0.1  # no hole at all
    value = np.asarray(jax.jit(hole_psnr)(a, b, mask))
    np.testing.assert_allclose(value[:2], 20, rtol=1e-5)
    assert np.isnan(value[2])
    np.testing.assert_allclose(np.nanmean(value), 20, rtol=1e-5)


def test_hole_psnr_of_an_all_hole_mask_is_psnr():
    a, b = np.random.default_rng(3).random((2, 2, 9, 7, 3), dtype=np.float32)
    mask = np.zeros((2, 9, 7, 1), np.float32)
    np.testing.assert_allclose(hole_psnr(a, b, mask), psnr(a, b), rtol=1e-6)


def test_bad_input():
    a = np.zeros((1, 8, 8, 3), np.float32)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r'\[1, 8, 8, 3\] and \[1, 8, 4, 3\]'):
            metric(a, a[:, :, :4])
        with pytest.raises(ValueError, match='divide u8 by 255'):
            metric(a.astype(np.uint8), a)
    with pytest.raises(ValueError, match=r'mask: expected shape \[1, 8, 8, 1\]'):
        hole_psnr(a, a, a)
