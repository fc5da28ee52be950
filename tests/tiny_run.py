"""Config file of `tiny.tiny_config` for runs in processes of their own."""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from tiny import tiny_config


def get_config(steps='5'):
    return tiny_config(int(steps)).unlock()
