// The page and, in a worker, the model it runs. This module is loaded twice: by
// index.html, and again by the worker, so that a running model never stops the page.
//
// Mask polarity everywhere: 255 (or 1) = known, 0 = hole.

import {paintHoles, resizeTaps} from './photo.js';

const RUNTIMES = {
  wasm: './ort/ort.wasm.bundle.min.mjs',
  webgpu: './ort/ort.webgpu.bundle.min.mjs',
};
const FETCH_RUNTIME = 'python tools/serve_web.py --fetch';
// Cache Storage of the authors' model, once it has been fetched.
const PUBLISHED = 'migan-published';

const WARM_UPS = 3;
const RUNS = 30;

if (typeof document === 'undefined') {
  answerTasks({load, inpaint, benchmark});
} else {
  startPage();
}

// ---------------------------------------------------------------------------------
// The page
// ---------------------------------------------------------------------------------

function startPage() {
  const el = id => document.getElementById(id);
  const STROKE_COLOUR = '#e5006e';

  const picture = el('picture').getContext('2d', {willReadFrequently: true});
  const painting = el('strokes').getContext('2d', {willReadFrequently: true});
  let name = '';           // of the picture's file
  let original = '';       // object URL of the picture's file
  let strokes = [];        // [{width, points: [{x, y}]}] in pixels of the picture
  let stroke = null;       // the one being painted
  let history = [];        // what undo takes back: {} a stroke, {left, top, before,
                           // strokes} an inpainting
  let ask = null;          // asks the worker, once it runs
  let model = null;        // what the worker said about its model
  let source = null;       // where the model came from: {name, read}
  let loads = 0;           // a later load overtakes an earlier one
  let busy = false;
  const timings = new Map();   // 'size, backend' -> {migan, comodgan}

  // ------------------------------------------------------------------ messages

  function say(text) {
    el('error').textContent = '';
    el('status').textContent = text;
  }

  function fail(error) {
    el('status').textContent = '';
    el('error').textContent = error.message || String(error);
    // On a phone the button that failed may be a screen away.
    el('error').scrollIntoView({block: 'nearest'});
  }

  function showProgress(share) {
    el('progress').hidden = share === null;
    if (share === undefined) el('progress').removeAttribute('value');
    else if (share !== null) el('progress').value = share;
  }

  // Not `disabled`, which would take the focus away from under a keyboard.
  function enable(id, on) {
    el(id).setAttribute('aria-disabled', String(!on));
  }

  function onPress(id, action) {
    el(id).addEventListener('click', async () => {
      if (el(id).getAttribute('aria-disabled') === 'true') return;
      try {
        await action();
      } catch (error) {
        fail(error);
      }
    });
  }

  function update() {
    const open = picture.canvas.width > 0 && !el('editor').hidden;
    enable('undo', !busy && history.length > 0);
    enable('inpaint', !busy && open && model && strokes.length > 0);
    enable('save', !busy && open);
    enable('other', !busy);
    enable('open-model', !busy);
    enable('benchmark', !busy && model && model.kind !== 'pipeline');
    el('benchmark-hint').textContent = model && model.kind === 'pipeline'
      ? 'Times the network alone: open migan.onnx or comodgan.onnx.' : '';
    el('frame').classList.toggle('busy', busy);
    const changed = history.some(entry => entry.before);
    el('compare').hidden = !changed;
    if (!changed) split(0);
  }

  async function whileBusy(text, action) {
    busy = true;
    say(text);
    showProgress(undefined);
    update();
    try {
      await action();
    } catch (error) {
      fail(error);
    } finally {
      busy = false;
      showProgress(null);
      update();
    }
  }

  // ------------------------------------------------------------------- picture

  async function openPicture(file) {
    if (busy) return;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      fail(new Error(`${file.name}: this browser cannot read it as a picture. ` +
                     'Try JPEG, PNG or WebP.'));
      return;
    }
    const {width, height} = bitmap;
    const scale = largestScale(width, height);
    resizeCanvas(picture.canvas, Math.round(width * scale), Math.round(height * scale));
    resizeCanvas(painting.canvas, picture.canvas.width, picture.canvas.height);
    // Colours under transparent pixels are arbitrary: white, as on the command line.
    picture.fillStyle = '#fff';
    picture.fillRect(0, 0, picture.canvas.width, picture.canvas.height);
    picture.drawImage(bitmap, 0, 0, picture.canvas.width, picture.canvas.height);
    bitmap.close();
    URL.revokeObjectURL(original);
    original = URL.createObjectURL(file);
    el('original').src = original;
    el('editor').style.setProperty('--aspect', width / height);
    name = file.name;
    strokes = [];
    history = [];
    el('empty').hidden = true;
    el('editor').hidden = el('tools').hidden = false;
    const size = `${picture.canvas.width} × ${picture.canvas.height}`;
    say(scale < 1 ? `This browser holds no larger picture: reduced to ${size}.`
        : `${size}. Paint over what should go.`);
    update();
  }

  function resizeCanvas(canvas, width, height) {
    canvas.width = width;
    canvas.height = height;
  }

  // Some browsers leave a canvas beyond their limit blank, without an error.
  function largestScale(width, height) {
    for (let scale = 1; ; scale *= 0.8) {
      const x = Math.round(width * scale), y = Math.round(height * scale);
      resizeCanvas(picture.canvas, x, y);
      picture.fillRect(x - 1, y - 1, 1, 1);
      const held = picture.canvas.width === x &&
        picture.getImageData(x - 1, y - 1, 1, 1).data[3] === 255;
      if (held || x * y < 1e6) return scale;
    }
  }

  async function save() {
    const blob = await new Promise(done => picture.canvas.toBlob(done, 'image/png'));
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${name.replace(/\.[^.]*$/, '') || 'picture'}-inpainted.png`;
    link.click();
    // Some browsers read it only after this function has returned.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`Saved ${link.download}, ${picture.canvas.width} × ${picture.canvas.height}.`);
  }

  function split(percent) {
    el('split').value = percent;
    el('original').hidden = el('divider').hidden = Number(percent) === 0;
    el('original').style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
    el('divider').style.left = `${percent}%`;
  }

  // ------------------------------------------------------------------ painting

  // Diameter of the brush in pixels of the picture. A page zoomed by two fingers
  // paints finer lines.
  function brushWidth() {
    const shown = painting.canvas.getBoundingClientRect().width;
    const zoom = window.visualViewport ? window.visualViewport.scale : 1;
    return el('brush').value / zoom * painting.canvas.width / shown;
  }

  function place(event) {
    const box = painting.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / box.width * painting.canvas.width,
      y: (event.clientY - box.top) / box.height * painting.canvas.height,
    };
  }

  function draw({width, points}, from = 0) {
    painting.strokeStyle = painting.fillStyle = STROKE_COLOUR;
    painting.lineWidth = width;
    painting.lineCap = painting.lineJoin = 'round';
    painting.beginPath();
    if (from === 0) {
      painting.arc(points[0].x, points[0].y, width / 2, 0, 2 * Math.PI);
      painting.fill();
      painting.beginPath();
    }
    points.slice(from).forEach(({x, y}) => painting.lineTo(x, y));
    painting.stroke();
  }

  function redraw() {
    painting.clearRect(0, 0, painting.canvas.width, painting.canvas.height);
    strokes.forEach(each => draw(each));
  }

  function listenToPointer() {
    const surface = painting.canvas;
    surface.addEventListener('pointerdown', event => {
      if (busy || event.button !== 0 || !event.isPrimary) return;
      event.preventDefault();
      surface.setPointerCapture(event.pointerId);
      split(0);
      stroke = {width: brushWidth(), points: [place(event)]};
      draw(stroke);
    });
    surface.addEventListener('pointermove', event => {
      showCursor(event);
      if (!stroke || !event.isPrimary) return;
      const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      const known = stroke.points.length;
      stroke.points.push(...(events.length ? events : [event]).map(place));
      draw(stroke, known - 1);
    });
    surface.addEventListener('pointerup', event => {
      if (!stroke || !event.isPrimary) return;
      strokes.push(stroke);
      history.push({});
      stroke = null;
      // In one go each: drawn bit by bit, the edges come out a little stronger.
      redraw();
      update();
    });
    // A second finger came: the first was not painting but about to zoom.
    surface.addEventListener('pointercancel', () => {
      if (!stroke) return;
      stroke = null;
      redraw();
    });
    surface.addEventListener('pointerleave', () => { el('cursor').hidden = true; });
  }

  function showCursor(event) {
    const cursor = el('cursor');
    cursor.hidden = event.pointerType === 'touch' || busy;
    const box = painting.canvas.getBoundingClientRect();
    cursor.style.left = `${event.clientX - box.left}px`;
    cursor.style.top = `${event.clientY - box.top}px`;
    cursor.style.width = cursor.style.height = `${el('brush').value}px`;
  }

  function undo() {
    const entry = history.pop();
    if (entry.before) {
      picture.putImageData(entry.before, entry.left, entry.top);
      strokes = entry.strokes;
      say('Inpainting undone.');
    } else {
      strokes.pop();
      say('Stroke undone.');
    }
    redraw();
    update();
  }

  async function paintHole() {
    await whileBusy('Inpainting …', async () => {
      const {width, height} = picture.canvas;
      const pixels = picture.getImageData(0, 0, width, height).data;
      const painted = painting.getImageData(0, 0, width, height).data;
      const {box, milliseconds} = await ask(
        'inpaint', {width, height, pixels, painted}, [pixels.buffer, painted.buffer]);
      if (box) {
        const patch = new ImageData(box.rgba, box.width, box.height);
        history.push({
          left: box.left, top: box.top, strokes,
          before: picture.getImageData(box.left, box.top, box.width, box.height),
        });
        picture.putImageData(patch, box.left, box.top);
        strokes = [];
        redraw();
      }
      const seconds = (milliseconds / 1000).toFixed(milliseconds < 9950 ? 1 : 0);
      say(box ? `Done in ${seconds} s. Slide to compare, or paint on.`
          : 'The model changed nothing: paint a wider stroke.');
    });
  }

  // --------------------------------------------------------------------- model

  // Starts a worker; returns a function that gives it a task.
  function startWorker() {
    const worker = new Worker(import.meta.url, {type: 'module'});
    const waiting = new Map();
    let tasks = 0;
    worker.onmessage = ({data}) => {
      const {resolve, reject, onProgress} = waiting.get(data.id);
      if (data.progress !== undefined) {
        onProgress(data.progress);
        return;
      }
      waiting.delete(data.id);
      if (data.error !== undefined) reject(new Error(data.error));
      else resolve(data.result);
    };
    worker.onerror = event => {
      event.preventDefault();
      const error = new Error(
        `The model's worker stopped: ${event.message || 'unknown reason'}`);
      waiting.forEach(({reject}) => reject(error));
      waiting.clear();
    };
    const give = (task, values, transfer = [], onProgress = () => {}) =>
      new Promise((resolve, reject) => {
        waiting.set(++tasks, {resolve, reject, onProgress});
        worker.postMessage({id: tasks, task, ...values}, transfer);
      });
    give.stop = () => {
      worker.terminate();
      waiting.forEach(({reject}) => reject(new Error('Stopped.')));
    };
    return give;
  }

  async function loadModel() {
    const load = ++loads;
    if (ask) ask.stop();
    ask = model = null;
    el('facts').replaceChildren();
    update();
    if (!source) return;
    const {name: file, read} = source;
    say(`Loading ${file} …`);
    showProgress(undefined);
    let mine = null;
    try {
      const bytes = await read(share => { if (load === loads) showProgress(share); });
      if (load !== loads) return;
      showProgress(undefined);
      const size = bytes.byteLength;
      ask = mine = startWorker();
      const backend = el('backend').value;
      const described = await ask('load', {bytes, backend}, [bytes]);
      if (load !== loads) return;
      model = {...described, file, size};
      showFacts();
      say(model.warning || (el('editor').hidden
        ? `${file} is ready. Open a picture.` : `${file} is ready.`));
    } catch (error) {
      if (mine) mine.stop();
      if (load === loads) fail(new Error(`${file}: ${error.message}`));
    } finally {
      if (load === loads) {
        showProgress(null);
        update();
      }
    }
  }

  function showFacts() {
    const facts = [
      ['File', model.file],
      ['Model', `${model.title}${model.kind === 'pipeline' ? ', any size' : ''}`],
      ...(model.resolution
        ? [['Paints at', `${model.resolution} × ${model.resolution}`]] : []),
      ['Size', `${(model.size / 1e6).toFixed(model.size < 1e6 ? 2 : 1)} MB`],
      ['Backend', model.backend + (window.isSecureContext ? '' : ' (https has more)')],
    ];
    el('facts').replaceChildren(...facts.flatMap(([term, text]) => {
      const pair = [document.createElement('dt'), document.createElement('dd')];
      pair[0].textContent = term;
      pair[1].textContent = text;
      return pair;
    }));
  }

  async function openModel(next) {
    if (busy) return;
    source = next;
    // Blank where it is none of the menu's.
    el('models').value = next.name;
    await loadModel();
  }

  const modelFile = file => ({name: file.name, read: () => file.arrayBuffer()});

  async function download(address, onProgress, options) {
    const response = await fetch(address, options);
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const total = Number(response.headers.get('Content-Length'));
    const parts = [];
    let done = 0;
    for (const reader = response.body.getReader(); ;) {
      const {value, done: end} = await reader.read();
      if (end) break;
      parts.push(value);
      done += value.length;
      if (total) onProgress(Math.min(done / total, 1));
    }
    return new Blob(parts).arrayBuffer();
  }

  const servedModel = file => ({
    name: file,
    read: onProgress => download(`models/${encodeURIComponent(file)}`, onProgress),
  });

  // The authors' file from their own address: fetched once, kept, its hash compared.
  const publishedModel = ({file, url, sha256}) => ({
    name: file,
    async read(onProgress) {
      if (!window.isSecureContext) {
        throw new Error('browsers compare hashes on https and localhost only; open the ' +
                        'page there, or fetch the model on the computer that serves it.');
      }
      const cache = await caches.open(PUBLISHED);
      const kept = await cache.match(url);
      const bytes = kept ? await kept.arrayBuffer()
        : await download(url, onProgress, {mode: 'cors', credentials: 'omit'});
      const digest = hexadecimal(await crypto.subtle.digest('SHA-256', bytes));
      if (digest !== sha256) {
        await cache.delete(url);
        throw new Error(`not the published file: ${bytes.byteLength} bytes, sha256 ` +
                        `${digest}, expected ${sha256}. It is not used.`);
      }
      // A full disk or a private window costs offline use, nothing else.
      if (!kept) await cache.put(url, new Response(bytes)).catch(console.warn);
      return bytes;
    },
  });

  const hexadecimal = buffer => [...new Uint8Array(buffer)].map(
    byte => byte.toString(16).padStart(2, '0')).join('');

  async function offerPublishedModels() {
    let offers = [];
    try {
      const response = await fetch('published.json');
      if (response.ok) offers = await response.json();
    } catch (error) {
      console.warn(error);
    }
    el('published').replaceChildren(...offers.map(offer => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = `Fetch ${offer.title} (${(offer.size / 1e6).toFixed(1)} MB, ` +
        `licence ${offer.licence}) from ${offer.host}`;
      button.addEventListener('click', () => openModel(publishedModel(offer)));
      return button;
    }));
  }

  async function openServedModels() {
    let names = [];
    try {
      const response = await fetch('models.json');
      if (response.ok) names = await response.json();
    } catch (error) {
      console.warn(error);
    }
    el('menu').hidden = names.length < 2;
    el('models').replaceChildren(...names.map(each => new Option(each)));
    el('models').addEventListener('change', () =>
      openModel(servedModel(el('models').value)));
    if (names.length) await openModel(servedModel(names[0]));
    else say('Drop an .onnx file here to begin.');
  }

  // ----------------------------------------------------------------- benchmark

  async function runBenchmark() {
    await whileBusy('Warming up …', async () => {
      const {mean, deviation} = await ask('benchmark', {}, [], done => {
        showProgress(done / RUNS);
        el('benchmark-hint').textContent = `${done} of ${RUNS}`;
        // Every run would be too much to listen to.
        if (done % 10 === 0) say(`Run ${done} of ${RUNS}`);
      });
      const key = `${model.resolution} × ${model.resolution}, ${model.backend}`;
      const timing = {...timings.get(key), [model.kind]: {mean, deviation}};
      timings.set(key, timing);
      showTimings();
      say(`${model.title}: ${mean.toFixed(2)} ms, standard deviation ` +
          `${deviation.toFixed(2)} ms.`);
    });
  }

  // Rows as in Table S.1 of the paper's supplement.
  function timingRows() {
    const cell = timing => timing
      ? `${timing.mean.toFixed(2)} / ${timing.deviation.toFixed(2)}` : '- / -';
    const device = el('device').value.trim() || 'Unnamed device';
    return [...timings].map(([key, {migan, comodgan}]) =>
      [`${device} (${key})`, cell(migan), cell(comodgan)]);
  }

  function showTimings() {
    el('rows').replaceChildren(...timingRows().map(cells => {
      const row = document.createElement('tr');
      cells.forEach(text => { row.insertCell().textContent = text; });
      return row;
    }));
    el('table').hidden = el('copy').hidden = timings.size === 0;
  }

  async function copyRows() {
    const text = timingRows().map(
      cells => `| ${cells.map(cell => cell.replaceAll('|', '/')).join(' | ')} |`
    ).join('\n');
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
    } else {
      // Over plain http there is only this.
      const area = document.createElement('textarea');
      area.value = text;
      document.body.append(area);
      area.select();
      const copied = document.execCommand('copy');
      area.remove();
      el('copy').focus();
      if (!copied) throw new Error('This browser copies over https only.');
    }
    say('Copied.');
  }

  // -------------------------------------------------------------------- wiring

  function chooseFile(id, open) {
    el(id).addEventListener('change', () => {
      const [file] = el(id).files;
      if (file) open(file);
      // So that the same file can be chosen again.
      el(id).value = '';
    });
    return () => el(id).click();
  }

  const openFile = file => file.name.toLowerCase().endsWith('.onnx')
    ? openModel(modelFile(file)) : openPicture(file);

  const choosePicture = chooseFile('picture-file', openFile);
  onPress('open', choosePicture);
  onPress('other', choosePicture);
  onPress('photograph', chooseFile('camera-file', openPicture));
  onPress('open-model', chooseFile('model-file', file => openModel(modelFile(file))));
  onPress('undo', undo);
  onPress('inpaint', paintHole);
  onPress('save', save);
  onPress('benchmark', runBenchmark);
  onPress('copy', copyRows);
  el('brush').addEventListener('input', () => {
    el('size').textContent = el('brush').value;
  });
  el('split').addEventListener('input', () => split(el('split').value));
  el('backend').addEventListener('change', () => { if (!busy) loadModel(); });
  el('device').addEventListener('input', showTimings);
  listenToPointer();

  document.addEventListener('keydown', event => {
    const typing = event.target.matches('input[type="text"]');
    if (event.key === 'z' && (event.ctrlKey || event.metaKey) && !typing) {
      event.preventDefault();
      el('undo').click();
    }
  });
  document.addEventListener('dragover', event => {
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', () =>
    document.body.classList.remove('dropping'));
  document.addEventListener('drop', event => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    const [file] = event.dataTransfer.files;
    if (file) openFile(file);
  });

  update();
  deviceName().then(text => { el('device').value = text; });
  keepForOffline().then(offerPublishedModels).then(openServedModels);
}

