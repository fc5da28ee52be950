"""The deployed generator for ncnn: a folder with its text graph and its weights.

pnnx converts a TorchScript of `static_module`, which has only operators that it knows.
"""

import collections
from collections.abc import Callable, Mapping
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import ml_collections
import ncnn
import numpy as np
import pnnx
import torch

from migan_jax import quiet
from migan_jax.export.static_module import StaticGenerator

PARAM, BIN = 'migan.ncnn.param', 'migan.ncnn.bin'


def write_ncnn(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
               path: os.PathLike | str, *, half: bool,
               largest: Mapping[str, float] | None) -> None:
    """Writes the folder.

    Input blob `in0`, f32 [4, R, R]: [mask - 0.5, image * mask], mask first, 1 = known
    and 0 = hole, image RGB in [-1, 1]. Output blob `out0`, f32 [3, R, R], about
    [-1, 1], neither clipped nor composited. Noise is the stored planes.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise'} of the deployed generator.
      path: of the folder, made here.
      half: weights in float16, else in float32.
      largest: see `onnx_core.build_core`; None keeps all clamps.

    Raises:
      ValueError: the model is the ablation with plain 3x3 convolutions, a parameter is
        not finite, or pnnx fails.
    """
    module = StaticGenerator(config, variables, largest).eval()
    side = config.model.resolution
    path = pathlib.Path(path)
    path.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        with quiet.torchscript_is_deprecated(), torch.inference_mode():
            torch.jit.trace(module, torch.zeros(1, 4, side, side), check_trace=False
                            ).save(os.path.join(folder, 'migan.pt'))
        # It writes its own files beside the model's.
        result = subprocess.run(
            [pnnx.EXEC_PATH, 'migan.pt', f'inputshape=[1,4,{side},{side}]',
             f'fp16={int(half)}'], cwd=folder, capture_output=True, text=True)
        for name in (PARAM, BIN):
            written = pathlib.Path(folder) / name
            if result.returncode or not written.exists():
                raise ValueError(f'pnnx did not write {name}: '
                                 f'{(result.stderr or result.stdout)[-300:]}')
            (path / name).write_bytes(written.read_bytes())


def load_generator(path: os.PathLike | str,
                   threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A folder of `write_ncnn` as a function, run by ncnn on the CPU.

    Args:
      path: of the folder.
      threads: of ncnn; its default if None.

    Returns:
      f32[N, R, R, 4] -> f32[N, R, R, 3], one image at a time.

    Raises:
      ValueError: not such a folder.
    """
    net = ncnn.Net()
    if threads is not None:
        net.opt.num_threads = threads
    # What its CPU path would otherwise round to.
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = False
    net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    for load, name in ((net.load_param, PARAM), (net.load_model, BIN)):
        file = pathlib.Path(path) / name
        if not file.exists() or load(os.fspath(file)):
            raise ValueError(f'{file} is missing or no model of ncnn; expected what '
                             'to_torch.py --formats=ncnn wrote.')

    def generate(x):
        images = []
        for sample in x:
            extractor = net.create_extractor()
            # It reads the array's own memory, until the result is there.
            planes = np.ascontiguousarray(sample.transpose(2, 0, 1), np.float32)
            extractor.input('in0', ncnn.Mat(planes))
            _, image = extractor.extract('out0')
            images.append(np.array(image).transpose(1, 2, 0))
        return np.stack(images)
    return generate


def operators(path: os.PathLike | str) -> collections.Counter[str]:
    """{operator: how often} in a folder's graph."""
    lines = (pathlib.Path(path) / PARAM).read_text().splitlines()[2:]
    return collections.Counter(line.split()[0] for line in lines)
