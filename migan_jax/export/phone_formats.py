"""Files for the runtimes of phones, whose libraries take seconds to import."""

import json

from migan_jax.export.models import Format
from migan_jax.export.models import lacks_plain_convolutions


def write_tflite(model, path, options):
    from migan_jax.export import tflite

    metadata = model.metadata | {'layout': 'NHWC'}
    path.write_bytes(tflite.build_tflite(
        model.config, model.variables, half=options.half,
        description=json.dumps(metadata)))


def run_tflite(path, config):
    del config
    from migan_jax.export import tflite

    return tflite.load_generator(path)


def count_tflite(path):
    from migan_jax.export import tflite

    return tflite.operators(path)


TFLITE = Format('migan.tflite', write_tflite, run_tflite, count_tflite,
                lacks=lacks_plain_convolutions)
