"""Unpacks freely licensed photographs of Debian packages for `tools/train_demo.sh`.

    python tools/demo_photos.py --packages=DIR --out=PHOTOS

DIR has a folder per package, the result of `dpkg -x PACKAGE.deb DIR/PACKAGE`.  The
photographs go to PHOTOS/train and PHOTOS/test, shrunk to a shorter side of 512 pixels:
crops of them are what a small model sees, and large ones would cost more time than the
training.  The packages carry drawings and renderings besides, which are left out.  With
them go the photographs that scikit-image and scikit-learn carry, without the strip that
the quickstart is evaluated on.

    python tools/demo_photos.py --packages=DIR --out=PHOTOS --full_size

copies the packages' photographs as they are, for `tools/benchmark.py --what=photo`.

    python tools/demo_photos.py --list

prints the photographs with their authors and licences, as a table for the model's card.
"""

from collections.abc import Sequence
import os
import pathlib
import shutil
from typing import NamedTuple

from absl import flags
from PIL import Image

from migan_jax import cli
from migan_jax.data import sources

SHORTER_SIDE = 512
# Photographs that come with scikit-image and scikit-learn, and are taken.
EMBEDDED = 6


class Photo(NamedTuple):
    """A photograph of a package.

    Attributes:
      package: Debian's name.
      path: inside the package, below /usr/share.
      author: as the package names them.
      licence: SPDX name.
      test: held out.
    """
    package: str
    path: str
    author: str
    licence: str
    test: bool = False


def _lomiri(release, *photos):
    return [Photo(f'lomiri-wallpapers-{release}', f'backgrounds/{file}.jpg', *rest)
            for file, *rest in photos]


def _mate(*photos):
    return [Photo('mate-backgrounds', f'backgrounds/mate/nature/{file}.jpg', author,
                  'GPL-2.0-or-later', *rest) for file, author, *rest in photos]


def _plasma(*photos):
    return [Photo('plasma-workspace-wallpapers',
                  f'wallpapers/{name}/contents/images/2560x1600.jpg', author,
                  'LGPL-3.0-only', *rest) for name, author, *rest in photos]


PHOTOS = (
    *_lomiri(
        '16.04',
        ('Bridge_by_Sander_Klootwijk', 'Sander Klootwijk', 'CC-BY-SA-4.0'),
        ('Dragonfly_by_Bolly', 'Bolly', 'CC-BY-SA-4.0'),
        ('Picture_0B_by_freespace', 'Trevor "Freespace"', 'CC-BY-4.0'),
        ('Picture_1A_by_freespace', 'Trevor "Freespace"', 'CC-BY-4.0'),
        ('Wine_by_Jakkub_Mede', 'Jakub Mede', 'CC-BY-4.0'),
        ('aitzgorri_by_Aitzol_Berasategi', 'Aitzol Berasategi', 'CC-BY-4.0'),
        ('free_by_Peter_Nerlich', 'Peter Nerlich', 'CC-BY-SA-4.0'),
        ('friends_by_Aitzol_Berasategi', 'Aitzol Berasategi', 'CC-BY-4.0', True),
        ('greentock_by_Peter_Nerlich', 'Peter Nerlich', 'CC-BY-SA-4.0'),
        ('life_by_Aitzol_Berasategi', 'Aitzol Berasategi', 'CC-BY-4.0'),
        ('picosdeeuropa_by_Aitzol_Berasategi', 'Aitzol Berasategi', 'CC-BY-4.0', True),
        ('seeding_by_Clements_Engelhardt', 'Clemens Engelhardt', 'CC0-1.0'),
        ('sunset_by_Aitzol_Berasategi', 'Aitzol Berasategi', 'CC-BY-4.0'),
    ),
    *_lomiri('20.04', ('Kleiber_by_Lukas_Baubkus', 'Lukas Baubkus', 'CC-BY-SA-3.0')),
    *_mate(
        ('Aqua', 'Charles Barbin'),
        ('Blinds', 'Lennart Poettering, Andrea Cimitan'),
        ('Dune', 'Marco Cogoni, Hylke Bons'),
        ('FreshFlower', 'Jens Ansorg'),
        ('Garden', 'Charles Barbin'),
        ('GreenMeadow', 'Timothy Schellhase, Lapo Calamandrei'),
        ('LadyBird', 'Charles Barbin', True),
        ('RainDrops', 'blackcombwhistler07'),
        ('Storm', 'Sergey Nazarov'),
        ('TwoWings', 'Charles Barbin, Hylke Bons'),
        ('Wood', 'Jean-François Fortin Tam'),
        ('YellowFlower', 'Charles Barbin'),
    ),
    *_plasma(
        ('BytheWater', 'Maciej Wiklo'),
        ('ColdRipple', 'Risto Saukonpää'),
        ('ColorfulCups', 'Dmitri Popov'),
        ('DarkestHour', 'Risto Saukonpää'),
        ('EveningGlow', 'Ian Hex', True),
        ('FallenLeaf', 'Martin Klapetek'),
        ('Grey', 'Sigi Sagi'),
        ('Kite', 'Risto Saukonpää', True),
        ('OneStandsOut', 'Risto Saukonpää'),
        ('Path', 'Risto Saukonpää'),
        ('summer_1am', 'Risto Saukonpää'),
    ),
)


