"""Networks within evaluation: FID over devices and hosts, LPIPS, protocols."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from lpips_test import random_tensors
from migan_jax.data import batches as batches_lib
from migan_jax.data import sources
from migan_jax.devices import replicate
from migan_jax.evaluation.metrics import fid
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation.metrics import lpips
from migan_jax.evaluation import figures
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import step as evaluation_step
from migan_jax.model import io as model_io

R, COUNT = 32, 11   # divisible by no number of devices


class Flat:
    """A generator that paints one level: no network to compile."""

    def latents(self, keys):
        return None

    def apply(self, variables, x, noise_mode, z):
        return jnp.broadcast_to(variables['params']['level'], (*x.shape[:3], 3)), {}


@pytest.fixture
def small_inception(monkeypatch):
    """Six features instead of 2048: the means of colours and of their squares."""
    def features(params, images, protocol):
        del params
        x = images.astype(jnp.float32) * (1 / 255 if protocol.quantized else 1)
        return jnp.concatenate([x.mean((1, 2)), (x * x).mean((1, 2))], 1)

    monkeypatch.setattr(inception, 'features', features)
    monkeypatch.setattr(inception, 'FEATURES', 6)
    return {'unused': np.zeros(1, np.float32)}


@pytest.mark.parametrize('protocol', [inception.PAPER, inception.STYLEGAN])
def test_evaluation_has_fid_and_lpips_on_any_number_of_devices(
        tmp_path, monkeypatch, small_inception, protocol):
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = rng.integers(0, 60 + 17 * i, (R, R, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{i:02d}.png')
    source = sources.open_source('folder', path=str(tmp_path))
    networks = networks_lib.Networks(small_inception, lpips.from_tensors(*random_tensors()))
    results, seen = {}, []
    once = fid.add
    monkeypatch.setattr(fid, 'add', lambda s, rows, valid: (
        seen.append(rows[np.asarray(valid)]) or once(s, rows, valid)))
    for devices, batch in ((8, 8), (1, 4))[:2 if protocol is inception.PAPER else 1]:
        monkeypatch.setattr(jax, 'local_device_count', lambda n=devices: n)
        monkeypatch.setattr(jax, 'local_devices', lambda n=devices: jax.devices()[:n])
        params = replicate(
            {'level': jnp.float32(0.3)}, jax.devices()[:devices])
        evaluation = evaluation_step.make_evaluation(
            Flat(), seed=3, hole_range=(0.1, 0.9), brush_width=(2, 5),
            networks=networks, protocol=protocol)
        seen.clear()
        results[devices] = dict(evaluation_step.evaluate(
            evaluation, params, {},
            batches_lib.eval_batches(source, resolution=R, batch_size=batch)))
        real, fake = np.concatenate(seen[::2]), np.concatenate(seen[1::2])
        assert real.shape == fake.shape == (COUNT, 6)   # no padding
        np.testing.assert_allclose(
            results[devices]['fid'], reference(real, fake, protocol.ddof), rtol=1e-4)
        assert 0.001 < results[devices]['lpips'] < 10
    assert list(results[8])[-1] == 'images' and results[8]['images'] == COUNT
    for name, value in results[devices].items():
        np.testing.assert_allclose(results[8][name], value, rtol=1e-5, err_msg=name)


def reference(real, fake, ddof):
    """FID by the eigenvalues of the plain product."""
    a, b = (np.cov(x.astype(np.float64), rowvar=False, ddof=ddof) for x in (real, fake))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    mean = (real.astype(np.float64).mean(0) - fake.astype(np.float64).mean(0))
    return mean @ mean + np.trace(a) + np.trace(b) - 2 * roots


def test_what_a_protocol_measures():
    image = jnp.asarray([-1.2, -1.0, 0.1003, 0.5, 1.3], jnp.float32).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(networks_lib.as_judged(image, inception.PAPER), image)
    judged = networks_lib.as_judged(image, inception.STYLEGAN)
    levels = np.floor(np.clip(np.asarray(image) * 127.5 + 128, 0, 255))
    np.testing.assert_allclose(judged, levels / 127.5 - 1, atol=1e-6)
    # Rounding once more changes nothing, so originals pass through unchanged.
    every = model_io.from_uint8(np.arange(256, dtype=np.uint8))
    np.testing.assert_array_equal(networks_lib.as_judged(every, inception.STYLEGAN), every)


def test_inception_sees_what_the_protocol_says(monkeypatch):
    monkeypatch.setattr(inception, 'features', lambda params, x, protocol: x)
    image = jnp.asarray([-1.5, 0.0, 1.5], jnp.float32).reshape(1, 1, 1, 3)
    networks = networks_lib.Networks(inception={})
    paper = networks_lib.features(networks, inception.PAPER, image)
    assert paper.dtype == jnp.float32
    np.testing.assert_array_equal(paper.ravel(), [0, 0.5, 1])
    levels = networks_lib.features(networks, inception.STYLEGAN, image)
    assert levels.dtype == jnp.uint8
    np.testing.assert_array_equal(levels.ravel(), [0, 128, 255])


def test_lpips_is_left_out_without_network_or_pixels():
    image = jnp.zeros((1, 40, 40, 3))
    mask = image[..., :1]
    assert 'lpips' not in figures.measure(networks_lib.Networks(), image, image, mask)
    networks = networks_lib.Networks(lpips=lpips.from_tensors(*random_tensors()))
    assert 'lpips' not in figures.measure(
        networks, image[:, :30], image[:, :30], mask[:, :30])
    measured = figures.measure(networks, image, image, mask)
    np.testing.assert_array_equal(measured['lpips'], [0])


def test_statistics_of_hosts_are_merged_in_full_precision(monkeypatch):
    rng = np.random.default_rng(0)
    features = 300 + rng.standard_normal((2, 20, 4))
    parts = [fid.add(fid.empty(4), rows) for rows in features]
    assert networks_lib.over_hosts(parts[0]) is parts[0]
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    # As jax would return it: 32-bit words, a leading axis of hosts.
    monkeypatch.setattr(
        networks_lib.multihost_utils, 'process_allgather', lambda words: np.stack([
            np.asarray(jnp.asarray(words)), fid.pack(parts[1])]))
    merged = networks_lib.over_hosts(parts[0])
    assert merged.count == 40
    np.testing.assert_array_equal(merged.outer, parts[0].outer + parts[1].outer)
