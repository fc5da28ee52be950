"""The page in web/, in headless Chromium, with models really exported.

Needs Chromium, and npm the first time: onnxruntime-web goes to web/ort/, axe-core to
.cache/. Skipped without, but not where CI=true.
"""

import base64
import contextlib
import functools
import hashlib
import io
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from PIL import Image
import pytest
from skimage import data

from migan_jax.export import comodgan_onnx
from migan_jax.export import onnx_core
from migan_jax.export import onnx_half
from migan_jax.export import onnx_pipeline
from migan_jax import inpaint
from migan_jax.photo import paint as photo
import loopback
import serve_web
import tiny

ROOT = pathlib.Path(__file__).parents[1]
AXE = ('axe-core', '4.14.1', (
    'sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJp'
    'Ze37OgudVGtQ=='))
# Of tiny.tiny_config.
R = 16

# Chromium asks for nothing from outside on its own account.
QUIET = ('--no-sandbox', '--disable-background-networking', '--disable-sync',
         '--disable-component-update', '--disable-quic', '--no-first-run')
# WebGPU computed by the processor.
EMULATED_GPU = ('--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader')
PHONE = {'viewport': {'width': 360, 'height': 740}, 'device_scale_factor': 2,
         'has_touch': True, 'is_mobile': True}


def lacking(reason):
    """Skips for a reason that continuous integration must not have."""
    if os.environ.get('CI') == 'true':
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope='module')
def runtime():
    try:
        serve_web.fetch_runtime()
    except serve_web.ServeError as error:
        lacking(str(error))


@pytest.fixture(scope='module')
def axe():
    """Source of axe-core."""
    name, version, integrity = AXE
    kept = ROOT / '.cache' / f'{name}-{version}.tgz'
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            try:
                os.replace(serve_web.npm_pack(name, version, folder), kept)
            except serve_web.ServeError as error:
                lacking(str(error))
    serve_web.check_integrity(kept, integrity)
    with tarfile.open(kept) as archive:
        return archive.extractfile('package/axe.min.js').read().decode()


@pytest.fixture(scope='module')
def launched():
    """Starts Chromium with arguments of its own."""
    try:
        from playwright import sync_api
    except ImportError:
        lacking('playwright is not installed: pip install playwright')
    program = shutil.which('chromium') or shutil.which('chromium-browser')
    if program is None:
        lacking('no Chromium: apt-get install chromium')
    with sync_api.sync_playwright() as playwright:
        @contextlib.contextmanager
        def launched(*arguments):
            browser = playwright.chromium.launch(
                executable_path=program, args=[*QUIET, *arguments])
            try:
                yield browser
            finally:
                browser.close()
        yield launched


@pytest.fixture(scope='module')
def browser(launched):
    with launched() as browser:
        yield browser


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """{kind: path} of exported models with drawn weights, R x R."""
    folder = tmp_path_factory.mktemp('models')
    builds = {
        'migan': [('migan.onnx', onnx_core.build_core),
                  ('migan_pipeline.onnx', onnx_pipeline.build_pipeline)],
        'comodgan': [('comodgan.onnx', comodgan_onnx.build_comodgan)],
    }
    for kind, title in (('migan', 'MI-GAN'), ('comodgan', 'Co-Mod-GAN')):
        config = tiny.tiny_config(1, kind)
        variables = tiny.random_deployed(config)
        for name, build in builds[kind]:
            model = build(config, variables,
                          metadata={'model': title, 'resolution': str(R)})
            (folder / name).write_bytes(model.SerializeToString())
    models = {'pipeline': folder / 'migan_pipeline.onnx', 'migan': folder / 'migan.onnx',
              'half': folder / 'migan_half.onnx', 'comodgan': folder / 'comodgan.onnx'}
    models['half'].write_bytes(
        onnx_half.to_half(onnx.load(models['migan'])).SerializeToString())
    return models


def serving(models, web=serve_web.WEB, published=()):
    site = serve_web.Site(models, web, published)
    return loopback.in_thread(serve_web.Server(site, port=0))


@pytest.fixture(scope='module')
def server(models, runtime):
    with serving(models.values()) as server:
        yield server


