"""The published inference network and pipelines in PyTorch, for graphs as theirs.

Written from the architecture, with the names of the published parameters: what
`torch.onnx` makes of these has the operators and initialisers of the authors' exports.
"""

import io
import math
import warnings

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

FIR = torch.outer(*[torch.tensor([1., 3., 3., 1.])] * 2) / 64


def activated(x):
    return (functional.leaky_relu(x, 0.2) * math.sqrt(2)).clamp(-256, 256)


def depthwise(channels, size, **options):
    return nn.Conv2d(channels, channels, size, groups=channels, **options)


class Up(nn.Module):
    """Zeros inserted by a transposed convolution, or by masking a nearest resize."""

    def __init__(self, channels, resolution, way):
        super().__init__()
        if way == 'transposed':
            self.insert_zeros = nn.ConvTranspose2d(
                channels, channels, 2, 2, groups=channels, bias=False)
            corner = torch.tensor([[1., 0.], [0., 0.]])
            self.insert_zeros.weight.data = corner.repeat(channels, 1, 1, 1)
        else:
            self.nearest = nn.Upsample(scale_factor=2, mode='nearest')
            corner = torch.tensor([[1., 0.], [0., 0.]])
            self.register_buffer('filter_const', corner.repeat(
                1, 1, resolution // 2, resolution // 2))
        self.filter = depthwise(channels, 4, bias=False)
        self.filter.weight.data = (4 * FIR).repeat(channels, 1, 1, 1)

    def forward(self, x):
        if hasattr(self, 'insert_zeros'):
            x = self.insert_zeros(x)
        else:
            x = self.nearest(x) * self.filter_const
        return self.filter(functional.pad(x, (2, 1, 2, 1)))


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.filter = depthwise(channels, 4, stride=2, padding=1, bias=False)
        self.filter.weight.data = FIR.repeat(channels, 1, 1, 1)

    def forward(self, x):
        return self.filter(x)


class Separable(nn.Module):
    def __init__(self, given, taken, resolution, way, up=False, down=False,
                 noise=False):
        super().__init__()
        self.conv1 = depthwise(given, 3, padding=1)
        self.conv2 = nn.Conv2d(given, taken, 1, bias=False)
        self.downsample = Down(given) if down else nn.Identity()
        self.upsample = Up(taken, resolution, way) if up else nn.Identity()
        if noise:
            self.register_buffer('noise_const', torch.zeros(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))

    def forward(self, x):
        x = self.upsample(self.conv2(self.downsample(activated(self.conv1(x)))))
        if hasattr(self, 'noise_const'):
            x = x + self.noise_const * self.noise_strength
        return activated(x)


class Level(nn.Module):
    """The parts of one resolution, of the encoder or the decoder."""


class Generator(nn.Module):
    """f32[N, 4, R, R] -> f32[N, 3, R, R], parameters named as published."""

    def __init__(self, resolution, width, way='nearest'):
        """`width`: function r -> channels."""
        super().__init__()
        self.sides = [resolution >> i for i in range(resolution.bit_length() - 2)]
        self.encoder, self.synthesis = Level(), Level()
        for r in self.sides:
            here, below = width(r), width(max(r // 2, 4))
            level = Level()
            if r == resolution:
                level.fromrgb = nn.Conv2d(4, here, 1)
            level.conv1 = Separable(here, here, r, way)
            level.conv2 = Separable(here, below, r, way, down=r > 4)
            self.encoder.add_module(f'b{r}', level)
        for r in reversed(self.sides):
            level, up = Level(), r > 4
            level.conv1 = Separable(width(max(r // 2, 4)), width(r), r, way, up=up,
                                    noise=up)
            level.conv2 = Separable(width(r), width(r), r, way, noise=up)
            level.torgb = nn.Conv2d(width(r), 3, 1)
            if up:
                level.upsample = Up(3, r, way)
            self.synthesis.add_module(f'b{r}', level)

    def forward(self, x):
        skips = []
        for r in self.sides:
            level = getattr(self.encoder, f'b{r}')
            if hasattr(level, 'fromrgb'):
                x = activated(level.fromrgb(x))
            skips.append(level.conv1(x))
            x = level.conv2(skips[-1])
        picture = None
        for r in reversed(self.sides):
            level = getattr(self.synthesis, f'b{r}')
            x = level.conv2(level.conv1(x) + skips.pop())
            rgb = level.torgb(x)
            picture = rgb if picture is None else level.upsample(picture) + rgb
        return picture


class Pipeline(nn.Module):
    """u8 image [B, 3, H, W] and mask [B, 1, H, W], 255 = known, -> u8 [B, 3, H, W].

    The whole picture resized; with `smooth` the known mask is grown and blurred.
    """

    def __init__(self, model, resolution, smooth=False):
        super().__init__()
        self.model, self.side, self.smooth = model, resolution, smooth
        taps = torch.exp(-((torch.arange(5.) - 2) / 2)**2)
        self.register_buffer('blur', torch.outer(taps, taps)[None, None]
                             / taps.sum()**2)

    def forward(self, image, mask):
        size = (self.side, self.side)
        seen = functional.interpolate(image.float(), size, mode='bilinear',
                                      align_corners=False)
        known = functional.interpolate(mask.float(), size, mode='nearest') / 255
        seen = seen * 2 / 255 - 1
        painted = self.model(torch.cat([known - 0.5, seen * known], 1))
        painted = ((painted * 0.5 + 0.5) * 255).clamp(0, 255)
        painted = functional.interpolate(painted, image.shape[2:], mode='bilinear',
                                         align_corners=False)
        known = mask.float()
        if self.smooth:
            known = functional.max_pool2d(known, 3, 1, 1)
            known = functional.pad(known, (2, 2, 2, 2), mode='reflect')
            known = functional.conv2d(known, self.blur)
        known = known / 255
        whole = image.float() * known + painted * (1 - known)
        return whole.clamp(0, 255).to(torch.uint8)


def generator(state, resolution, way='nearest'):
    """The network with {published name: array}."""
    width = {int(name.split('.')[1][1:]): len(array) for name, array in state.items()
             if name.startswith('encoder.') and name.endswith('.conv1.conv2.weight')}
    module = Generator(resolution, width.get, way)
    constant = ('.filter.weight', '.filter_const', '.insert_zeros.weight')
    given = {name: torch.from_numpy(np.array(array)) for name, array in state.items()
             if not name.endswith(constant + ('.insert_zeros',))}
    missing, unexpected = module.load_state_dict(given, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith(constant) for name in missing), missing
    return module.eval()


def onnx_of(module, *inputs, opset=12, names=('input',), fold=True, dynamic=True):
    """onnx.ModelProto of a module as `torch.onnx` writes it."""
    file = io.BytesIO()
    axes = {name: {0: 'batch', 2: 'height', 3: 'width'} for name in names}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')             # of the older exporter and tracing
        torch.onnx.export(
            module, inputs, file, opset_version=opset, input_names=list(names),
            output_names=['result'], do_constant_folding=fold, dynamo=False,
            dynamic_axes=axes if dynamic else None)
    return onnx.load_from_string(file.getvalue())


def core(state, resolution, way='nearest', **options):
    """onnx.ModelProto of the network alone."""
    return onnx_of(generator(state, resolution, way),
                   torch.zeros(1, 4, resolution, resolution), dynamic=False, **options)


def pipeline(state, resolution, way='nearest', smooth=False, **options):
    """onnx.ModelProto with u8 `image` and `mask`."""
    module = Pipeline(generator(state, resolution, way), resolution, smooth)
    image = torch.zeros(1, 3, 48, 40, dtype=torch.uint8)
    return onnx_of(module.eval(), image, image[:, :1], names=('image', 'mask'),
                   **options)