// 'Pixel 8, Chrome 130': a first guess, for the person to correct.
async function deviceName() {
  const browsers = [
    ['Edg', 'Edge'], ['SamsungBrowser', 'Samsung Internet'], ['FxiOS', 'Firefox'],
    ['Firefox', 'Firefox'], ['CriOS', 'Chrome'], ['Chrome', 'Chrome'],
    ['Version', 'Safari'],
  ];
  const agent = navigator.userAgent;
  const detail = navigator.userAgentData
    ? await navigator.userAgentData.getHighEntropyValues(['model']) : {};
  const systems = /iPhone|iPad|Android|Windows|Macintosh|CrOS|Linux/;
  const words = [detail.model || detail.platform || systems.exec(agent)?.[0]];
  const browser = browsers.find(([token]) => agent.includes(`${token}/`));
  if (browser) {
    words.push(`${browser[1]} ${new RegExp(`${browser[0]}/(\\d+)`).exec(agent)?.[1]}`);
  }
  return words.filter(Boolean).join(', ');
}

// Waits until the service worker sees what is loaded from here on, model included.
async function keepForOffline() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  try {
    const controlled = new Promise(done =>
      workers.addEventListener('controllerchange', done, {once: true}));
    await workers.register('sw.js');
    // After a forced reload no worker takes control.
    const patience = new Promise(done => setTimeout(done, 1500));
    if (!workers.controller) await Promise.race([controlled, patience]);
  } catch (error) {
    // The page works without, as long as its server is there.
    console.warn(error);
  }
}

