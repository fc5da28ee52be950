"""One set of weights by every route paints one picture; names, addresses, folders."""

import functools
import hashlib
import io
import os
import sys
import types
import warnings

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

import golden
import loopback
from migan_jax import checkpoint as checkpoint_lib
from migan_jax import inpaint
from migan_jax.model import build
from migan_jax.weights import bundles
from migan_jax.weights import fetching
from migan_jax.weights import hub
from migan_jax.weights import importing
from migan_jax.weights import named
from migan_jax.weights import table
from migan_jax.weights import torch_map
import published_torch

SIDE = 32


@functools.cache
def published(side=SIDE):
    """A published state dict: the golden's, or drawn at the published widths."""
    if side == SIDE:
        return golden.published_state()
    config = importing.deployed_config()
    config.model.resolution = side
    rng = np.random.default_rng(0)
    shapes = torch_map.torch_shapes(
        build.abstract_variables(config, fused=True),
        torch_map.generator_table(side, branches=0, fused=True))
    state = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        # As kernels are: of norm 1 for each output channel.
        state[name] = values if values.ndim < 4 else values / np.sqrt(
            np.square(values).sum((1, 2, 3), keepdims=True))
    return {name: np.asarray(array, np.float32) for name, array in state.items()}


def saved(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def traced(side):
    """TorchScript as other projects trace the published network."""
    module = published_torch.generator(published(side), side)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        return torch.jit.trace(module, torch.zeros(1, 4, side, side),
                               check_trace=False)


ROUTES = {
    'model.pt': lambda side: saved(lambda f: torch.save(
        {k: torch.from_numpy(v.copy()) for k, v in published(side).items()}, f)),
    'traced.pt': lambda side: saved(lambda f: torch.jit.save(traced(side), f)),
    'core.onnx': lambda side: published_torch.core(
        published(side), side).SerializeToString(),
    'pipeline.onnx': lambda side: published_torch.pipeline(
        published(side), side, 'transposed', smooth=True,
        opset=17).SerializeToString(),
    'model.safetensors': lambda side: safetensors.numpy.save(published(side)),
}


@functools.cache
def painter(side, ch_base, ch_max):
    """Compiled once for all routes, which differ in nothing but their weights."""
    config = importing.deployed_config()
    config.model.resolution = side
    config.model.ch_base, config.model.ch_max = ch_base, ch_max
    return build.make_painter(build.build_generator(config, fused=True))


def painted(config, variables):
    """u8 levels of one picture with one hole."""
    side = config.model.resolution
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (side, side, 3), np.uint8)
    known = np.full((side, side), 255, np.uint8)
    known[side // 4:side // 2, side // 8:side // 2] = 0
    assert not config.model.noise_at_4x4 and config.model.depthwise
    paint = painter(side, config.model.ch_base, config.model.ch_max)
    result, = inpaint.inpaint_many(
        lambda x: paint(variables, x, np.uint32(0)), [(image, known)], side,
        inpaint.MODES['resize'])
    np.testing.assert_array_equal(result[known == 255], image[known == 255])
    return result.astype(int)


def check_routes(site, monkeypatch, tmp_path, side):
    """By file, by name from a server, from a folder and from a hub."""
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / 'cache'))
    results = {}
    for name, make in ROUTES.items():
        file = described(site, name, make(side))
        monkeypatch.setitem(table.MODELS, f'by-{name}', table.Model(
            f'by-{name}', 'migan', side, (file,), 'nothing', 'MIT'))
        config, _, variables = checkpoint_lib.load_deployed(f'by-{name}')
        results[name] = painted(config, variables)
    card = bundles.Card(licence='MIT', metrics={'hole_psnr': 1.5})
    folder = bundles.save_bundle(tmp_path / 'saved', config, variables, card)
    loopback.hub(site, 'someone/painter', {
        path.name: path.read_bytes() for path in folder.iterdir()})
    use_hub_on(site, monkeypatch)
    for source in (str(folder), 'hf://someone/painter'):
        config, _, variables = checkpoint_lib.load_deployed(source)
        results[source] = painted(config, variables)
    expected = results.pop('model.pt')
    assert len(results) == 6 and len(np.unique(expected)) > 20
    for name, result in results.items():
        assert np.abs(result - expected).max() <= 1, name


def huggingface_on(site):
    """The package, with the loopback server in place of the hub's address."""
    package = hub._package()

    def snapshot_download(*args, **options):
        return package.snapshot_download(*args, **options | {'endpoint': site.address})
    return types.SimpleNamespace(
        errors=package.errors, snapshot_download=snapshot_download)


def use_hub_on(site, monkeypatch):
    package = huggingface_on(site)
    monkeypatch.setattr(hub, '_package', lambda: package)


def described(site, name, data):
    return site.file(name, data, size=len(data),
                     digest=f'sha256:{hashlib.sha256(data).hexdigest()}')


@pytest.fixture
def site():
    with loopback.serving() as site:
        yield site


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def test_every_route_paints_the_same(site, monkeypatch, tmp_path):
    pytest.importorskip('huggingface_hub')
    check_routes(site, monkeypatch, tmp_path, SIDE)


@pytest.mark.slow
def test_every_route_paints_the_same_at_published_size(site, monkeypatch, tmp_path):
    pytest.importorskip('huggingface_hub')
    check_routes(site, monkeypatch, tmp_path, 512)


# --- names -------------------------------------------------------------------------


