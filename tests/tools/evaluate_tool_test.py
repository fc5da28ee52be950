"""tools/evaluate.py on pictures, ONNX and TorchScript; parts, tables, refusals."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import onnx
from onnx import helper
from PIL import Image
import pytest
import torch

import migan_jax
from migan_jax.evaluation import classical
from migan_jax.evaluation import figures
from migan_jax.evaluation import methods
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import painters
from migan_jax.evaluation import published
from migan_jax.evaluation import report
import evaluate as tool
import save_demo

TOOLS = pathlib.Path(__file__).parents[2] / 'tools'

R, COUNT = 32, 5


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Folders images, masks and painted, and the arrays in them."""
    folder = tmp_path_factory.mktemp('sets')
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(COUNT):
        image, painted = rng.integers(0, 256, (2, R, R, 3), np.uint8)
        mask = np.full((R, R), 255, np.uint8)
        mask[4:20, 2:10 + 4 * i] = 0
        # A dot in a name must not cost a part of it; folders belong to names.
        stem = ('sub/' if i % 2 else '') + f'pic.{i}'
        save(folder / 'images' / f'{stem}.png', image)
        save(folder / 'masks' / f'{stem}.png', mask)
        save(folder / 'painted' / f'{stem}.png', painted)
        arrays[stem] = image, mask, painted
    return folder, arrays


def run(sets, out, checkpoint='', limit=None, images=None, seed=None, **options):
    folder, _ = sets
    images = str(folder / 'images') if images is None else images
    return tool.run(checkpoint, images, str(out), seed, limit, tool.Options(**options))


def folders(sets):
    folder, _ = sets
    return {'predictions': str(folder / 'painted'), 'masks': str(folder / 'masks')}


def report_of(out):
    with open(f'{out}.json') as f:
        return json.load(f)


def test_predictions_are_composited_and_measured(sets, tmp_path):
    out = tmp_path / 'result'
    summary = run(sets, out, **folders(sets))
    _, arrays = sets
    want = []
    for image, mask, painted in arrays.values():
        composite = np.where(mask[..., None] == 255, image, painted)
        error = (composite.astype(np.float64) - image) / 255
        want.append(-10 * np.log10(np.mean(error**2)))
    assert summary['images'] == COUNT
    np.testing.assert_allclose(summary['psnr'], np.mean(want), rtol=1e-5)
    report = report_of(out)
    rows = [row['masks']['psnr'] for row in report['images'].values()]
    np.testing.assert_allclose(rows, [want[list(arrays).index(
        os.path.splitext(name)[0])] for name in report['images']], rtol=1e-5)
    low, high = report['ranges'][0]['psnr']['interval']
    assert low < summary['psnr'] < high
    # What can't be computed is left out, and said.
    assert set(report['left_out']) == {'fid', 'p_ids', 'u_ids', 'lpips'}
    text = pathlib.Path(f'{out}.md').read_text()
    assert '5 images are too few for FID: the covariance of 2048 features' in text
    assert 'alexnet-owt-7be5be79.pth' in text and 'Protocol paper, 32 x 32' in text
    assert f'Of painted, predictions {sets[0] / "painted"}, on {sets[0]}' in text
    with Image.open(f'{out}.png') as grid:
        assert grid.size == (5 * R, COUNT * R)


def test_classical_methods_stand_beside_the_mean_colour(sets, tmp_path, monkeypatch):
    pytest.importorskip('cv2')
    out = tmp_path / 'result'
    summary = run(sets, out, **folders(sets))
    for name, paint in classical.METHODS.items():
        want = []
        for image, mask, _ in sets[1].values():
            error = (paint(image, mask).astype(float) - image)[mask == 0] / 255
            want.append(-10 * np.log10(np.mean(error**2)))
        assert summary[f'{name}_hole_psnr'] == pytest.approx(np.mean(want), rel=1e-5)
    text = pathlib.Path(f'{out}.md').read_text()
    assert '| hole PSNR, dB: Telea (OpenCV) |' in text and 'Navier-Stokes' in text
    said = tool.gains(summary)
    assert said.count(' dB') == 3 and 'mean known colour -' in said, said
    # Thousands of images only when asked for.
    monkeypatch.setattr(classical, 'MOST', COUNT - 1)
    few = run(sets, tmp_path / 'few', **folders(sets))
    assert 'telea_hole_psnr' not in few and 'hole_psnr' in few
    assert 'more than 4' in pathlib.Path(f'{tmp_path}/few.md').read_text()
    named = run(sets, tmp_path / 'named', metrics=('telea_hole_psnr',), **folders(sets))
    assert named['telea_hole_psnr'] == summary['telea_hole_psnr']
    # Without OpenCV: which extra brings it.
    monkeypatch.setattr(classical.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'migan_jax\[classical\]'):
        run(sets, tmp_path / 'none', metrics=('telea_hole_psnr',), **folders(sets))