// ---------------------------------------------------------------------------------
// The model, in the worker
// ---------------------------------------------------------------------------------

// Set by `load`: {ort, session, kind, title, resolution, latent, backend}.
let loaded = null;

function answerTasks(tasks) {
  addEventListener('message', async ({data: {id, task, ...values}}) => {
    try {
      const progress = share => postMessage({id, progress: share});
      const {result, transfer} = await tasks[task](values, progress);
      postMessage({id, result}, transfer || []);
    } catch (error) {
      postMessage({id, error: error?.message || String(error)});
    }
  });
}

// `backend`: 'webgpu', 'wasm' or '' for the better one.
async function load({bytes, backend}) {
  const properties = modelProperties(new Uint8Array(bytes));
  let warning = '';
  let started = null;
  const adapter = backend === 'wasm' ? null : await webGpuAdapter();
  // WebGPU emulated on the processor is far slower than WebAssembly.
  if (adapter && (backend === 'webgpu' || !adapter.info?.isFallbackAdapter)) {
    try {
      started = await startSession('webgpu', bytes);
    } catch (error) {
      if (backend === 'webgpu') throw error;
      warning = `WebGPU failed (${error.message}); WebAssembly runs instead.`;
    }
  } else if (backend === 'webgpu') {
    warning = 'This browser has no WebGPU here; WebAssembly runs instead.';
  }
  started ||= await startSession('wasm', bytes);
  loaded = {...started, ...describe(started.session, properties)};
  const {kind, title, resolution, backend: used} = loaded;
  return {result: {kind, title, resolution, backend: used, warning}};
}

