"""What the processes of a run tell each other before and beside the compiled steps.

They talk through the key-value store of `jax.distributed`, which is there once they have
found each other. Nothing is compiled for it, and it works between processes with different
numbers of devices, for which no compiled function would fit.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import socket
from typing import Any, TypeVar

import jax
# Not public; Orbax, flax and clu find the client here too.
from jax._src import distributed as jax_distributed
import ml_collections

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.training import checks

# How long one process waits for what another says: listing millions of images takes a
# slow disk minutes.
PATIENCE_S = 1800

_ABSENT = 'absent'
# Differences that one message lists.
_SHOWN = 5
_calls = itertools.count()
_Prepared = TypeVar('_Prepared')


class Disagreement(ValueError):
    """The processes of a run were not started alike; the message says how."""


def _client():
    return jax_distributed.global_state.client


def _put(key, value):
    _client().key_value_set(f'migan_jax/{key}', json.dumps(value))


def _get(key, patience_s=None):
    patience_ms = int(1000 * (PATIENCE_S if patience_s is None else patience_s))
    return json.loads(_client().blocking_key_value_get(f'migan_jax/{key}', patience_ms))


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` returns on process 0, on every process; JSON values.

    All processes call this in the same order. What `make` raises on process 0 is raised
    there, and as the same sentence on the others.

    Args:
      make: called on process 0 only.

    Raises:
      ValueError: `make` did.
    """
    if jax.process_count() == 1:
        return make()
    key = f'first/{next(_calls)}'
    if jax.process_index() == 0:
        try:
            value = make()
        except (ValueError, OSError) as error:
            _put(key, {'error': str(error)})
            raise
        _put(key, {'value': value})
        return value
    answer = _get(key)
    if 'error' in answer:
        raise ValueError(f'process 0: {answer["error"]}')
    return answer['value']


def check(prepare: Callable[[], tuple[Mapping[str, Any], _Prepared]]) -> _Prepared:
    """Compares what must be the same on all processes of a run, before it compiles.

    Args:
      prepare: function that returns {name: value}, see `facts_of`, and what else it has
        made. Where it raises, every process of the run ends with a sentence that says
        on which host and why.

    Returns:
      What else `prepare` has made on this process.

    Raises:
      Disagreement: facts differ, or another process can't take part.
      Whatever `prepare` does.
    """
    if jax.process_count() == 1:
        return prepare()[1]
    host, index = socket.gethostname(), jax.process_index()
    try:
        facts, prepared = prepare()
        facts = {name: str(value) for name, value in facts.items()}
    except Exception as error:
        # Also what is not foreseen: the others must not wait for it.
        _put(f'facts/{index}', {'host': host, 'error': str(error)})
        raise
    _put(f'facts/{index}', {'host': host, 'facts': facts})
    said = [_get(f'facts/{i}') for i in range(jax.process_count())]
    broken = [f'process {i} on {each["host"]}: {each["error"]}'
              for i, each in enumerate(said) if 'error' in each]
    if broken:
        raise Disagreement('another process of this run can not take part; '
                           + '; '.join(broken[:_SHOWN]))
    if lines := differences([(each['host'], each['facts']) for each in said]):
        more = f'; and {len(lines) - _SHOWN} more' if len(lines) > _SHOWN else ''
        raise Disagreement(
            'the processes of this run were not started alike, nothing was trained: '
            + '; '.join(lines[:_SHOWN]) + more
            + '. Give the same command, code and data to all hosts.')
    return prepared


def differences(said: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """A clause for each fact that is not the same everywhere.

    Args:
      said: list over processes of (host, {name: str}).
    """
    lines = []
    for name in sorted(set().union(*(facts for _, facts in said))):
        places = collections.defaultdict(list)
        for index, (host, facts) in enumerate(said):
            places[facts.get(name, _ABSENT)].append((index, host))
        if len(places) > 1:
            lines.append(f'{name} is ' + ' and '.join(
                f'{value} {_where(where)}' for value, where in places.items()))
    return lines


def _where(places):
    """'on a (process 0) and b (processes 1, 2)', cut where there are hundreds."""
    hosts = collections.defaultdict(list)
    for index, host in places:
        hosts[host].append(str(index))
    parts = []
    for host, indices in itertools.islice(hosts.items(), 3):
        shown = ', '.join(indices[:4]) + (', ...' if len(indices) > 4 else '')
        parts.append(f'{host} (process{"es" * (len(indices) > 1)} {shown})')
    if len(hosts) > 3:
        parts.append(f'{len(hosts) - 3} other hosts')
    return 'on ' + ', '.join(parts)


def facts_of(config: ml_collections.ConfigDict, workdir: os.PathLike | str,
             images: Mapping[str, int]) -> dict[str, Any]:
    """What must be the same on all hosts of a run.

    Args:
      config: ConfigDict of the run.
      workdir: as given.
      images: {name: number of images}.

    Returns:
      {name: value}: each field of the config, versions of Python, this package and those
      it requires, a digest of its source, workdir, devices of this process, images.
    """
    return {
        **{f'config.{name}': value
           for name, value in checkpoint_lib.as_plain(checks.fields_of(config)).items()},
        'Python': platform.python_version(), **_versions(), 'source': source_digest(),
        'workdir': workdir, 'local devices': jax.local_device_count(),
        'device kind': jax.local_devices()[0].device_kind,
        **{f'{name} images': count for name, count in images.items()}}


def _versions():
    """{'version of NAME': version} of this package and what it requires."""
    names = {'migan_jax', 'jaxlib'}
    try:
        required = importlib.metadata.requires('migan_jax') or []
    except importlib.metadata.PackageNotFoundError:   # run from its folder
        required = []
    names |= {re.match(r'[\w.-]+', line)[0] for line in required if 'extra' not in line}
    found = {}
    for name in names:
        try:
            found[f'version of {name}'] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[f'version of {name}'] = _ABSENT
    return found


def source_digest() -> str:
    """Twelve hex digits of this package's source: a checkout that was changed differs."""
    root = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob('*.py')):
        digest.update(file.relative_to(root).as_posix().encode() + b'\0')
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
