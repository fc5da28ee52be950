"""migan_traced.pt behind what IOPaint does before and after the network."""

import json

import numpy as np
import pytest
import torch

import benchmark_exports
import tiny
from migan_jax.export import exporting
from migan_jax.export import models
from migan_jax.model import io as model_io

R = 32
pytestmark = pytest.mark.filterwarnings('ignore:.*torch.jit.*:DeprecationWarning')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """(`Model`, its TorchScript file loaded as IOPaint loads it)."""
    config = tiny.tiny_config(1)
    with config.unlocked():
        config.model.resolution = R
    variables = benchmark_exports.random_variables(config)
    model = models.from_deployed(config, variables, '0')
    path = tmp_path_factory.mktemp('iopaint') / 'migan_traced.pt'
    exporting.export_one('torchscript', model, path, models.Options(), [])
    extra = {'metadata.json': ''}
    loaded = torch.jit.load(path, map_location='cpu', _extra_files=extra).eval()
    assert json.loads(extra['metadata.json'])['mask_polarity'].startswith('1 = known')
    return model, loaded


def as_iopaint(network, image, mask):
    """u8[R, R, 3], u8[R, R] (255 = hole, its polarity) -> u8[R, R, 3].

    Levels above 120 are hole; channels in order of the network's input are known - 0.5
    and the picture without its holes; results are rounded, and pasted where the mask
    is 127 or more.
    """
    picture = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    hole = torch.from_numpy((mask > 120)[None, None].astype(np.float32))
    picture = picture * 2 - 1
    with torch.no_grad():
        output = network(torch.cat([0.5 - hole, picture * (1 - hole)], 1))
    levels = (output[0].permute(1, 2, 0) * 127.5 + 127.5).round().clamp(0, 255)
    painted = levels.to(torch.uint8).numpy()
    return np.where((mask < 127)[..., None], image, painted)


def test_paints_what_the_network_paints(model):
    reference, network = model
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (R, R, 3), np.uint8)
    mask = np.zeros((R, R), np.uint8)
    mask[8:20, 5:25] = 255
    painted = as_iopaint(network, image, mask)
    known = (mask < 127)[..., None].astype(np.float32)
    x = model_io.from_uint8(image)
    y, = reference.generate(model_io.model_input(x, known)[None])
    expected = model_io.to_uint8(model_io.composite(y, x, known))
    assert np.abs(painted.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(painted[mask == 0], image[mask == 0])
    assert np.abs(painted.astype(int) - image)[mask == 255].max() > 1
    # With the other polarity it would paint something else.
    inverted = as_iopaint(network, image, 255 - mask)
    assert np.abs(inverted.astype(int) - expected).max() > 1
