"""Compilations are announced, with a guess from the one before."""

from migan_jax.training import compiling


def test_first_calls_are_announced_and_later_ones_not(monkeypatch):
    clock = iter([0.0, 28.0, 30.0, 140.0])
    monkeypatch.setattr(compiling.time, 'perf_counter', lambda: next(clock))
    said = []
    monkeypatch.setattr(
        compiling.logging, 'info', lambda text, *args: said.append(text % args))
    announced = compiling.Compilations().announced
    initial = announced('the initial state', lambda x: x + 1)
    step = announced('G', lambda x: x * 2)
    assert initial(1) == 2
    assert (step(2), step(3)) == (4, 6)
    assert said == ['compiling the initial state', 'compiled the initial state in 28.0 s',
                    'compiling G, about 100 s', 'compiled G in 110.0 s']