async function webGpuAdapter() {
  try {
    return await navigator.gpu?.requestAdapter();
  } catch {
    return null;
  }
}

async function startSession(backend, bytes) {
  const ort = await importRuntime(RUNTIMES[backend]);
  ort.env.logLevel = 'error';
  // It would take half of the processors, one of two. Without the headers that isolate the
  // page there is one thread, whatever is asked for.
  if (crossOriginIsolated && navigator.hardwareConcurrency === 2) {
    ort.env.wasm.numThreads = 2;
  }
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), {
    executionProviders: backend === 'webgpu' ? ['webgpu', 'wasm'] : ['wasm'],
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3,
  });
  const threads = ort.env.wasm.numThreads || 1;
  return {
    ort, session,
    backend: backend === 'webgpu' ? 'webgpu'
      : `wasm, ${threads} thread${threads > 1 ? 's' : ''}`,
  };
}

async function importRuntime(file) {
  try {
    return await import(file);
  } catch (error) {
    const address = new URL(file, import.meta.url);
    const answer = await fetch(address, {method: 'HEAD'}).catch(() => null);
    if (answer?.status === 404) {
      throw new Error('onnxruntime-web is missing. On the computer that serves this ' +
                      `page, run once: ${FETCH_RUNTIME}`);
    }
    throw error;
  }
}