def table() -> str:
    """The photographs as a Markdown table."""
    rows = ['| photograph | package | author | licence | |', '|---|---|---|---|---|']
    rows += [f'| {_name(photo)} | {photo.package} | {photo.author} | {photo.licence} | '
             f'{"held out" if photo.test else ""} |' for photo in PHOTOS]
    return '\n'.join(rows)


def _name(photo):
    if photo.package == 'plasma-workspace-wallpapers':
        return photo.path.split('/')[1]
    return pathlib.PurePosixPath(photo.path).stem


def _save(image, path):
    factor = SHORTER_SIDE / min(image.size)
    if factor < 1:
        size = [round(side * factor) for side in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def unpack(packages: str | os.PathLike, out: str | os.PathLike, full_size: bool = False
           ) -> int:
    """Writes the photographs below `out`; returns their number.

    Args:
      packages: folder of the unpacked packages.
      out: folder to be made.
      full_size: copy the files of the packages; else all are shrunk, as PNG.

    Raises:
      FileNotFoundError: a package lacks one; names it.
    """
    packages, out = pathlib.Path(packages), pathlib.Path(out)
    for photo in PHOTOS:
        path = packages / photo.package / 'usr/share' / photo.path
        if not path.exists():
            raise FileNotFoundError(
                f'{path} is missing: expected what dpkg -x makes of the package '
                f'{photo.package} of Debian 12.')
        target = out / ('test' if photo.test else 'train') / _name(photo)
        if full_size:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, f'{target}{path.suffix}')
            continue
        with Image.open(path) as image:
            _save(image.convert('RGB'), pathlib.Path(f'{target}.png'))
    if full_size:
        return len(PHOTOS)
    embedded = sources.open_source('embedded', split='train')
    for i, name in enumerate(embedded.names):
        # Its licence is nowhere said.
        if name != 'motorcycle_left':
            _save(Image.fromarray(embedded.read(i)), out / 'train' / f'{name}.png')
    return len(PHOTOS) + EMBEDDED


def define_flags() -> None:
    flags.DEFINE_string('packages', '', 'Folder of the unpacked packages.')
    flags.DEFINE_string('out', '', 'Folder of the photographs, to be made.')
    flags.DEFINE_bool('full_size', False, 'Copy them instead of shrinking them.')
    flags.DEFINE_bool('list', False, 'Print the photographs, authors and licences.')


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    if args.list:
        print(table())
    elif args.packages and args.out:
        print(f'{unpack(args.packages, args.out, args.full_size)} photographs in {args.out}')
    else:
        raise ValueError('--packages and --out are needed, or --list.')


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
