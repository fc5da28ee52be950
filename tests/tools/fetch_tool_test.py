"""tools/fetch.py and tools/push.py, against servers on loopback."""

import base64
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

import fetch
import loopback
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.weights import bundles
from migan_jax.weights import demo
from migan_jax.weights import fetching
from migan_jax.weights import named
from migan_jax.weights import table
import push
import tiny

TOOLS = pathlib.Path(__file__).parents[2] / 'tools'

GIVEN = {'data': 'photographs', 'licence': 'MIT'}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A checkpoint directory of the smallest model."""
    directory = tmp_path_factory.mktemp('model') / 'checkpoint'
    config = tiny.tiny_config(1)
    checkpoint_lib.save_deployed(directory, config, tiny.random_deployed(config))
    return str(directory)


def test_list_says_name_size_licence_source_and_whether_it_is_here(tmp_path):
    text = '\n'.join(fetch.listing(str(tmp_path)))
    for part in ('places2-512: not here; 28 MB; licence MIT; trained on Places2',
                 'https://huggingface.co/andraniksargsyan/migan/resolve/',
                 'non-commercial', 'migan_256_ffhq.pt (no published hash)',
                 'alexnet-owt-7be5be79.pth'):
        assert part in text
    (tmp_path / 'migan_traced.pt').write_bytes(b'x')
    assert 'places2-512: fetched' in fetch.listing(str(tmp_path))[0]


def test_a_name_becomes_ready(tmp_path, checkpoint, monkeypatch):
    folder = tmp_path / 'saved'
    config, _, variables = checkpoint_lib.load_deployed(checkpoint)
    config.model.noise_at_4x4 = True
    bundles.save_bundle(folder, config, variables)
    data = (folder / bundles.WEIGHTS).read_bytes()
    with loopback.serving() as site:
        file = site.file('small.safetensors', data, size=len(data))
        monkeypatch.setitem(table.MODELS, 'small', table.Model(
            'small', 'migan', 16, (file,), 'nothing', 'MIT'))
        cache = str(tmp_path / 'cache')
        with pytest.raises(fetching.Unconfirmed):
            fetch.fetch('small', cache)
        digest = hashlib.sha256(data).hexdigest()
        fetching.confirm(fetch.file_called('small.safetensors'), digest, cache)
        line, = fetch.fetch('small', cache)
        assert line.startswith('small is ready: 16 x 16') and 'licence MIT' in line
        assert named.state_of(table.MODELS['small'], cache) == 'ready'
        assert site.asked == ['/small.safetensors']
    with pytest.raises(ValueError, match='no file of the table'):
        fetch.file_called('other.pt')


def uploaded(checkpoint, given, **options):
    """{name: bytes} of what a hub gets."""
    pytest.importorskip('huggingface_hub')
    with loopback.serving() as site:
        loopback.taking_hub(site, 'someone/painter')
        said = push.run(checkpoint, 'hf://someone/painter', given,
                        endpoint=site.address, token='hf_none', **options)
        assert said.endswith('/someone/painter/commit/1')
    lines = [json.loads(line) for line in site.sent[-1].splitlines()]
    return {line['value']['path']: base64.b64decode(line['value']['content'])
            for line in lines if line['key'] == 'file'}


def test_a_checkpoint_is_uploaded_with_its_card(checkpoint):
    files = uploaded(checkpoint, GIVEN, half=True)
    assert set(files) == {bundles.WEIGHTS, bundles.CONFIG, bundles.CARD}
    assert b'photographs' in files[bundles.CARD]
    assert json.loads(files[bundles.CONFIG])['card']['licence'] == 'MIT'


def test_a_model_that_has_a_card_keeps_it():
    """By its name, too: the clone's model goes nowhere without its photographers."""
    own = bundles.load_bundle(demo.folder())
    files = uploaded('demo', {})
    again = json.loads(files[bundles.CONFIG])['card']
    assert again == own.card._asdict() | {'name': 'painter'}
    assert b'Risto Saukonp' in files[bundles.CARD]
    assert len(files[bundles.WEIGHTS]) < 700_000   # float16, as it was
    # What is given is what the card says, also of a folder.
    files = uploaded(str(demo.folder()), {'remarks': 'Mine.'})
    assert b'Mine.' in files[bundles.CARD] and b'Risto' not in files[bundles.CARD]
    assert b'38 photographs' in files[bundles.CARD]
    files = uploaded(str(demo.folder()), {})
    assert files == {path.name: path.read_bytes() for path in demo.folder().iterdir()}


def test_the_program_prints_no_requests():
    pytest.importorskip('huggingface_hub')
    with loopback.serving() as site:
        loopback.taking_hub(site, 'someone/painter')
        done = subprocess.run(
            [sys.executable, TOOLS / 'push.py', '--checkpoint=demo',
             '--to=hf://someone/painter'], capture_output=True, text=True,
            env=os.environ | {'HF_ENDPOINT': site.address, 'HF_TOKEN': 'hf_none'})
        assert done.stdout == ('model: demo, iteration 10000\n'
                               f'{site.address}/someone/painter/commit/1\n')
    assert (done.returncode, done.stderr) == (0, '')


def test_what_is_not_uploaded(checkpoint, tmp_path):
    with loopback.serving() as site:
        options = {'endpoint': site.address, 'token': 'hf_none'}
        with pytest.raises(ValueError, match='expected hf://owner/name'):
            push.run(checkpoint, 'someone/painter', GIVEN, **options)
        with pytest.raises(checkpoint_lib.CheckpointError, match='no config.json'):
            push.run(str(tmp_path), 'hf://someone/painter', GIVEN, **options)
        assert site.asked == []
        with pytest.raises(ValueError, match='hf://someone/painter: '):
            push.run(checkpoint, 'hf://someone/painter', GIVEN, **options)
