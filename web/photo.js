// Which hole of a picture is painted how, and the painting: migan_jax/photo/plan.py and
// paint.py for the page, without feather and grain. Masks: 1 = known, 0 = hole.
//
// A box is {top, bottom, left, right}, ends exclusive.

const NATIVE_SHARE = 0.75, TILE_SHARE = 0.5, THICKEST_TILE = 0.5, SCALED_CONTEXT = 0.25;
// Windows that don't see each other's paint.
const BATCH = 8;
// Of seam.py: what is compared across a hole's edge, along it, over which length a shift
// fades, passes, and pixels of the network round a hole that matter for it.
const ACROSS = 0.7, ALONG = 4, FADING = 8, PASSES = 8, MARGIN = 4;

// Groups of holes, {route, factor, windows: [{seen, core}]}, in the order of painting.
//   known: Uint8Array of height rows; resolution: R of the network.
export function plan(known, width, height, resolution) {
  const block = Math.max(1, Math.floor(resolution / 32));
  const picture = {width, height};
  const blocks = blocksWithHoles(known, width, height, block);
  const thick = thickParts(blocks, resolution / block);
  const pixels = box => ({
    top: box.top * block, bottom: Math.min(box.bottom * block, height),
    left: box.left * block, right: Math.min(box.right * block, width)});
  const window = core => ({seen: square(core, resolution, picture), core});

  const groups = parts(thick).map(part => {
    const core = pixels(part.box);
    const longest = Math.max(core.bottom - core.top, core.right - core.left);
    const side = Math.max(resolution, roundEven(longest * (1 + 2 * SCALED_CONTEXT)));
    return {route: 'scaled', factor: side / resolution,
            windows: [{seen: square(core, side, picture), core}]};
  });
  const thin = {...blocks, set: blocks.set.map((on, i) => on && !thick.set[i] ? 1 : 0)};
  const room = Math.floor(NATIVE_SHARE * resolution);
  const small = [], long = [];
  for (const part of parts(thin)) {
    const core = pixels(part.box);
    if (Math.max(core.bottom - core.top, core.right - core.left) <= room) small.push(core);
    else long.push(part.points);
  }
  for (const core of shared(small, room)) {
    groups.push({route: 'native', factor: 1, windows: [window(core)]});
  }
  const side = Math.max(1, Math.floor(Math.floor(TILE_SHARE * resolution) / block));
  for (const points of long) {
    groups.push({route: 'tiles', factor: 1,
                 windows: along(points, side).map(box => window(pixels(box)))});
  }
  return groups;
}

// To the nearest whole number, halves to the even one, as Python rounds.
function roundEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
}

function blocksWithHoles(known, width, height, block) {
  const columns = Math.ceil(width / block), rows = Math.ceil(height / block);
  const set = new Uint8Array(columns * rows);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(y / block) * columns;
    for (let x = 0; x < width; x++) {
      if (!known[y * width + x]) set[row + Math.floor(x / block)] = 1;
    }
  }
  return {set, width: columns, height: rows};
}

// Connected parts, corners counting, in the order of their first points:
// {box, points: [[row, column]] in order}.
function parts({set, width, height}) {
  const label = new Int32Array(width * height), found = [];
  for (let start = 0; start < set.length; start++) {
    if (!set[start] || label[start]) continue;
    const inside = [], left = [start];
    label[start] = found.length + 1;
    while (left.length) {
      const at = left.pop(), x = at % width, y = (at - x) / width;
      inside.push(at);
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const to = v * width + u;
          if (set[to] && !label[to]) {
            label[to] = found.length + 1;
            left.push(to);
          }
        }
      }
    }
    const points = inside.sort((a, b) => a - b).map(
      at => [Math.floor(at / width), at % width]);
    const box = {top: height, bottom: 0, left: width, right: 0};
    for (const [y, x] of points) {
      box.top = Math.min(box.top, y);
      box.bottom = Math.max(box.bottom, y + 1);
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
    }
    found.push({box, points});
  }
  return found;
}