def entry(monkeypatch, *files, side=SIDE, kind='migan'):
    monkeypatch.setitem(table.MODELS, 'tried', table.Model(
        'tried', kind, side, files, 'nothing at all', 'MIT', 'A note.'))


def test_a_name_is_fetched_and_converted_once(site, cache, monkeypatch):
    entry(monkeypatch, described(site, 'core.onnx', ROUTES['core.onnx'](SIDE)))
    assert named.state_of(table.MODELS['tried']) == 'not here'
    bundle = named.load('tried')
    assert bundle.card.licence == 'MIT' and 'A note.' in bundle.card.remarks
    assert named.state_of(table.MODELS['tried']) == 'ready'
    # What is kept needs neither the server nor the file nor its reader.
    os.remove(cache / 'core.onnx')
    monkeypatch.setattr(importing, 'convert', None)
    again = named.load('tried')
    jax.tree.map(np.testing.assert_array_equal, bundle.variables, again.variables)
    assert site.asked == ['/core.onnx']
    assert sorted(os.listdir(cache / named.CONVERTED)) == ['tried']


def test_the_next_address_is_tried(site, cache, monkeypatch):
    broken = described(site, 'core.onnx', ROUTES['core.onnx'](SIDE))
    site.routes.clear()
    entry(monkeypatch, broken, described(site, 'model.pt', ROUTES['model.pt'](SIDE)))
    assert 'model.pt' in named.load('tried').card.source


def test_no_address_answers(site, cache, monkeypatch):
    files = [described(site, name, b'x') for name in ('a.onnx', 'b.pt')]
    site.routes.clear()
    entry(monkeypatch, *files)
    with pytest.raises(fetching.FetchError, match='As good: b.pt') as caught:
        named.load('tried')
    assert f'put it into {cache}' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_file_put_there_by_hand_is_used(site, cache, monkeypatch):
    entry(monkeypatch, described(site, 'a.onnx', b'x'),
          described(site, 'model.pt', ROUTES['model.pt'](SIDE)))
    cache.mkdir()
    (cache / 'model.pt').write_bytes(ROUTES['model.pt'](SIDE))
    assert named.load('tried').config.model.resolution == SIDE
    assert site.asked == []


def test_a_file_of_another_size_is_not_this_model(site, cache, monkeypatch):
    entry(monkeypatch, described(site, 'm.pt', ROUTES['model.pt'](SIDE)), side=64)
    with pytest.raises(fetching.WrongFile, match='32 x 32; tried has 64'):
        named.load('tried')


def test_a_cache_that_can_be_read_only(site, monkeypatch):
    data = ROUTES['model.pt'](SIDE)
    entry(monkeypatch, described(site, 'model.pt', data))
    with loopback.read_only_folder({'model.pt': data}) as folder:
        bundle = named.load('tried', folder)
        assert os.listdir(folder) == ['model.pt']
    assert bundle.config.model.resolution == SIDE and site.asked == []


def test_a_damaged_copy_says_what_to_remove(site, cache, monkeypatch):
    entry(monkeypatch, described(site, 'model.pt', ROUTES['model.pt'](SIDE)))
    named.load('tried')
    kept = cache / named.CONVERTED / 'tried'
    (kept / bundles.WEIGHTS).write_bytes(b'')
    with pytest.raises(bundles.BundleError, match=f'Remove {kept}'):
        named.load('tried')


def test_a_folder_of_that_name_goes_before_the_name(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir('places2-512')
    with pytest.raises(checkpoint_lib.CheckpointError, match='no config.json'):
        checkpoint_lib.load_deployed('places2-512')


def test_the_table_is_of_one_form():
    files = [file for model in table.MODELS.values() for file in model.files]
    for file in (*files, *table.NETWORKS):
        kind, _, digits = file.digest.partition(':')
        assert kind in ('sha256', 'md5', '') and bool(kind) == bool(digits)
        assert not set(digits) - set('0123456789abcdef')
        assert bool(file.url) + bool(file.drive) + bool(file.package) == 1
        assert file.url.startswith('https://') or not file.url
    assert list(table.MODELS) == [
        'places2-512', 'places2-256', 'ffhq-256', 'comodgan-places2-512',
        'comodgan-places2-256', 'comodgan-ffhq-256']
    assert all('non-commercial' in table.MODELS[name].note
               for name in table.MODELS if 'ffhq' in name)


# --- addresses on a hub ---------------------------------------------------------------


@pytest.mark.parametrize('text', [
    'hf://name', 'hf://a/b/c', 'hf://a/b@', 'hf://a/../b', 'hf://a/b?x'])
def test_what_is_no_address(text):
    with pytest.raises(hub.HubError, match='expected hf://owner/name'):
        hub.load(text)


def test_a_revision_is_asked_for(site, cache, monkeypatch):
    pytest.importorskip('huggingface_hub')
    use_hub_on(site, monkeypatch)
    with pytest.raises(hub.HubError, match='hf://someone/painter@v2'):
        hub.load('hf://someone/painter@v2')
    assert any(path.endswith('/revision/v2') for path in site.asked)


def test_a_repository_without_a_saved_model(site, cache, monkeypatch):
    pytest.importorskip('huggingface_hub')
    loopback.hub(site, 'someone/else', {'README.md': b'hello'})
    use_hub_on(site, monkeypatch)
    with pytest.raises(hub.HubError, match='holds no model.safetensors'):
        hub.load('hf://someone/else')


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(hub.HubError, match=r"pip install -e '\.\[hub\]'"):
        hub.load('hf://someone/painter')