@contextlib.contextmanager
def opened(browser, address, said='ready', **options):
    """The page, as soon as it says something."""
    desktop = {'viewport': {'width': 1280, 'height': 800}}
    context = browser.new_context(**desktop | options)
    try:
        page = context.new_page()
        problems = []
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.on('console', lambda message: problems.append(message.text)
                if message.type == 'error' else None)
        page.goto(address)
        wait_for(page, said)
        yield page
        assert problems == []
    finally:
        context.close()


def wait_for(page, said, where='#status', patience=60):
    """Until the page says so. (Playwright's own waiting needs eval, which the page's
    policy forbids.)"""
    end = time.monotonic() + patience
    while not re.search(said, page.text_content(where)):
        error = page.text_content('#error')
        assert where == '#error' or not error, error
        assert time.monotonic() < end, page.text_content(where)
        page.wait_for_timeout(20)


def choose_model(page, models, kind):
    page.select_option('#models', models[kind].name)
    wait_for(page, re.escape(f'{models[kind].name} is ready'))


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'PNG')
    return {'name': 'my holiday.png', 'mimeType': 'image/png',
            'buffer': file.getvalue()}


def open_picture(page, picture):
    page.set_input_files('#picture-file', png(picture))
    wait_for(page, f'{picture.shape[1]} × {picture.shape[0]}')


def paint(page, points):
    """A stroke through points in shares of the picture."""
    box = page.locator('#strokes').bounding_box()
    places = [(box['x'] + x * box['width'], box['y'] + y * box['height'])
              for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def canvas(page, name):
    """u8[H, W, 4] of a canvas."""
    url = page.evaluate(f'document.getElementById("{name}").toDataURL("image/png")')
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(',')[2])))
    return np.asarray(picture.convert('RGBA'))


def known_of(page):
    """The mask, u8[H, W], 255 = known: strokes cover half of a hole's pixel or more."""
    return np.where(canvas(page, 'strokes')[..., 3] < 128, 255, 0).astype(np.uint8)


def press(page, name, said):
    page.click(f'#{name}')
    wait_for(page, said)


def photograph(height, width):
    picture = Image.fromarray(data.astronaut()[:, 40:])
    return np.asarray(picture.resize((width, height)))


@functools.cache
def session(path):
    return onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])


def run_pipeline(path, image, mask):
    result, = session(path).run(
        None, {'image': image.transpose(2, 0, 1)[None], 'mask': mask[None, None]})
    return result[0].transpose(1, 2, 0)


def run_core(path, image, mask):
    def generate(x):
        result, = session(path).run(None, {'input': x.transpose(0, 3, 1, 2)})
        return result.transpose(0, 2, 3, 1)
    if max(mask.shape) > R:
        settings = photo.Settings(feather=0, grain=False)
        return photo.inpaint_photo(generate, image, mask, R, settings)
    return inpaint.inpaint_resize(generate, image, mask, R)


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


# Small pictures for the network alone wide: newer Pillows resize a tall one's rows first.
@pytest.mark.parametrize('kind, size', [
    ('pipeline', (203, 301)), ('pipeline', (700, 333)), ('migan', (203, 301)),
    ('migan', (333, 250)), ('migan', (19, 27)), ('migan', (12, 16))])
def test_paints_what_onnxruntime_paints(browser, server, models, kind, size):
    expected_of = run_pipeline if kind == 'pipeline' else run_core
    picture = photograph(*size)
    with opened(browser, server.address) as page:
        if kind != 'pipeline':
            choose_model(page, models, kind)
        open_picture(page, picture)
        np.testing.assert_array_equal(canvas(page, 'picture')[..., :3], picture)
        if min(size) < 50:
            # Each pixel is shown large.
            page.fill('#brush', '120')
        paint(page, [(0.3, 0.4), (0.6, 0.5), (0.5, 0.7)])
        paint(page, [(0.8, 0.2)])
        mask = known_of(page)
        rows, columns = np.nonzero(mask == 0)
        middle = mask[[round(0.4 * size[0]), round(0.2 * size[0])],
                      [round(0.3 * size[1]), round(0.8 * size[1])]]
        assert (middle == 0).all() and 0.01 < (mask == 0).mean() < 0.5
        press(page, 'inpaint', 'Done')
        with page.expect_download() as download:
            page.click('#save')
        assert download.value.suggested_filename == 'my holiday-inpainted.png'
        saved = np.asarray(Image.open(download.value.path()).convert('RGB'))
        painted = canvas(page, 'picture')[..., :3]
        page.click('#undo')
        np.testing.assert_array_equal(canvas(page, 'picture')[..., :3], picture)
        np.testing.assert_array_equal(known_of(page), mask)
    np.testing.assert_array_equal(saved, painted)
    expected = expected_of(models[kind], picture, mask)
    assert difference(expected, picture)[rows, columns].mean() > 5
    assert difference(painted, expected).max() <= 2
    if kind == 'migan':
        np.testing.assert_array_equal(painted[mask == 255], picture[mask == 255])


