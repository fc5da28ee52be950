"""The published files: names, addresses, sizes, hashes, licences.

Facts only, as the projects that publish or use the files state them.  None of the
addresses could be reached from where this was written; the hashes decide.
"""

from typing import NamedTuple


class File(NamedTuple):
    """A published file.

    Attributes:
      name: its file name, also in the cache folder.
      digest: 'sha256:' or 'md5:' and hex digits; of some files only the first digits
        are published; '' where nobody has published any.
      size: in bytes, None where it is not known.
      url: its own address, '' if it has none.
      drive: id of the shared folder on Google Drive that holds it, or ''.
      package: 'PACKAGE/folder/in/it' that carries it, or ''.
    """
    name: str
    digest: str = ''
    size: int | None = None
    url: str = ''
    drive: str = ''
    package: str = ''

    @property
    def sha256(self) -> str:
        """Its sha256, or the first digits of it, or ''."""
        kind, _, digits = self.digest.partition(':')
        return digits if kind == 'sha256' else ''

    @property
    def where(self) -> str:
        """For people: where to get it."""
        if self.url:
            return self.url
        if self.drive:
            return f'https://drive.google.com/drive/folders/{self.drive}'
        return f'the Python package {self.package.partition("/")[0]}'

    @property
    def described(self) -> str:
        """Name, size and hash, for messages."""
        kind, _, digits = self.digest.partition(':')
        whole = len(digits) >= (64 if kind == 'sha256' else 32)
        said = [f'{self.size:,} bytes'] if self.size else []
        said.append(f'{kind} {digits}{"" if whole else "..."}' if digits else
                    'no published hash')
        return f'{self.name} ({", ".join(said)})'


class Model(NamedTuple):
    """A published generator.

    Attributes:
      name: what `migan_jax.load` and --checkpoint call it.
      kind: 'migan' or 'comodgan'.
      resolution: R.
      files: `File`s with its weights, the preferred one first.
      data: what it was trained on.
      licence: of the weights.
      note: what else to know before using it.
    """
    name: str
    kind: str
    resolution: int
    files: tuple[File, ...]
    data: str
    licence: str
    note: str = ''


_HUB = ('https://huggingface.co/andraniksargsyan/migan/resolve/'
        '406830d0fa60666da0071c342ad2fbc8f30c5c64')
_DRIVE_MIGAN = '1xNtvN2lto0p5yFKOEEg9RioMjGrYM74w'
_DRIVE_COMODGAN = '1VATyNQQJW2VpuHND02bc-3_4ukJMHQ44'

PIPELINE = File(
    'migan_pipeline_v2.onnx',
    'sha256:6f1f3530a1a2324b19752018ce756088b07973cda8d7d890034ace5c8a48c40b',
    28_079_181, f'{_HUB}/migan_pipeline_v2.onnx')

_MIGAN_512 = (
    PIPELINE,
    File('migan.onnx',
         'sha256:593eba0b7e04730f1b61c0a3cbca68d97d8d6a7ff5c6a44a7b9d7fcd880fc5ae',
         url=f'{_HUB}/migan.onnx'),
    File('migan_traced.pt', 'md5:76eb3b1a71c400ee3290524f7a11b89c',
         url='https://github.com/Sanster/models/releases/download/migan/'
             'migan_traced.pt'),
    File('migan_512_places2.pt',
         'sha256:1d6087eee0aac8923ad2606be5d8caeb4824d3e4de331995e420c74e124a466a',
         drive=_DRIVE_MIGAN),
)
_MIGAN_256 = (File(
    'migan_256_places2.pt',
    'sha256:8b82b2e82fc8e5a2e1f06827594aac1a5d66a9ca41e24199ddd969847788097f',
    drive=_DRIVE_MIGAN),)

# LICENSE-WEIGHTS in the published repository, since 2026-09-14.
_LICENCE = 'MIT'
_PLACES = 'Places2'
_FACES = 'FFHQ'
_FACES_NOTE = 'the pictures of FFHQ are for non-commercial use'

MODELS = {model.name: model for model in (
    Model('places2-512', 'migan', 512, _MIGAN_512, _PLACES, _LICENCE),
    Model('places2-256', 'migan', 256, _MIGAN_256, _PLACES, _LICENCE),
    Model('ffhq-256', 'migan', 256,
          (File('migan_256_ffhq.pt', drive=_DRIVE_MIGAN),), _FACES, _LICENCE,
          _FACES_NOTE),
    Model('comodgan-places2-512', 'comodgan', 512,
          (File('comodgan_512_places2.pt', drive=_DRIVE_COMODGAN),), _PLACES,
          _LICENCE),
    Model('comodgan-places2-256', 'comodgan', 256,
          (File('comodgan_256_places2.pt', drive=_DRIVE_COMODGAN),), _PLACES,
          _LICENCE),
    Model('comodgan-ffhq-256', 'comodgan', 256,
          (File('comodgan_256_ffhq.pt', drive=_DRIVE_COMODGAN),), _FACES, _LICENCE,
          _FACES_NOTE),
)}

# The networks behind FID, P-IDS / U-IDS and LPIPS.
PT_INCEPTION = File(
    'pt_inception-2015-12-05-6726825d.pth',
    'sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2',
    95_628_359,
    'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
    'pt_inception-2015-12-05-6726825d.pth')
TORCHSCRIPT_INCEPTION = File(
    'inception-2015-12-05.pt',
    'sha256:f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4',
    95_607_719,
    'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/'
    'inception-2015-12-05.pt')
ALEXNETS = (
    File('alexnet-owt-7be5be79.pth', 'sha256:7be5be79',
         url='https://download.pytorch.org/models/alexnet-owt-7be5be79.pth'),
    File('alexnet-owt-4df8aa71.pth', 'sha256:4df8aa71',
         url='https://download.pytorch.org/models/alexnet-owt-4df8aa71.pth'),
)
LPIPS_LINEAR = File(
    'alex.pth',
    'sha256:df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0', 6_009,
    package='lpips/weights/v0.1')
NETWORKS = (PT_INCEPTION, TORCHSCRIPT_INCEPTION, *ALEXNETS, LPIPS_LINEAR)
# One file for each network, among those that have an address.
NETWORKS_TO_FETCH = (PT_INCEPTION, ALEXNETS[0])