// What kind of model this is, by the types and shapes of its inputs and outputs.
function describe(session, properties) {
  const inputs = session.inputMetadata, outputs = session.outputMetadata;
  const is = (value, type, rank, channels) => value?.isTensor && value.type === type &&
    value.shape.length === rank && [channels, undefined].includes(
      typeof value.shape[1] === 'number' ? value.shape[1] : channels);
  const size = Number(properties.resolution) || null;
  const [first, second] = inputs;
  if (inputs.length === 2 && is(first, 'uint8', 4, 3) && is(second, 'uint8', 4, 1) &&
      is(outputs[0], 'uint8', 4, 3)) {
    return {kind: 'pipeline', title: properties.model || 'Pipeline', resolution: size};
  }
  const takesLatent = inputs.length === 2 && second.type === 'float32' &&
    second.shape.length === 2 && typeof second.shape[1] === 'number';
  if (is(first, 'float32', 4, 4) && is(outputs[0], 'float32', 4, 3) &&
      (inputs.length === 1 || takesLatent)) {
    const resolution = typeof first.shape[2] === 'number' ? first.shape[2] : size;
    if (!resolution) throw new Error('the model does not say its resolution.');
    return {
      kind: takesLatent ? 'comodgan' : 'migan',
      title: properties.model || (takesLatent ? 'Co-Mod-GAN' : 'MI-GAN'),
      resolution, latent: takesLatent ? second.shape[1] : 0,
    };
  }
  const list = values => values.map(
    ({name, type, shape}) => `${name} ${type}[${shape}]`).join(', ');
  throw new Error(
    `not an inpainting model this page knows: it takes ${list(inputs)} and gives ` +
    `${list(outputs)}. Expected migan_pipeline.onnx, migan.onnx or comodgan.onnx ` +
    'from tools/to_torch.py.');
}

