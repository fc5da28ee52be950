"""Makes a blind pairwise study: one HTML file that asks which result looks better.

    python tools/make_study.py --images=photos --masks=masks --out=study \\
        --methods="Co-Mod-GAN=painted/comodgan;MI-GAN=painted/migan"

Writes OUT.html, to send to participants, and OUT.key.json, to keep.  The page holds all
pictures, needs no server, and shows for every image and pair of methods the masked
input and two results, order and side drawn from --seed; nothing in it says which method
is which.  Its button saves the answers as a JSON file.  `tools/tally_study.py` counts
them.  Masks: white = known.
"""

import base64
from collections.abc import Mapping, Sequence
import hashlib
import itertools
import json
from typing import Any

from absl import flags
import numpy as np

import make_grid
from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax import storage

_PAGE = '''<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Which looks better?</title>
<style>
body { font-family: sans-serif; text-align: center; margin: 2em auto; }
figure { display: inline-block; margin: .5em; vertical-align: top; }
img { width: min(30vw, 512px); image-rendering: auto; border: 3px solid transparent; }
button img:hover { border-color: #888; }
.chosen img { border-color: #06c; }
button { background: none; border: none; padding: 0; cursor: pointer; }
p button { border: 1px solid #888; padding: .4em 1em; margin: .2em; }
</style>
<h1>Which looks better?</h1>
<p>The grey parts of the picture in the middle were painted in two ways. Choose the one
that looks more real. Left and right arrow keys work too.</p>
<p id="count"></p>
<div>
<figure><button id="left"><img id="a" alt="left result"></button></figure>
<figure><img id="input" alt="picture with holes"></figure>
<figure><button id="right"><img id="b" alt="right result"></button></figure>
</div>
<p><button id="back">back</button> <button id="skip">skip</button>
<button id="save">save answers</button></p>
<script>
const study = STUDY;
const answers = {};
let place = 0;
const get = id => document.getElementById(id);
function show() {
  const pair = study.pairs[place];
  get('a').src = study.pictures[pair.left];
  get('b').src = study.pictures[pair.right];
  get('input').src = study.pictures[pair.input];
  get('left').className = answers[pair.id] === 'left' ? 'chosen' : '';
  get('right').className = answers[pair.id] === 'right' ? 'chosen' : '';
  get('count').textContent = `${place + 1} of ${study.pairs.length}, ` +
    `${Object.keys(answers).length} answered`;
}
function move(by) {
  place = Math.min(Math.max(place + by, 0), study.pairs.length - 1);
  show();
}
function choose(side) {
  answers[study.pairs[place].id] = side;
  move(1);
}
function save() {
  const text = JSON.stringify({study: study.id, answers: answers}, null, 1);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = `answers-${study.id}-${Date.now()}.json`;
  link.click();
}
get('left').onclick = () => choose('left');
get('right').onclick = () => choose('right');
get('back').onclick = () => move(-1);
get('skip').onclick = () => move(1);
get('save').onclick = save;
document.onkeydown = event => {
  if (event.key === 'ArrowLeft') choose('left');
  if (event.key === 'ArrowRight') choose('right');
};
show();
</script>
</html>
'''


def make(rows: Mapping[str, Mapping[str, np.ndarray]], seed: int) -> tuple[str, dict[str, Any]]:
    """The page and the key.

    Args:
      rows: {stem: {'original', 'masked', method: u8[R, R, 3]}} of `make_grid.load`.
      seed: of order and sides.

    Returns:
      HTML text; {'study': id, 'pairs': {id: {'image', 'left', 'right'}}}, the two
      sides being names of methods.

    Raises:
      ValueError: fewer than two methods.
    """
    rng = np.random.default_rng(seed)
    methods = [name for name in next(iter(rows.values()))
               if name not in ('original', 'masked')]
    if len(methods) < 2:
        raise ValueError(f'--methods: a pair needs two, got {methods}')
    pictures, pairs, sides = {}, [], {}

    def add(pixels):
        """The name of a picture on the page: its number, which betrays nothing."""
        name = f'p{len(pictures):05d}'
        pictures[name] = 'data:image/png;base64,' + base64.b64encode(
            image_files.png(pixels)).decode()
        return name

    todo = [(stem, *pair) for stem in rows
            for pair in itertools.combinations(methods, 2)]
    masked = {}
    for i, k in enumerate(rng.permutation(len(todo))):
        stem, *pair = todo[k]
        left, right = pair if rng.random() < 0.5 else reversed(pair)
        if stem not in masked:
            masked[stem] = add(rows[stem]['masked'])
        pairs.append({'id': f'q{i:04d}', 'input': masked[stem],
                      'left': add(rows[stem][left]), 'right': add(rows[stem][right])})
        sides[pairs[-1]['id']] = {'image': stem, 'left': left, 'right': right}
    content = json.dumps([pairs, pictures, sides]).encode()
    study = hashlib.sha256(content).hexdigest()[:12]
    data = json.dumps({'id': study, 'pairs': pairs, 'pictures': pictures})
    # A script element ends at the first "</", wherever it stands.
    page = _PAGE.replace('STUDY', data.replace('</', '<\\/'), 1)
    return page, {'study': study, 'seed': seed, 'pairs': sides}


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    methods = make_grid.parse_methods(args.methods)
    files = [f'{args.out}.html', f'{args.out}.key.json']
    make_grid.check_out(files, args, methods)
    rows = make_grid.load(args.images, args.masks, methods, args.stems, args.rows)
    page, key = make(rows, args.seed)
    storage.write_atomically(files[0], page.encode())
    storage.write_atomically(files[1], json.dumps(key, indent=1).encode())
    print(f'{len(key["pairs"])} pairs in {args.out}.html; keep {args.out}.key.json')


def define_flags() -> None:
    flags.DEFINE_string('images', None, 'Folder of originals.', required=True)
    flags.DEFINE_string('masks', None, 'Folder of masks, white = known.', required=True)
    flags.DEFINE_string('methods', None, '"NAME=FOLDER;NAME=FOLDER".', required=True)
    flags.DEFINE_string('out', None, 'Path of the two files, no suffix.', required=True)
    flags.DEFINE_list('stems', [], 'Which images, no extension; default: the first.')
    flags.DEFINE_integer('rows', 40, 'At most so many images.', lower_bound=1)
    flags.DEFINE_integer('seed', 0, 'Of order and sides.')
    flags.DEFINE_bool('overwrite', False, 'The files may lie among the inputs.')


if __name__ == '__main__':
    # Not at import: the tools share flag names, and tests import several of them.
    define_flags()
    cli.run(main)