@pytest.mark.parametrize('kind', ['pipeline', 'migan', 'half'])
def test_webgpu_paints_what_onnxruntime_paints(launched, models, runtime, kind):
    picture = photograph(64, 48)
    with (launched(*EMULATED_GPU) as browser, serving([models[kind]]) as server,
          opened(browser, server.address) as page):
        page.select_option('#backend', 'webgpu')
        wait_for(page, 'webgpu', '#facts')
        open_picture(page, picture)
        paint(page, [(0.3, 0.4), (0.6, 0.5), (0.5, 0.7)])
        mask = known_of(page)
        press(page, 'inpaint', 'Done')
        painted = canvas(page, 'picture')[..., :3]
    paint_with = run_pipeline if kind == 'pipeline' else run_core
    expected = paint_with(models[kind], picture, mask)
    assert difference(expected, picture)[mask == 0].mean() > 5
    assert difference(painted, expected).max() <= 2


def test_undo_brush_and_comparison(browser, server):
    picture = photograph(200, 300)
    with opened(browser, server.address) as page:
        assert page.get_attribute('#inpaint', 'aria-disabled') == 'true'
        open_picture(page, picture)
        page.fill('#brush', '12')
        paint(page, [(0.2, 0.2), (0.2, 0.8)])
        thin = known_of(page)
        page.fill('#brush', '60')
        paint(page, [(0.7, 0.2), (0.7, 0.8)])
        both = known_of(page)
        # Five times the width, on the other half.
        widths = [(part == 0).sum() for part in (thin, both[:, 150:])]
        assert 4 < widths[1] / widths[0] < 8
        page.keyboard.press('Control+z')
        np.testing.assert_array_equal(known_of(page), thin)
        assert not page.is_visible('#compare')
        press(page, 'inpaint', 'Done')
        # The next one goes on from the result.
        once = canvas(page, 'picture')
        assert (known_of(page) == 255).all()
        paint(page, [(0.7, 0.4)])
        press(page, 'inpaint', 'Done')
        assert difference(canvas(page, 'picture'), once).any()
        page.fill('#split', '50')
        box = page.locator('#frame').bounding_box()
        page.mouse.move(0, 0)
        shown = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box)))
                           .convert('RGB').resize((300, 200)))
        final = canvas(page, 'picture')[..., :3]
        # The first stroke lies left of the middle, the last one right of it.
        left, right = thin == 0, (both == 0) & (thin != 0)
        assert difference(final, picture)[left].mean() > 5
        assert difference(shown, picture)[left].mean() < 4
        assert difference(shown, final)[right].mean() < 4
        for _ in range(4):
            page.click('#undo')
        assert page.get_attribute('#undo', 'aria-disabled') == 'true'
        assert not page.is_visible('#compare') and (known_of(page) == 255).all()
        np.testing.assert_array_equal(canvas(page, 'picture')[..., :3], picture)


def test_pictures_as_the_command_line_reads_them(browser, server, tmp_path):
    upright = photograph(60, 90)
    with opened(browser, server.address) as page:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = Image.fromarray(np.rot90(upright))
        turned.save(tmp_path / 'turned.jpg', exif=exif, quality=95)
        page.set_input_files('#picture-file', tmp_path / 'turned.jpg')
        wait_for(page, '90 × 60')
        assert difference(canvas(page, 'picture')[..., :3], upright).mean() < 6
        clear = np.dstack([upright, np.zeros((60, 90), np.uint8)])
        page.set_input_files('#picture-file', png(clear[:50]))
        wait_for(page, '90 × 50')
        assert (canvas(page, 'picture') == 255).all()
        page.set_input_files('#picture-file', {
            'name': 'notes.txt', 'mimeType': 'text/plain', 'buffer': b'no picture'})
        wait_for(page, 'notes.txt: this browser cannot read it', '#error')
        assert (canvas(page, 'picture') == 255).all()