// `metadata_props` of an ONNX file, which onnxruntime-web does not show: fields 14 of
// the protocol buffer ModelProto, each with a key (1) and a value (2).
function modelProperties(bytes) {
  const text = new TextDecoder();
  const fields = (from, to, use) => {
    let at = from;
    const number = () => {
      let value = 0, scale = 1, byte;
      do {
        if (at >= to) throw new Error('not an ONNX file, or cut short.');
        byte = bytes[at++];
        value += (byte & 127) * scale;
        scale *= 128;
      } while (byte & 128);
      return value;
    };
    while (at < to) {
      const tag = number();
      const wire = tag % 8;
      if (wire === 0) number();
      else if (wire === 1) at += 8;
      else if (wire === 5) at += 4;
      else if (wire === 2) {
        const length = number();
        if (at + length > to) throw new Error('not an ONNX file, or cut short.');
        use(Math.floor(tag / 8), at, at + length);
        at += length;
      } else throw new Error('not an ONNX file.');
    }
  };
  const properties = {};
  fields(0, bytes.length, (field, from, to) => {
    if (field !== 14) return;
    const entry = {};
    fields(from, to, (part, start, end) => {
      entry[part] = text.decode(bytes.subarray(start, end));
    });
    properties[entry[1]] = entry[2];
  });
  return properties;
}

