"""The model that comes with a clone."""

import pathlib

import numpy as np
import pytest

import demo_photos
import migan_jax
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.weights import bundles
from migan_jax.weights import demo
from migan_jax.weights import opening

# What a clone may grow by.
MOST_BYTES = 3_000_000


def test_it_is_small_and_says_what_it_is_made_of():
    files = {path.name: path for path in demo.folder().iterdir()}
    assert set(files) == {bundles.WEIGHTS, bundles.CONFIG, bundles.CARD}
    assert sum(path.stat().st_size for path in files.values()) <= MOST_BYTES
    bundle = bundles.load_bundle(demo.folder())
    assert bundle.half and bundle.config.model.fill
    card = files[bundles.CARD].read_text()
    assert demo_photos.table() in card
    assert '1 (255, white) = known, 0 (black) = hole' in card
    # Every photograph has an author and a licence that is free.
    for photo in demo_photos.PHOTOS:
        assert photo.author and photo.licence.startswith(('CC-BY', 'CC0', 'GPL', 'LGPL'))


def test_it_fills_a_hole_by_its_name():
    model = migan_jax.load('demo')
    side = model.config.model.resolution
    # A ramp: a model that paints at all continues it.
    ramp = np.linspace(40, 200, side).astype(np.uint8)
    picture = np.broadcast_to(ramp[None, :, None], (side, side, 3)).copy()
    mask = np.full((side, side), 255, np.uint8)
    mask[side // 3:side // 2, side // 3:side // 2] = 0
    damaged = np.where(mask[..., None] == 255, picture, 255).astype(np.uint8)
    painted = model.inpaint(damaged, mask)
    np.testing.assert_array_equal(painted[mask == 255], picture[mask == 255])
    error = np.abs(painted.astype(int) - picture)[mask == 0]
    assert error.mean() < 16


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path('demo').mkdir()
    with pytest.raises(checkpoint_lib.CheckpointError, match='config.json'):
        checkpoint_lib.open_checkpoint('demo')
    pathlib.Path('demo').rmdir()
    assert opening.open_bundle('demo').card.name == 'demo'


def test_where_it_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, '__file__', str(tmp_path / 'a' / 'b' / 'demo.py'))
    with pytest.raises(bundles.BundleError, match='models/demo is missing'):
        demo.folder()


def test_a_card_that_lost_its_fill_is_refused(tmp_path):
    for path in demo.folder().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / bundles.CONFIG
    config.write_text(config.read_text().replace('"fill": true', '"fill": false'))
    with pytest.raises(bundles.BundleError, match='do not agree on a starting fill'):
        bundles.load_bundle(tmp_path)