// The parts of holes that no window of `side` blocks could surround.
function thickParts(blocks, side) {
  const {width, height} = blocks;
  const thick = new Uint8Array(width * height);
  const radius = Math.max(THICKEST_TILE * side / 2, 1);
  for (const {box, points} of parts(blocks)) {
    const rows = box.bottom - box.top, columns = box.right - box.left;
    if (Math.max(rows, columns) <= NATIVE_SHARE * side ||
        Math.min(rows, columns) <= 2 * radius) continue;
    // With a border of what is no hole.
    const wide = columns + 2, outside = new Uint8Array(wide * (rows + 2)).fill(1);
    for (const [y, x] of points) outside[(y - box.top + 1) * wide + x - box.left + 1] = 0;
    const depth = squaredDistance(outside, wide, rows + 2);
    const inner = new Uint8Array(columns * rows);
    for (const [y, x] of points) {
      const at = (y - box.top + 1) * wide + x - box.left + 1;
      if (depth[at] > radius * radius) inner[(y - box.top) * columns + x - box.left] = 1;
    }
    if (!inner.some(Boolean)) continue;
    const away = squaredDistance(inner, columns, rows);
    const near = new Uint8Array(columns * rows);
    for (const [y, x] of points) {
      const at = (y - box.top) * columns + x - box.left;
      if (away[at] <= 4 * radius * radius) near[at] = 1;
    }
    for (const part of parts({set: near, width: columns, height: rows})) {
      if (Math.max(part.box.bottom - part.box.top, part.box.right - part.box.left) <=
          NATIVE_SHARE * side) continue;
      for (const [y, x] of part.points) thick[(y + box.top) * width + x + box.left] = 1;
    }
  }
  return {set: thick, width, height};
}

// Squared distance of each point to the nearest one that is set, by lower envelopes of
// parabolas (Felzenszwalb and Huttenlocher, Distance transforms of sampled functions).
function squaredDistance(set, width, height) {
  const result = Float64Array.from(set, on => on ? 0 : 1e12);
  const line = (start, step, count) => {
    const values = Float64Array.from({length: count}, (_, i) => result[start + i * step]);
    const at = [0], from = [-Infinity];
    for (let q = 1; q < count; q++) {
      let cross;
      for (;;) {
        const p = at[at.length - 1];
        cross = (values[q] + q * q - values[p] - p * p) / (2 * (q - p));
        if (cross > from[from.length - 1]) break;
        at.pop();
        from.pop();
      }
      at.push(q);
      from.push(cross);
    }
    for (let i = 0, k = 0; i < count; i++) {
      while (k + 1 < at.length && from[k + 1] < i) k++;
      result[start + i * step] = (i - at[k]) ** 2 + values[at[k]];
    }
  };
  for (let x = 0; x < width; x++) line(x, width, height);
  for (let y = 0; y < height; y++) line(y * width, 1, width);
  return result;
}

// A square round a box, moved to lie inside the picture, cut where that is smaller.
function square(box, side, {width, height}) {
  const span = (first, last, length) => {
    const start = Math.floor((first + last) / 2) - Math.floor(side / 2);
    const moved = Math.min(Math.max(start, 0), Math.max(length - side, 0));
    return [moved, Math.min(moved + side, length)];
  };
  const [top, bottom] = span(box.top, box.bottom, height);
  const [left, right] = span(box.left, box.right, width);
  return {top, bottom, left, right};
}

// Joins small boxes while they fit into a square of `room` pixels, near ones first.
function shared(boxes, room) {
  const middle = box => (box.top + box.bottom + box.left + box.right) / 2;
  let left = [...boxes].sort((a, b) => a.top - b.top || a.left - b.left);
  const joined = [];
  while (left.length) {
    let box = left[0];
    const here = middle(box), taken = new Set();
    const near = left.filter(other => other.top < box.top + room);
    near.sort((a, b) => Math.abs(middle(a) - here) - Math.abs(middle(b) - here));
    for (const other of near) {
      const both = {
        top: Math.min(box.top, other.top), bottom: Math.max(box.bottom, other.bottom),
        left: Math.min(box.left, other.left), right: Math.max(box.right, other.right)};
      if (both.bottom - both.top > room || both.right - both.left > room) continue;
      taken.add(other);
      box = both;
    }
    joined.push(box);
    left = left.filter(other => !taken.has(other));
  }
  return joined;
}