def test_saved_predictions_are_the_composites(sets, tmp_path):
    saved = tmp_path / 'saved'
    summary = run(sets, tmp_path / 'first', **folders(sets), save_predictions=str(saved))
    _, arrays = sets
    for stem, (image, mask, painted) in arrays.items():
        with Image.open(saved / f'{stem}.png') as picture:
            np.testing.assert_array_equal(
                picture, np.where(mask[..., None] == 255, image, painted))
    again = run(sets, tmp_path / 'second', masks=folders(sets)['masks'],
                predictions=str(saved))
    assert again == summary


def test_saved_predictions_need_none_of_a_damaged_picture(sets, tmp_path):
    """As documented: --save_predictions of one method are --predictions of the other."""
    images, saved, masks = (tmp_path / name for name in ('photos', 'saved', 'masks'))
    shutil.copytree(sets[0] / 'images', images)
    (images / 'damaged.jpg').write_bytes(b'not a picture')
    line = [f'--images={images}', '--resolution=128']
    model = ['--checkpoint=demo', f'--save_predictions={saved}', f'--save_masks={masks}']
    painted = [f'--predictions={saved}', f'--masks={masks}']

    def means(name, method):
        done = subprocess.run(
            [sys.executable, TOOLS / 'evaluate.py', *line, *method, '--json',
             f'--out={tmp_path / name}'], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert list(report_of(tmp_path / name)['unreadable']) == ['damaged.jpg']
        return json.loads(done.stdout)

    first = means('first', model)
    # Neither a picture nor a mask of what could not be read.
    for folder in (saved, masks):
        assert {path.relative_to(folder).with_suffix('').as_posix()
                for path in folder.rglob('*.png')} == set(sets[1])
    again = means('again', painted)
    assert first['images'] == again['images'] == COUNT
    # Saved pictures have 8 bits.
    assert again['psnr'] == pytest.approx(first['psnr'], abs=0.02)
    # Of a picture that opens, one is needed still.
    for folder, what in ((masks, 'mask'), (saved, 'prediction')):
        (folder / 'pic.2.png').rename(tmp_path / f'{what}.png')
        with pytest.raises(ValueError, match=f'no {what} for 2 of 6 images: .*pic.2;'):
            run(sets, tmp_path / 'o', images=str(images), predictions=str(saved),
                masks=str(masks))
        (tmp_path / f'{what}.png').rename(folder / 'pic.2.png')
    (images / 'damaged.jpg').unlink()
    (masks / 'pic.2.png').unlink()
    with pytest.raises(ValueError, match='no mask for 1 of 5 images: pic.2;'):
        run(sets, tmp_path / 'o', images=str(images), predictions=str(saved),
            masks=str(masks))


def test_only_what_changed_is_painted_again(sets, tmp_path, monkeypatch):
    out = tmp_path / 'result'
    first = run(sets, out, **folders(sets))
    measured = []
    once = methods._measure_batch
    monkeypatch.setattr(
        methods, '_measure_batch', lambda scorer, painter, stems, *rest: (
            measured.extend(stems) or once(scorer, painter, stems, *rest)))
    assert run(sets, out, **folders(sets)) == first
    assert measured == []
    # A damaged part is computed again.
    (part,) = pathlib.Path(f'{out}.parts').iterdir()
    part.write_bytes(part.read_bytes()[:100])
    assert run(sets, out, **folders(sets)) == first
    assert len([s for s in measured if s]) == COUNT
    # So is everything that another prediction, protocol or mask changes.
    painted = tmp_path / 'painted'
    for stem, (image, _, _) in sets[1].items():
        save(painted / f'{stem}.png', 255 - image)
    other = run(sets, out, masks=folders(sets)['masks'], predictions=str(painted))
    assert other['psnr'] != first['psnr'] and len(measured) > COUNT


def test_interrupted_run_goes_on_where_it_was(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, 'PART', 8)
    monkeypatch.setattr(tool, '_BATCH', 8)
    folder = tmp_path / 'many'
    rng = np.random.default_rng(1)
    for i in range(20):   # three parts
        for kind in ('images', 'painted'):
            pixels = rng.integers(0, 256, (R, R, 3), np.uint8)
            save(folder / kind / f'{i:02d}.png', pixels)
    options = tool.Options(
        predictions=str(folder / 'painted'), hole_ranges=((0.1, 0.9),),
        brush_width=(2, 6))
    arguments = '', str(folder / 'images'), str(tmp_path / 'out'), 3, None, options
    once, done = methods._measure_batch, []

    def breaks(scorer, painter, stems, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(stems)
        return once(scorer, painter, stems, *rest)

    monkeypatch.setattr(methods, '_measure_batch', breaks)
    with pytest.raises(KeyboardInterrupt):
        tool.run(*arguments)
    assert len(list((tmp_path / 'out.parts').iterdir())) == 2
    done[:] = [None]
    resumed = tool.run(*arguments)
    assert len(done) == 2 and done[1][0] == '16'
    monkeypatch.setattr(methods, '_measure_batch', once)
    fresh = tool.run(*arguments[:5], options._replace(parts=str(tmp_path / 'other')))
    assert resumed == fresh and fresh['images'] == 20


def test_masks_by_range_are_saved_and_give_the_same_again(sets, tmp_path):
    ranges = ((0.0, 0.2), (0.6, 0.8))
    stems = list(sets[1])
    painted = tmp_path / 'painted'
    for stem, (_, _, pixels) in sets[1].items():
        for label in ('0-0.2', '0.6-0.8'):
            save(painted / label / f'{stem}.png', pixels)
    options = dict(predictions=str(painted), hole_ranges=ranges, brush_width=(2, 6))
    saved = tmp_path / 'masks'
    first = run(sets, tmp_path / 'a', save_masks=str(saved), seed=7, **options)
    rows = report_of(tmp_path / 'a')['ranges']
    for row, (low, high), label in zip(rows, ranges, ('0-0.2', '0.6-0.8')):
        assert row['hole_range'] == [low, high]
        assert low < row['hole_share']['mean'] < high
        shares = []
        for stem in stems:
            with Image.open(saved / label / f'{stem}.png') as mask:
                levels = np.asarray(mask)
            assert set(np.unique(levels)) <= {0, 255} and levels.shape == (R, R)
            shares.append(np.mean(levels == 0))   # black is hole
            assert low < shares[-1] < high
        share = row['hole_share']['mean']
        np.testing.assert_allclose(share, np.mean(shares), rtol=1e-5)
    again = run(sets, tmp_path / 'b', masks=str(saved), **options)
    assert again == pytest.approx(first, rel=1e-6)
    other = run(sets, tmp_path / 'c', seed=8, **options)
    assert other['psnr'] != first['psnr']


def onnx_core(path, side, batch=1):
    """A core model that paints 2 * mask channel: 1 where known, -1 in holes."""
    graph = helper.make_graph(
        [helper.make_node('Slice', ['input', 'zero', 'one', 'axis'], ['m']),
         helper.make_node('Mul', ['m', 'two'], ['m2']),
         helper.make_node('Concat', ['m2', 'm2', 'm2'], ['output'], axis=1)],
        'core',
        [helper.make_tensor_value_info('input', 1, [batch, 4, side, side])],
        [helper.make_tensor_value_info('output', 1, [batch, 3, side, side])],
        [helper.make_tensor(name, 7, [1], [value])
         for name, value in (('zero', 0), ('one', 1), ('axis', 1))]
        + [helper.make_tensor('two', 1, [], [2.0])])
    _save_onnx(graph, path)


def onnx_pipeline(path):
    """A pipeline model that paints the mask's levels: white where known."""
    shape = lambda channels: [1, channels, 'h', 'w']
    graph = helper.make_graph(
        [helper.make_node('Concat', ['mask', 'mask', 'mask'], ['painted'], axis=1),
         helper.make_node('Sub', ['image', 'image'], ['nothing']),
         helper.make_node('Add', ['painted', 'nothing'], ['result'])],
        'pipeline',
        [helper.make_tensor_value_info('image', 2, shape(3)),
         helper.make_tensor_value_info('mask', 2, shape(1))],
        [helper.make_tensor_value_info('result', 2, shape(3))])
    _save_onnx(graph, path)


def _save_onnx(graph, path):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 8
    onnx.save(model, str(path))


class Core(torch.nn.Module):
    """As `onnx_core`."""

    def forward(self, x):
        return (2 * x[:, :1]).expand(-1, 3, -1, -1)


class Lama(torch.nn.Module):
    """Mask 1 = hole, [0, 1]: paints 0 in holes and 1 where known."""

    def forward(self, image, mask):
        return torch.ones_like(image) - mask + 0 * image


def test_models_of_every_contract_see_the_mask_the_right_way(sets, tmp_path):
    black = tmp_path / 'black'
    for stem in sets[1]:
        save(black / f'{stem}.png', np.zeros((R, R, 3), np.uint8))
    masks = folders(sets)['masks']
    want = run(sets, tmp_path / 'want', predictions=str(black), masks=masks)
    onnx_core(tmp_path / 'core.onnx', R)
    onnx_core(tmp_path / 'any.onnx', 'r', 'n')
    onnx_pipeline(tmp_path / 'pipeline.onnx')
    torch.jit.script(Core()).save(str(tmp_path / 'core.pt'))
    torch.jit.script(Lama()).save(str(tmp_path / 'lama.pt'))
    for options in (
            {'onnx': 'core.onnx'}, {'onnx': 'any.onnx', 'resolution': R},
            {'onnx': 'pipeline.onnx', 'resolution': R},
            {'torchscript': 'core.pt', 'contract': 'iopaint_migan', 'resolution': R},
            {'torchscript': 'lama.pt', 'contract': 'iopaint_lama', 'resolution': R}):
        paths = {k: str(tmp_path / v) if k in ('onnx', 'torchscript') else v
                 for k, v in options.items()}
        got = run(sets, tmp_path / 'got', masks=masks, **paths)
        assert got == pytest.approx(want, rel=1e-5), options
        assert len(report_of(tmp_path / 'got')['method']['sha256']) == 64


def test_models_that_do_not_fit(sets, tmp_path):
    onnx_core(tmp_path / 'core.onnx', R)
    onnx_core(tmp_path / 'any.onnx', 'r')
    core, opened = str(tmp_path / 'core.onnx'), str(tmp_path / 'any.onnx')
    with pytest.raises(ValueError, match='takes 32 x 32 pixels, but --resolution'):
        painters.from_onnx(core, 64)
    with pytest.raises(ValueError, match='takes any size: name one with --resolution'):
        painters.from_onnx(opened)
    (tmp_path / 'bad.onnx').write_bytes(b'no model')
    with pytest.raises(ValueError, match='bad.onnx: not an ONNX model'):
        painters.from_onnx(str(tmp_path / 'bad.onnx'))
    with pytest.raises(ValueError, match='bad.onnx: not a TorchScript file'):
        painters.from_torchscript(str(tmp_path / 'bad.onnx'), 'iopaint_lama')
    with pytest.raises(ValueError, match='absent.pt: can not be read'):
        painters.from_torchscript(str(tmp_path / 'absent.pt'), 'iopaint_lama')
    torch.jit.script(Core()).save(str(tmp_path / 'core.pt'))
    with pytest.raises(ValueError, match='expected iopaint_lama or iopaint_migan'):
        painters.from_torchscript(str(tmp_path / 'core.pt'), '')
    painter, side = painters.from_torchscript(
        str(tmp_path / 'core.pt'), 'iopaint_lama', R)
    with pytest.raises(ValueError, match='failed as iopaint_lama at 32 x 32'):
        painter.paint(['a'], np.zeros((1, side, side, 3), np.uint8),
                      np.ones((1, side, side, 1), np.uint8))


def test_missing_predictions_and_masks_list_both_sides(sets, tmp_path):
    painted = tmp_path / 'painted'
    for stem, (_, _, pixels) in list(sets[1].items())[1:]:
        save(painted / f'{stem}.png', pixels)
    save(painted / 'stranger.png', np.zeros((R, R, 3), np.uint8))
    masks = folders(sets)['masks']
    with pytest.raises(ValueError, match='no prediction for 1 of 5 images: pic.0; '
                                         'without an image: stranger'):
        run(sets, tmp_path / 'o', predictions=str(painted), masks=masks)
    with pytest.raises(ValueError, match='no mask for 1 of 5 images: pic.0'):
        run(sets, tmp_path / 'o', predictions=folders(sets)['predictions'],
            masks=str(painted))
    # Fewer images need fewer predictions.
    (painted / 'stranger.png').rename(painted / 'pic.0.png')
    assert run(sets, tmp_path / 'o', predictions=str(painted), limit=1,
               masks=folders(sets)['masks'])['images'] == 1


def test_size_mismatch_and_unreadable_prediction(sets, tmp_path):
    painted = tmp_path / 'painted'
    for stem, (_, _, pixels) in sets[1].items():
        save(painted / f'{stem}.png', pixels)
    masks = folders(sets)['masks']
    Image.new('RGB', (R, R + 1)).save(painted / 'pic.4.png')
    with pytest.raises(ValueError, match=r'1 of 5 predictions are not 32 x 32 pixels: '
                                         r'.*pic.4.png \(32 x 33\)'):
        run(sets, tmp_path / 'o', predictions=str(painted), masks=masks)
    (painted / 'pic.4.png').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match='pic.4.png: cannot read it as an image'):
        run(sets, tmp_path / 'o', predictions=str(painted), masks=masks)
    whole = (painted / 'pic.2.png').read_bytes()
    (painted / 'pic.4.png').write_bytes(whole[:len(whole) // 2])   # a good header
    with pytest.raises(ValueError, match='pic.4.png: cannot read it as an image'):
        run(sets, tmp_path / 'o', predictions=str(painted), masks=masks)


def test_masks_of_the_other_polarity_are_noticed(sets, tmp_path, capsys):
    painted, inverted = tmp_path / 'painted', tmp_path / 'inverted'
    for stem, (image, mask, pixels) in sets[1].items():
        save(painted / f'{stem}.png', np.where(mask[..., None] == 255, image, pixels))
        save(inverted / f'{stem}.png', 255 - mask)
    run(sets, tmp_path / 'o', predictions=str(painted), masks=folders(sets)['masks'])
    assert 'warning' not in capsys.readouterr().err
    run(sets, tmp_path / 'o', predictions=str(painted), masks=str(inverted))
    assert 'inverted (white = known)?' in capsys.readouterr().err


def test_masks_with_white_holes_are_noticed_and_read(sets, tmp_path, capsys):
    """Holes of a sixth each; the other way round they are most of the pictures."""
    painted, masks, inverted = (tmp_path / name for name in ('p', 'masks', 'inverted'))
    for stem, (image, mask, pixels) in sets[1].items():
        mask = np.full_like(mask, 255)
        mask[:len(mask) // 6] = 0
        save(painted / f'{stem}.png', np.where(mask[..., None] == 255, image, pixels))
        save(masks / f'{stem}.png', mask)
        save(inverted / f'{stem}.png', 255 - mask)
    plain = run(sets, tmp_path / 'o', predictions=str(painted), masks=str(masks))
    assert 'warning' not in capsys.readouterr().err
    run(sets, tmp_path / 'o', predictions=str(painted), masks=str(inverted))
    assert ('is hole (white = known, black = hole; if it is the other way round, pass '
            '--invert_mask)') in capsys.readouterr().err
    turned = run(sets, tmp_path / 'o', predictions=str(painted), masks=str(inverted),
                 invert_mask=True)
    assert turned == plain
    assert 'warning' not in capsys.readouterr().err
    assert json.loads((tmp_path / 'o.json').read_text())['invert_mask']


def test_errors_are_one_line_and_exit_code_1(sets, tmp_path):
    run_tool = lambda *arguments: subprocess.run(
        [sys.executable, str(TOOLS / 'evaluate.py'), f'--out={tmp_path / "o"}',
         *arguments], capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'})
    images = sets[0] / 'images'
    done = run_tool(f'--images={images}', f'--predictions={images}',
                    '--hole_ranges=.4,.2')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()   # nothing of TensorFlow's either
    assert line.startswith('error: --hole_ranges')


def test_bad_options(sets, tmp_path):
    with pytest.raises(ValueError, match='one of --checkpoint, .*; got none'):
        run(sets, tmp_path / 'o')
    with pytest.raises(ValueError, match='got --predictions=a, --onnx=b'):
        run(sets, tmp_path / 'o', predictions='a', onnx='b')
    with pytest.raises(ValueError, match='means nothing for --predictions'):
        run(sets, tmp_path / 'o', predictions='a', contract='iopaint_lama')
    with pytest.raises(ValueError, match='--images is missing'):
        run(sets, tmp_path / 'o', images='', **folders(sets))
    # Asked for by name, too few images are an error.
    with pytest.raises(ValueError, match='needs more than 2048 images'):
        run(sets, tmp_path / 'o', metrics=('psnr', 'fid'), **folders(sets))
    assert tool.parse_ranges('0,.2;.2,.4') == ((0, 0.2), (0.2, 0.4))
    for text in ('0', '0,2', '.4,.2', 'a,b', '0,.1,.2'):
        with pytest.raises(ValueError, match='--hole_ranges'):
            tool.parse_ranges(text)
    assert tool.parse_brush_width('3, 12') == (3, 12)
    assert tool.parse_brush_width('') == ()
    for text in ('3', '3,x', '1,2,3', '-1,2'):
        with pytest.raises(ValueError, match='--brush_width'):
            tool.parse_brush_width(text)
    assert tool.parse_metrics('psnr, fid') == ('psnr', 'fid')
    with pytest.raises(ValueError, match='unknown psrn; expected some of hole_psnr'):
        tool.parse_metrics('psrn')


def test_weights_of_the_wrong_hash(sets, tmp_path):
    (tmp_path / 'alexnet-owt-7be5be79.pth').write_bytes(b'short')
    with pytest.raises(ValueError, match='alexnet-owt-7be5be79.pth: sha256 is'):
        run(sets, tmp_path / 'o', weights=str(tmp_path), metrics=('lpips',),
            **folders(sets))


def fake_networks(monkeypatch):
    """Networks whose features are image statistics, instead of minutes of Inception."""
    def features(params, images, protocol):
        del params
        x = images.astype(np.float32) * (1 / 255 if protocol.quantized else 1)
        mean, square = x.mean((1, 2)), (x * x).mean((1, 2))
        return jax.numpy.concatenate([mean, square], 1)

    monkeypatch.setattr(inception, 'features', features)
    monkeypatch.setattr(inception, 'FEATURES', 6)
    loaded = networks_lib.Loaded(
        networks_lib.Networks({'unused': np.zeros(1, np.float32)}), {'weights.pth': 'abc'},
        {})
    monkeypatch.setattr(networks_lib, 'load_networks', lambda *a, **k: loaded)


def test_figures_of_the_whole_set_and_the_tables(tmp_path, monkeypatch):
    from migan_jax.evaluation.metrics import fid
    from migan_jax.evaluation.metrics import ids

    fake_networks(monkeypatch)
    rng = np.random.default_rng(5)
    real, fake = [], []
    for i in range(19):
        image, painted = rng.integers(0, 256, (2, R, R, 3), np.uint8)
        image //= np.uint8(1 + i % 3)
        mask = np.where(rng.random((R, R)) < 0.5, 255, 0).astype(np.uint8)
        for kind, pixels in (('images', image), ('painted', painted), ('masks', mask)):
            save(tmp_path / kind / f'{i:02d}.png', pixels)
        composite = np.where(mask[..., None] == 255, image, painted)
        for rows, pixels in ((real, image), (fake, composite)):
            x = pixels / 255.0
            rows.append([*x.mean((0, 1)), *(x * x).mean((0, 1))])
    both = np.array(real), np.array(fake)
    want_ids = ids.inception_discriminative_scores(*both)
    options = tool.Options(predictions=str(tmp_path / 'painted'), table=3, name='ours',
                           masks=str(tmp_path / 'masks'), dataset='ffhq')
    for protocol, ddof in (('paper', 1), ('stylegan', 0)):
        out = tmp_path / protocol
        summary = tool.run('', str(tmp_path / 'images'), str(out), None, None,
                           options._replace(protocol=protocol))
        np.testing.assert_allclose(summary['fid'], fid.fid(*both, ddof), rtol=1e-3)
        np.testing.assert_allclose(summary['p_ids'], want_ids.p_ids, atol=0.06)
        np.testing.assert_allclose(summary['u_ids'], want_ids.u_ids, atol=0.06)
        assert report_of(out)['weight_files'] == {'weights.pth': 'abc'}
    text = (tmp_path / 'paper.md').read_text()
    row = (f'| ours (this run, other images, {R} x {R}) | - | - | - | - | '
           f'{summary["psnr"]:.3f} |')
    assert row in text
    assert '| MI-GAN (published) | 16.118 | 0.597 | 0.091 | 0.234 | 16.315 |' in text
    # What a model's card takes of it.
    taken = save_demo.figures_of(report_of(out))
    assert {name.rpartition(', ')[2]: round(value, 6) for name, value in taken.items()} == {
        name: round(summary[name], 6) for name in ('hole_psnr', 'ssim')}
    assert all(name.startswith('images, holes ') for name in taken)


def test_published_tables():
    text = published.table(2, [1, 2, None, 4, 5.126], name='mine', images='photos, 64')
    lines = text.splitlines()
    assert lines[2].count('photos, 64') == 5 and lines[2].count('FFHQ 256') == 5
    dashes = ' | -' * 10
    assert lines[-1] == f'| mine (this run){dashes} | 1.00 | 2.00 | - | 4.00 | 5.13 |'
    assert f'| LDM (published) | 0.29 | 1.37 | 3.89 | 9.72 | 21.92{dashes} |' in text
    assert len({line.count('|') for line in lines[2:]}) == 1
    text = published.table(3, [1, 2, 3, 4], name='mine', dataset='places2')
    assert text.splitlines()[-1].startswith('| mine (this run) | 1.000 | 2.000 |')
    with pytest.raises(ValueError, match='got 1 figures'):
        published.table(2, [1], name='mine')


def test_table_2_has_its_own_ranges(sets, tmp_path):
    with pytest.raises(ValueError, match='--table=2 has hole ranges of its own'):
        tool.ranges_of(tool.Options(table=2, hole_ranges=((0.0, 0.5),)), None)
    with pytest.raises(ValueError, match='name one range at most'):
        two = ((0.0, 0.5), (0.5, 1.0))
        tool.ranges_of(tool.Options(table=3, hole_ranges=two), None)
    labels = [r.label for r in tool.ranges_of(tool.Options(table=2), None)]
    assert labels == ['0-0.2', '0.2-0.4', '0.4-0.6', '0.6-0.8', '0.8-1']


def test_a_saved_model_is_measured_under_the_masks_of_its_training(sets, tmp_path):
    """As `migan_jax.evaluate` does; the published strokes would leave it no pixel."""
    summary = run(sets, tmp_path / 'demo', checkpoint='demo')
    report = report_of(tmp_path / 'demo')
    assert report['brush_width'] == [6, 24]
    assert report['ranges'][0]['hole_range'] == [0.02, 0.65]
    text = pathlib.Path(f'{tmp_path}/demo.md').read_text()
    assert 'generated, seed 0, one per image name and range, strokes of 6 to 24 pixels' in text
    figures = migan_jax.evaluate('demo', sets[0] / 'images')
    assert figures.means['hole_psnr'] == pytest.approx(summary['hole_psnr'], rel=1e-6)


@pytest.mark.parametrize('side, strokes', [
    (512, (12, 48)), (256, (12, 48)), (64, (3, 12)), (16, (1, 3))])
def test_strokes_fit_a_model_that_says_nothing_of_them(side, strokes):
    method = tool.Method('a', {}, side, None)
    assert tool.strokes_of(tool.Options(), method) == strokes
    assert tool.strokes_of(tool.Options(brush_width=(2, 5)), method) == (2, 5)


def test_devices_do_not_matter(sets, tmp_path, monkeypatch):
    results = {}
    for devices in (8, 1):
        monkeypatch.setattr(jax, 'local_device_count', lambda n=devices: n)
        monkeypatch.setattr(jax, 'local_devices', lambda n=devices: jax.devices()[:n])
        results[devices] = run(sets, tmp_path / str(devices), **folders(sets))
    assert results[8] == pytest.approx(results[1], rel=1e-6)
    assert results[8]['images'] == COUNT


def test_identical_pictures_do_not_break_the_mean():
    summary = figures.summarize({
        'psnr': np.array([np.inf, 20.0]), 'hole_psnr': np.array([np.nan, np.nan])})
    assert summary['psnr'] == {'mean': 20.0, 'interval': [20.0, 20.0], 'images': 1}
    assert summary['hole_psnr']['interval'] is None
    assert report.finite({'x': [np.inf, 1.0]}) == {'x': [None, 1.0]}