def test_benchmark(browser, server, models):
    with opened(browser, server.address) as page:
        assert page.get_attribute('#benchmark', 'aria-disabled') == 'true'
        assert 'migan.onnx' in page.text_content('#benchmark-hint')
        assert page.input_value('#device')
        page.context.grant_permissions(['clipboard-read', 'clipboard-write'])
        page.fill('#device', 'Bench | top')
        for kind in ('migan', 'comodgan'):
            choose_model(page, models, kind)
            press(page, 'benchmark', 'standard deviation')
        assert page.locator('#rows tr').count() == 1
        heads = page.locator('#table th').all_text_contents()
        press(page, 'copy', 'Copied')
        row = page.evaluate('navigator.clipboard.readText()')
    assert heads == ['Device Name', 'MI-GAN speed (ms, mean/std)',
                     'Co-Mod-GAN speed (ms, mean/std)']
    figures = re.fullmatch(
        rf'\| Bench / top \({R} × {R}, wasm, \d+ threads?\) '
        r'\| (\d+\.\d\d) / (\d+\.\d\d) \| (\d+\.\d\d) / (\d+\.\d\d) \|', row)
    migan, migan_std, comodgan, comodgan_std = map(float, figures.groups())
    assert migan > 0 and comodgan > 0 and migan_std < 1e4 and comodgan_std < 1e4


def drop(page, name, content):
    """Drops a file onto the page."""
    page.evaluate('''([name, content]) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
        document.querySelector('main').dispatchEvent(new DragEvent(
            'drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }''', [name, base64.b64encode(content).decode()])