// Paints the hole of a picture.
//   pixels: RGBA of the picture; painted: RGBA, opaque where there are strokes.
// Gives the box of pixels that changed, or none, and how long it took.
async function inpaint({width, height, pixels, painted}) {
  const start = performance.now();
  const count = width * height;
  const image = new Uint8Array(3 * count), known = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) image[c * count + i] = pixels[4 * i + c];
    known[i] = painted[4 * i + 3] < 128 ? 255 : 0;
  }
  const result = loaded.kind === 'pipeline'
    ? await runPipeline(image, known, width, height)
    : Math.max(width, height) > loaded.resolution
      ? await paintHoles(image, known, width, height, loaded.resolution, runChecked)
      : await paintSquashed(image, known, width, height);
  const box = changedBox(image, result, width, height);
  const milliseconds = performance.now() - start;
  return {result: {box, milliseconds}, transfer: box ? [box.rgba.buffer] : []};
}

async function runSession(feeds) {
  const {session} = loaded;
  const results = await session.run(feeds);
  const output = results[session.outputNames[0]];
  const data = await output.getData();
  Object.values(results).forEach(tensor => tensor.dispose());
  return data;
}

async function runPipeline(image, known, width, height) {
  const {Tensor} = loaded.ort;
  const [imageName, maskName] = loaded.session.inputNames;
  return runSession({
    [imageName]: new Tensor('uint8', image, [1, 3, height, width]),
    [maskName]: new Tensor('uint8', known, [1, 1, height, width]),
  });
}

// The network alone: f32[4, R, R], mask first -> f32[3, R, R].
async function runCore(input) {
  const {ort: {Tensor}, session, resolution, latent} = loaded;
  const [inputName, latentName] = session.inputNames;
  const shape = [1, 4, resolution, resolution];
  const feeds = {[inputName]: new Tensor('float32', input, shape)};
  if (latent) {
    feeds[latentName] = new Tensor(
      'float32', Float32Array.from({length: latent}, normal), [1, latent]);
  }
  return runSession(feeds);
}

async function runChecked(input) {
  const output = await runCore(input);
  if (!output.every(Number.isFinite)) {
    throw new Error('The model painted values that are no numbers. Try the other ' +
                    'backend; if it does the same, the model is damaged.');
  }
  return output;
}

function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) *
    Math.cos(2 * Math.PI * Math.random());
}