// Boxes of at most `side` blocks that cover points, each beside the one before.
function along(points, side) {
  const mean = list => [0, 1].map(
    i => list.reduce((sum, point) => sum + point[i], 0) / list.length);
  const distance = (a, b) => Math.max(Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1]));
  const best = (list, value) => list.reduce(
    (a, b) => value(b) > value(a) ? b : a);
  const middle = mean(points);
  // From an end: the point farthest from the middle.
  let here = best(points, point => distance(point, middle));
  const boxes = [];
  while (points.length) {
    const start = best(points, point => -distance(point, here));
    const nearest = points.filter(point => distance(point, start) < side)
      .sort((a, b) => distance(a, start) - distance(b, start));
    let [top, left] = nearest[0], [bottom, right] = nearest[0], count = 0;
    for (const [y, x] of nearest) {
      const grown = [Math.min(top, y), Math.max(bottom, y), Math.min(left, x),
                     Math.max(right, x)];
      if (Math.max(grown[1] - grown[0], grown[3] - grown[2]) >= side) break;
      [top, bottom, left, right] = grown;
      count++;
    }
    boxes.push({top, bottom: bottom + 1, left, right: right + 1});
    points = points.filter(
      ([y, x]) => y < top || y > bottom || x < left || x > right);
    here = mean(nearest.slice(0, count));
  }
  return boxes;
}

// Paints every hole at a scale of its own.
//   image: u8[3, height, width]; known: Uint8Array, 255 = known.
//   paint: f32[4, R, R], mask first -> f32[3, R, R].
// Gives u8[3, height, width]; what is known keeps its bytes.
export async function paintHoles(image, known, width, height, resolution, paint) {
  const result = image.slice(), done = known.map(level => level === 255 ? 1 : 0);
  const picture = {result, done, width, height};
  for (const batch of batches(plan(done, width, height, resolution))) {
    const seen = batch.map(({group, window}) =>
      look(picture, window.seen, group.factor, resolution));
    for (const [i, {group, window}] of batch.entries()) {
      const output = await paint(networkInput(seen[i], resolution));
      finish(picture, output, seen[i], group, window, resolution);
    }
    for (const {window: {core}} of batch) {
      for (let y = core.top; y < core.bottom; y++) {
        done.fill(1, y * width + core.left, y * width + core.right);
      }
    }
  }
  return result;
}

// All scaled holes, all native ones, then the first tile of each long hole, and so on.
function* batches(groups) {
  for (const route of ['scaled', 'native', 'tiles']) {
    const chosen = groups.filter(group => group.route === route);
    const rounds = Math.max(0, ...chosen.map(group => group.windows.length));
    for (let turn = 0; turn < rounds; turn++) {
      const now = chosen.filter(group => turn < group.windows.length)
        .map(group => ({group, window: group.windows[turn]}));
      for (let i = 0; i < now.length; i += BATCH) yield now.slice(i, i + BATCH);
    }
  }
}

// Levels f32[3, R, R] and known u8[R, R] of a window, mirrored where the picture ends;
// height and width are those before that.
function look({result, done, width, height}, seen, factor, side) {
  const rows = seen.bottom - seen.top, columns = seen.right - seen.left;
  let levels = [0, 1, 2].map(c => new Float32Array(rows * columns));
  let share = new Float32Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const from = (seen.top + y) * width + seen.left + x;
      if (!done[from]) continue;
      share[y * columns + x] = 1;
      for (let c = 0; c < 3; c++) {
        levels[c][y * columns + x] = result[c * width * height + from];
      }
    }
  }
  let small = {height: rows, width: columns};
  if (factor !== 1) {
    small = {height: Math.max(1, roundEven(rows / factor)),
             width: Math.max(1, roundEven(columns / factor))};
    const reduced = plane => resample(
      plane, columns, rows, small.width, small.height, triangle, 1);
    // Means of known pixels only: a hole's colours don't bleed.
    share = reduced(share);
    levels = levels.map(plane => reduced(plane).map(
      (level, i) => Math.min(Math.max(level / Math.max(share[i], 1e-6), 0), 255)));
  }
  const square = new Float32Array(3 * side * side), sure = new Uint8Array(side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const from = mirrored(y, small.height) * small.width + mirrored(x, small.width);
      sure[y * side + x] = share[from] >= 0.5 ? 1 : 0;
      for (let c = 0; c < 3; c++) {
        square[(c * side + y) * side + x] = levels[c][from];
      }
    }
  }
  return {levels: square, sure, ...small};
}

function mirrored(i, length) {
  const at = (i % (2 * length) + 2 * length) % (2 * length);
  return at < length ? at : 2 * length - 1 - at;
}