def test_dropping_models_and_pictures(browser, models, runtime):
    whole = models['migan'].read_bytes()
    with (serving([]) as server,
          opened(browser, server.address, 'Drop an .onnx') as page):
        drop(page, 'mine.onnx', whole)
        wait_for(page, 'mine.onnx is ready')
        assert f'{R} × {R}' in page.text_content('#facts')
        drop(page, 'picture.png', png(photograph(40, 60))['buffer'])
        wait_for(page, '60 × 40')
        paint(page, [(0.5, 0.5)])
        press(page, 'inpaint', 'Done')
        for name, content, said in (
                ('cut.onnx', whole[:len(whole) // 2], 'cut.onnx: '),
                ('text.onnx', b'hello ' * 100, 'text.onnx: '),
                ('empty.onnx', b'', 'empty.onnx: '),
                ('other.onnx', other_model(),
                 r'takes x float32\[1,2\].*Expected migan')):
            drop(page, name, content)
            wait_for(page, said, '#error')
            assert '\n' not in page.text_content('#error')
            assert page.get_attribute('#inpaint', 'aria-disabled') == 'true'
        drop(page, 'comodgan.onnx', models['comodgan'].read_bytes())
        wait_for(page, 'comodgan.onnx is ready')
        paint(page, [(0.2, 0.2)])
        press(page, 'inpaint', 'Done')


@pytest.mark.parametrize('isolated', [True, False])
def test_threads_where_the_headers_allow_them(browser, models, runtime, isolated):
    """A static host without the headers serves the page, too, with one thread."""
    height, width = 60, 80
    picture = photograph(height, width)
    site = serve_web.Site([models['pipeline']], serve_web.WEB)
    if not isolated:
        for name in ('Cross-Origin-Opener-Policy', 'Cross-Origin-Embedder-Policy'):
            del site.headers[name]
    with loopback.in_thread(serve_web.Server(site, port=0)) as server:
        with opened(browser, server.address) as page:
            assert page.evaluate('crossOriginIsolated') == isolated
            cores = page.evaluate('navigator.hardwareConcurrency')
            # Half of them, four at most, but both of two.
            threads = 1 if not isolated else 2 if cores == 2 else min(4, -(-cores // 2))
            wait_for(page, rf'wasm, {threads} thread{"s" * (threads > 1)}\b', 'main')
            open_picture(page, picture)
            paint(page, [(0.4, 0.5), (0.6, 0.5)])
            press(page, 'inpaint', 'Done')


def other_model():
    import onnx
    from onnx import helper
    value = lambda name: helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph(
        [helper.make_node('Relu', ['x'], ['y'])], 'other', [value('x')], [value('y')])
    return helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid('', 17)]
    ).SerializeToString()


def snippet():
    """The document's JavaScript, with its package at the server's address."""
    text = (ROOT / 'docs' / 'converting.md').read_text()
    block, = re.findall(r'^```js\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    return re.sub("from 'onnxruntime-web'", "from '/ort/ort.wasm.bundle.min.mjs'", block)


def test_the_documented_call(browser, server, models):
    """docs/converting.md: `inpaint` of a canvas's pixels."""
    height, width = 41, 30
    picture = photograph(height, width)
    mask = np.full((height, width), 255, np.uint8)
    mask[9:20, 12:29] = 0
    alpha = np.full((height, width, 1), 200, np.uint8)
    rgba = np.concatenate([picture, alpha], -1)
    with opened(browser, server.address, service_workers='block') as page:
        page.route('**/snippet.mjs', lambda route: route.fulfill(
            body=snippet(), content_type='text/javascript'))
        result = page.evaluate('''async ([rgba, known, width, height, model]) => {
            const {inpaint} = await import('/snippet.mjs');
            const ort = await import('/ort/ort.wasm.bundle.min.mjs');
            const session = await ort.InferenceSession.create(model);
            return Array.from(await inpaint(
                session, Uint8ClampedArray.from(rgba), Uint8Array.from(known), width,
                height));
        }''', [rgba.ravel().tolist(), mask.ravel().tolist(), width, height,
                 f'{server.address}/models/{models["pipeline"].name}'])
    painted = np.reshape(result, rgba.shape)
    np.testing.assert_array_equal(painted[..., 3:], alpha)
    expected = run_pipeline(models['pipeline'], picture, mask)
    assert difference(painted[..., :3], expected).max() <= 1
    assert (painted[mask == 0][:, :3] != picture[mask == 0]).any()


def test_runtime_missing(browser, models, tmp_path):
    web = tmp_path / 'web'
    shutil.copytree(serve_web.WEB, web, ignore=shutil.ignore_patterns('ort'))
    with serving([models['migan']], web) as server:
        page = browser.new_context().new_page()
        page.goto(server.address)
        wait_for(page, 'onnxruntime-web is missing.*serve_web.py --fetch', '#error')
        page.context.close()


def test_nothing_leaves_the_device_and_no_server_is_needed(browser, models, runtime):
    with serving([models['pipeline']]) as elsewhere:
        with serving([models['pipeline']]) as server:
            context = browser.new_context()
            page = context.new_page()
            asked = []
            context.on('request', lambda request: asked.append(
                (request.method, request.url, request.post_data)))
            page.goto(server.address)
            wait_for(page, 'ready')
            assert page.evaluate('crossOriginIsolated')
            open_picture(page, photograph(90, 90))
            paint(page, [(0.4, 0.5), (0.6, 0.5)])
            press(page, 'inpaint', 'Done')
            assert len(asked) > 5
            assert {method for method, _, _ in asked} <= {'GET', 'HEAD'}
            assert [sent for _, _, sent in asked if sent] == []
            assert [url for _, url, _ in asked if not url.removeprefix(
                'blob:').startswith(server.address)] == []
            # The page's policy stops what its code would not do anyway.
            assert page.evaluate('''address => fetch(address).then(
                () => 'sent', error => error.name)''', elsewhere.address) == 'TypeError'
        # This server has stopped.
        page.reload()
        wait_for(page, 'ready')
        open_picture(page, photograph(90, 90))
        paint(page, [(0.4, 0.5), (0.6, 0.5)])
        press(page, 'inpaint', 'Done')
        context.close()


def test_the_published_model_is_fetched_on_a_click_and_kept(browser, models, runtime):
    data = models['pipeline'].read_bytes()
    with loopback.serving() as authors:
        authors.routes['/theirs.onnx'] = loopback.whole(
            data, Access_Control_Allow_Origin='*')
        offer = {'title': 'MI-GAN 16, nothing', 'file': 'theirs.onnx', 'licence': 'MIT',
                 'url': f'{authors.address}/theirs.onnx', 'size': len(data),
                 'sha256': hashlib.sha256(data).hexdigest(), 'host': '127.0.0.1'}
        wrong = offer | {'title': 'Another', 'sha256': '0' * 64}
        with serving([], published=[offer, wrong]) as server:
            context = browser.new_context()
            page = context.new_page()
            page.goto(server.address)
            wait_for(page, 'Drop an .onnx file')
            button, other = page.query_selector_all('#published button')
            assert button.text_content() == (
                f'Fetch MI-GAN 16, nothing ({len(data) / 1e6:.1f} MB, licence MIT) '
                'from 127.0.0.1')
            assert authors.asked == []
            other.click()
            # What it says is a sentence: it stays in its card, below the button before.
            card = page.locator('aside .card').first.bounding_box()
            above = page.locator('#open-model').bounding_box()
            box = button.bounding_box()
            assert card['x'] < box['x']
            assert box['x'] + box['width'] < card['x'] + card['width']
            assert box['y'] >= above['y'] + above['height']
            assert button.evaluate('each => each.scrollWidth <= each.clientWidth')
            wait_for(page, 'not the published file.*is not used', '#error')
            button.click()
            wait_for(page, 'theirs.onnx is ready')
            wait_for(page, 'theirs.onnx', '#facts')
            assert authors.asked == ['/theirs.onnx'] * 2
    # Both servers have stopped.
    page.reload()
    wait_for(page, 'Drop an .onnx file')
    page.query_selector('#published button').click()
    wait_for(page, 'theirs.onnx is ready')
    open_picture(page, photograph(60, 60))
    paint(page, [(0.4, 0.5), (0.6, 0.5)])
    press(page, 'inpaint', 'Done')
    context.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_phone(browser, server, models, axe, scheme):
    """360 pixels wide, painted by touch: layout and accessibility in every state."""
    def check():
        width = page.evaluate('document.documentElement.scrollWidth')
        assert width == 360
        for name in visible(page, 'button, select, input'):
            box = page.locator(f'#{name}').bounding_box()
            assert box['height'] >= 44, name
            assert box['x'] >= 0 and box['x'] + box['width'] <= 360, name
        page.evaluate(axe)
        found = page.evaluate('''axe.run().then(({violations}) => violations.map(
            ({id, impact, nodes}) => [impact, id, nodes.map(node => node.html)]))''')
        assert [each for each in found if each[0] in ('serious', 'critical')] == []

    with opened(browser, server.address, color_scheme=scheme, **PHONE) as page:
        assert page.is_visible('#photograph')
        assert page.get_attribute('#camera-file', 'capture') == 'environment'
        check()
        open_picture(page, photograph(600, 400))
        box = page.locator('#strokes').bounding_box()
        page.touchscreen.tap(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
        assert known_of(page)[300, 200] == 0
        check()
        page.tap('#inpaint')
        wait_for(page, 'Done')
        page.fill('#split', '40')
        check()
        choose_model(page, models, 'migan')
        press(page, 'benchmark', 'standard deviation')
        check()


def visible(page, selector):
    return page.evaluate('''selector => [...document.querySelectorAll(selector)].filter(
        each => each.checkVisibility()).map(each => each.id)''', selector)


def test_keyboard(browser, server, models):
    with opened(browser, server.address) as page:
        # Enter on a button opens the file chooser. Again and again: Chromium takes its
        # time to hand the first one to the driver.
        choosers = []
        page.on('filechooser', lambda chooser: choosers.append(chooser))
        page.focus('#open')
        end = time.monotonic() + 30
        while not choosers and time.monotonic() < end:
            page.keyboard.press('Enter')
            page.wait_for_timeout(200)
        choosers[0].set_files(png(photograph(60, 90)))
        wait_for(page, '90 × 60')
        paint(page, [(0.5, 0.5)])
        page.focus('#inpaint')
        page.keyboard.press('Enter')
        wait_for(page, 'Done')
        # Switched off now, and still where the keyboard is.
        assert page.evaluate('document.activeElement.id') == 'inpaint'
        page.focus('#split')
        page.keyboard.press('End')
        assert page.input_value('#split') == '100' and page.is_visible('#original')
        page.evaluate('document.activeElement.blur()')
        reached = []
        for _ in range(40):
            page.keyboard.press('Tab')
            reached.append(page.evaluate('document.activeElement.id'))
            outline = page.evaluate(
                'getComputedStyle(document.activeElement).outlineStyle')
            assert not reached[-1] or outline != 'none', reached[-1]
        assert set(visible(page, 'button, select, input')) <= set(reached)