// A picture up to R x R squashed, painted and put into the hole, as tools/inpaint.py
// does it with --mode=resize.
async function paintSquashed(image, known, width, height) {
  const side = loaded.resolution, area = side * side;
  const seen = resizeBicubic(image, width, height, side, side);
  const input = new Float32Array(4 * area);
  for (let y = 0; y < side; y++) {
    const row = Math.floor((y + 0.5) * height / side);
    for (let x = 0; x < side; x++) {
      const i = y * side + x;
      const column = Math.floor((x + 0.5) * width / side);
      const keep = known[row * width + column] === 255 ? 1 : 0;
      input[i] = keep - 0.5;
      for (let c = 0; c < 3; c++) {
        input[(c + 1) * area + i] = (seen[c * area + i] / 127.5 - 1) * keep;
      }
    }
  }
  const output = await runChecked(input);
  const levels = Uint8Array.from(
    output, value => Math.floor(Math.min(Math.max(127.5 * value + 128, 0), 255)));
  const result = resizeBicubic(levels, side, side, width, height);
  const count = width * height;
  for (let i = 0; i < count; i++) {
    if (known[i] !== 255) continue;
    for (let c = 0; c < 3; c++) result[c * count + i] = image[c * count + i];
  }
  return result;
}

// Planes u8[3, height, width] at another size: bicubic (a = -1/2), antialiased, rounded
// to levels after each axis, as Pillow does it. Columns first; newer Pillows take the
// rows of a tall picture first, which rounds and clips in other places.
function resizeBicubic(planes, width, height, newWidth, newHeight) {
  const columns = resizeTaps(width, newWidth), rows = resizeTaps(height, newHeight);
  const wide = new Uint8ClampedArray(3 * height * newWidth);
  for (let row = 0; row < 3 * height; row++) {
    for (let x = 0; x < newWidth; x++) {
      const {first, weights} = columns[x];
      let sum = 0;
      for (let k = 0; k < weights.length; k++) {
        sum += weights[k] * planes[row * width + first + k];
      }
      wide[row * newWidth + x] = sum;
    }
  }
  const result = new Uint8ClampedArray(3 * newHeight * newWidth);
  const line = new Float64Array(newWidth);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < newHeight; y++) {
      const {first, weights} = rows[y];
      line.fill(0);
      for (let k = 0; k < weights.length; k++) {
        const from = (c * height + first + k) * newWidth;
        for (let x = 0; x < newWidth; x++) line[x] += weights[k] * wide[from + x];
      }
      result.set(line, (c * newHeight + y) * newWidth);
    }
  }
  return new Uint8Array(result.buffer);
}

// The pixels in which two u8[3, height, width] differ, as RGBA; null if none.
function changedBox(before, after, width, height) {
  const count = width * height;
  let left = width, right = -1, top = height, bottom = -1;
  for (let i = 0; i < 3 * count; i++) {
    if (before[i] === after[i]) continue;
    const at = i % count, x = at % width, y = (at - x) / width;
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  if (right < 0) return null;
  const box = {left, top, width: right - left + 1, height: bottom - top + 1};
  box.rgba = new Uint8ClampedArray(4 * box.width * box.height).fill(255);
  for (let y = 0, to = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++, to += 4) {
      const from = (top + y) * width + left + x;
      for (let c = 0; c < 3; c++) box.rgba[to + c] = after[c * count + from];
    }
  }
  return box;
}

// Times the network on noise with a square hole.
async function benchmark(values, onProgress) {
  const side = loaded.resolution, area = side * side;
  const input = Float32Array.from({length: 4 * area}, () => 2 * Math.random() - 1);
  for (let i = 0; i < area; i++) {
    const x = i % side, y = (i - x) / side;
    const hole = [x, y].every(at => at >= side / 4 && at < 3 * side / 4);
    input[i] = hole ? -0.5 : 0.5;
    if (hole) for (let c = 1; c < 4; c++) input[c * area + i] = 0;
  }
  const times = [];
  for (let run = -WARM_UPS; run < RUNS; run++) {
    const start = performance.now();
    await runCore(input);
    if (run < 0) continue;
    times.push(performance.now() - start);
    onProgress(run + 1);
  }
  const mean = times.reduce((sum, time) => sum + time, 0) / RUNS;
  const squares = times.reduce((sum, time) => sum + (time - mean) ** 2, 0);
  const variance = squares / (RUNS - 1);
  return {result: {mean, deviation: Math.sqrt(variance)}};
}