function networkInput({levels, sure}, side) {
  const area = side * side, input = new Float32Array(4 * area);
  for (let i = 0; i < area; i++) {
    input[i] = sure[i] - 0.5;
    for (let c = 0; c < 3; c++) {
      input[(c + 1) * area + i] = (levels[c * area + i] / 127.5 - 1) * sure[i];
    }
  }
  return input;
}

// Puts what was painted into the holes of a window's core.
function finish({result, done, width, height}, output, seen, group, {seen: box, core},
                side) {
  const rows = core.bottom - core.top, columns = core.right - core.left;
  const fill = output.map(value => Math.min(Math.max(127.5 * value + 127.5, 0), 255));
  meet(fill, seen, {
    top: Math.max(Math.floor((core.top - box.top) / group.factor) - MARGIN, 0),
    bottom: Math.min(Math.ceil((core.bottom - box.top) / group.factor) + MARGIN, side),
    left: Math.max(Math.floor((core.left - box.left) / group.factor) - MARGIN, 0),
    right: Math.min(Math.ceil((core.right - box.left) / group.factor) + MARGIN, side),
  }, side);
  for (let c = 0; c < 3; c++) {
    let painted;
    if (group.factor === 1) {
      painted = (y, x) => fill[
        (c * side + core.top - box.top + y) * side + core.left - box.left + x];
    } else {
      // Enlarged from known pixels outside the hole, so that its edge is theirs.
      const small = new Float32Array(seen.height * seen.width);
      for (let y = 0; y < seen.height; y++) {
        for (let x = 0; x < seen.width; x++) {
          const from = y * side + x, plane = c * side * side;
          small[y * seen.width + x] = (seen.sure[from] ? seen.levels : fill)[plane + from];
        }
      }
      const down = seen.height / (box.bottom - box.top);
      const across = seen.width / (box.right - box.left);
      const large = resample(small, seen.width, seen.height, columns, rows, cubic, 2, {
        left: (core.left - box.left) * across, right: (core.right - box.left) * across,
        top: (core.top - box.top) * down, bottom: (core.bottom - box.top) * down});
      painted = (y, x) => large[y * columns + x];
    }
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const to = (core.top + y) * width + core.left + x;
        if (done[to]) continue;
        result[c * width * height + to] =
          Math.round(Math.min(Math.max(painted(y, x), 0), 255));
      }
    }
  }
}

// Shifts what was painted in the holes of a box so that it meets its surroundings, as
// migan_jax/photo/seam.py does.
//   fill: f32[3, side, side], changed; seen: of `look`.
function meet(fill, seen, {top, bottom, left, right}, side) {
  const height = bottom - top, width = right - left;
  const cut = plane => Float32Array.from({length: height * width}, (_, i) =>
    plane[(top + Math.floor(i / width)) * side + left + i % width]);
  const known = cut(seen.sure), hole = known.map(on => 1 - on);
  if (!known.some(Boolean) || !hole.some(Boolean)) return;
  const rim = hole.map((on, i) => {
    const x = i % width, y = (i - x) / width;
    for (let v = Math.max(y - 1, 0); on && v <= Math.min(y + 1, height - 1); v++) {
      for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
        if (known[v * width + u]) return 1;
      }
    }
    return 0;
  });
  const near = (plane, where, sigma) => {
    const total = blurred(plane.map((x, i) => x * where[i]), width, height, sigma);
    const share = blurred(where, width, height, sigma);
    return total.map((x, i) => x / Math.max(share[i], 1e-4));
  };
  for (let c = 0; c < 3; c++) {
    const plane = c * side * side;
    const painted = cut(fill.subarray(plane));
    const outside = near(cut(seen.levels.subarray(plane)), known, ACROSS);
    const inside = near(painted, hole, ACROSS);
    const step = outside.map((x, i) => x - inside[i]);
    const mean = near(step, rim, ALONG);
    // A step that is small beside what varies along the edge is none: texture.
    const spread = near(step.map((x, i) => (x - mean[i]) ** 2), rim, ALONG);
    const sure = mean.map((x, i) => x ** 3 / (x ** 2 + spread[i] + 1e-3));
    const shift = continued(sure, rim, width, height, 1 / (FADING * FADING));
    for (let i = 0; i < height * width; i++) {
      if (known[i]) continue;
      const to = plane + (top + Math.floor(i / width)) * side + left + i % width;
      fill[to] = Math.min(Math.max(painted[i] + shift[i], 0), 255);
    }
  }
}

