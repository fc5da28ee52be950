"""Exports a checkpoint for other runtimes, phones' too, and checks every file.

    python tools/to_torch.py --checkpoint=workdir --out=export --formats=pt,onnx

    pt             migan.pt              state dict of the published inference network
    torchscript    migan_traced.pt       TorchScript, f32[N, 4, R, R] -> f32[N, 3, R, R]
    onnx           migan.onnx            the same as a graph, `input` -> `output`
    onnx_pipeline  migan_pipeline.onnx   u8 pictures of any size, `image` and `mask`
    tflite         migan.tflite          LiteRT, f32[1, R, R, 4] -> f32[1, R, R, 3]

These are written without --formats. Each of the others needs an extra, see setup.cfg:

    coreml         migan.mlpackage       Core ML, f32[1, 4, R, R] -> f32[1, 3, R, R]
    coreml_image   migan_image.mlpackage pictures, `image` and `mask` -> `painted`
    executorch     migan.pte             ExecuTorch with XNNPACK, as Core ML's first
    executorch_vulkan, executorch_coreml the same for GPUs, which can't be run here
    ncnn           migan_ncnn/           ncnn, f32[4, R, R] -> f32[3, R, R]
    openvino       migan_openvino.onnx   migan.onnx, noise added as OpenVINO likes it
    ort, ort_pipeline                    both ONNX files in ONNX Runtime's own format
    all            everything that is installed

The network's input is [mask - 0.5, image * mask], mask first, 1 = known, 0 = hole, RGB in
[-1, 1]; its output is neither clipped nor composited. Of a Co-Mod-GAN the first three are
written, with the latent `z`, f32[N, z_dim], as second input. All but pt and torchscript leave
out a clamp at +-256 where no activation reached a quarter of it; --keep_clamps keeps it.

Each file is run again and compared with JAX on random pictures and on --images with
--masks; one outside the tolerance is not kept, and the exit code is 1. Without --formats,
one that can't hold the model is skipped, which is said.
"""

from collections.abc import Sequence
import json
import sys

from absl import flags
from absl import logging

from migan_jax import cli
from migan_jax import meter
with cli.needs('export'):
    from migan_jax.export import exporting
    from migan_jax.export import models


def define_flags() -> None:
    flags.DEFINE_string(
        'checkpoint', None,
        'Training workdir (of which the average is taken) or a folder written '
        'by tools/from_torch.py.', required=True)
    flags.DEFINE_string('step', 'best', 'Of a workdir: best, latest or an iteration.')
    flags.DEFINE_string('out', None, 'Folder for the files.', required=True)
    flags.DEFINE_list(
        'formats', None, f'Some of {", ".join(exporting.FORMATS)}, '
        f'{", ".join(exporting.MORE_FORMATS)}; or all; of a Co-Mod-GAN '
        f'{", ".join(exporting.COMODGAN_FORMATS)}. Default: the '
        f'first {len(exporting.FORMATS)}, where they can hold the model.')
    flags.DEFINE_bool('half', False, 'Store weights as float16.')
    flags.DEFINE_string('images', None, 'Image or folder to compare on.')
    flags.DEFINE_string('masks', None, 'Mask or folder; white = known, black = hole.')
    flags.DEFINE_bool('drop_noise_at_4x4', False,
                      'migan.pt: leave out the noise that its layout has no place for.')
    flags.DEFINE_bool('dynamic_size', False, 'migan.onnx: take other sizes than R x R.')
    flags.DEFINE_bool('upstream_crop', False,
                      'migan_pipeline.onnx: stretch crops as the published pipeline.')
    flags.DEFINE_bool('keep_clamps', False,
                      'All but pt and torchscript: keep the clamps at +-256 also where '
                      'no activation came near them; a tenth slower.')
    flags.DEFINE_float('tolerance', None,
                       f'Largest difference to JAX; {models.TOLERANCE}, or '
                       f'{models.HALF_TOLERANCE} with --half.')
    flags.DEFINE_bool('json', False, 'Print the report as JSON on the last line.')


def main(argv: Sequence[str]) -> int:
    del argv
    args = flags.FLAGS
    # TensorFlow reports its progress.
    logging.set_verbosity(logging.WARNING)
    options = models.Options(
        args.half, args.drop_noise_at_4x4, args.dynamic_size, args.upstream_crop,
        args.keep_clamps, args.tolerance)
    with meter.status() as status:
        def opened(text):
            print(f'model: {text}', flush=True)

        def done(report):
            status.clear()
            print(exporting.describe(report), flush=True,
                  file=sys.stderr if 'error' in report else sys.stdout)

        reports = exporting.run(
            args.checkpoint, args.out, args.formats, options, args.images, args.masks,
            say=status.set_description_str, done=done, step=args.step, opened=opened)
    if args.json:
        print(json.dumps(reports))
    return int(any('error' in report for report in reports))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