// Gaussian of a plane, mirrored at its borders.
function blurred(plane, width, height, sigma) {
  const radius = Math.floor(4 * sigma + 0.5);
  const weights = Array.from({length: 2 * radius + 1},
                             (_, i) => Math.exp(-0.5 * ((i - radius) / sigma) ** 2));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const along = (values, across) => values.map((_, at) => {
    const x = at % width, y = (at - x) / width;
    return weights.reduce((sum, weight, i) => sum + weight / total * values[across
      ? y * width + mirrored(x + i - radius, width)
      : mirrored(y + i - radius, height) * width + x], 0);
  });
  return along(along(plane, false), true);
}

// Continues values to where there are none: each the mean of its four neighbours, from a
// pyramid of means downwards.
function continued(values, where, width, height, fading) {
  const result = values.map((x, i) => where[i] ? x : 0);
  if (Math.max(width, height) === 1 || where.every(Boolean)) return result;
  const columns = Math.ceil(width / 2), rows = Math.ceil(height / 2);
  const means = new Float32Array(columns * rows), count = new Float32Array(columns * rows);
  for (let i = 0; i < result.length; i++) {
    const to = Math.floor(i / width / 2) * columns + Math.floor(i % width / 2);
    means[to] += result[i];
    count[to] += where[i];
  }
  const coarse = continued(means.map((x, i) => x / Math.max(count[i], 1)),
                           count.map(n => n ? 1 : 0), columns, rows, 4 * fading);
  // To twice the size, linearly.
  const clipped = (i, length) => Math.min(Math.max(i, 0), length - 1);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (where[y * width + x]) continue;
      const v = y >> 1, u = x >> 1;
      const v2 = clipped(v + (y & 1 ? 1 : -1), rows);
      const u2 = clipped(u + (x & 1 ? 1 : -1), columns);
      const at = (a, b) => coarse[a * columns + b];
      result[y * width + x] = 0.75 * (0.75 * at(v, u) + 0.25 * at(v2, u))
        + 0.25 * (0.75 * at(v, u2) + 0.25 * at(v2, u2));
    }
  }
  for (let pass = 0; pass < PASSES; pass++) {
    const before = result.slice();
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (where[y * width + x]) continue;
        const at = (v, u) => before[clipped(v, height) * width + clipped(u, width)];
        result[y * width + x] = (at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1))
          / (4 + fading);
      }
    }
  }
  return result;
}

const triangle = x => Math.max(0, 1 - Math.abs(x));

export function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
}

// For each new position: the first old one it mixes, and the weights from there on, of
// the old ones between start and end, antialiased as Pillow does it.
export function resizeTaps(length, newLength, kernel = cubic, support = 2, start = 0,
                           end = length) {
  const scale = (end - start) / newLength, stretch = Math.max(scale, 1);
  return Array.from({length: newLength}, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(Math.floor(centre - support * stretch + 0.5), 0);
    const last = Math.min(Math.floor(centre + support * stretch + 0.5), length);
    const weights = Float64Array.from(
      {length: last - first}, (_, k) => kernel((first + k + 0.5 - centre) / stretch));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return {first, weights: weights.map(weight => weight / total)};
  });
}

// One plane at another size, in floating point; box: the part that is taken.
function resample(plane, width, height, newWidth, newHeight, kernel, support,
                  box = {left: 0, right: width, top: 0, bottom: height}) {
  const columns = resizeTaps(width, newWidth, kernel, support, box.left, box.right);
  const rows = resizeTaps(height, newHeight, kernel, support, box.top, box.bottom);
  const wide = new Float32Array(height * newWidth);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      const {first, weights} = columns[x];
      let sum = 0;
      for (let k = 0; k < weights.length; k++) {
        sum += weights[k] * plane[y * width + first + k];
      }
      wide[y * newWidth + x] = sum;
    }
  }
  const result = new Float32Array(newHeight * newWidth);
  for (let y = 0; y < newHeight; y++) {
    const {first, weights} = rows[y];
    for (let x = 0; x < newWidth; x++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) {
        sum += weights[k] * wide[(first + k) * newWidth + x];
      }
      result[y * newWidth + x] = sum;
    }
  }
  return result;
}
