"""Holes of a photograph become groups that the network can paint."""

import numpy as np
import pytest

from migan_jax.photo import plan as plan_lib

R = 64


def known_with(shape, *boxes):
    known = np.ones(shape, bool)
    for top, bottom, left, right in boxes:
        known[top:bottom, left:right] = False
    return known


def covered(groups, known):
    """How many holes no window's core covers."""
    left = ~known
    for group in groups:
        for window in group.windows:
            left[window.core.slices] = False
    return np.count_nonzero(left)


def routes(known):
    return [group.route for group in plan_lib.plan(known, R)]


def test_nothing_to_paint():
    assert plan_lib.plan(np.ones((100, 90), bool), R) == []


def test_far_spots_are_native_and_apart():
    known = known_with((400, 500), (10, 20, 10, 20), (300, 320, 400, 410))
    groups = plan_lib.plan(known, R)
    assert [group.route for group in groups] == ['native', 'native']
    for group in groups:
        (window,) = group.windows
        assert (window.seen.height, window.seen.width) == (R, R)
    assert covered(groups, known) == 0


def test_near_spots_share_a_window():
    known = known_with((400, 500), (100, 105, 100, 105), (120, 125, 110, 115),
                       (300, 305, 100, 105))
    assert len(plan_lib.plan(known, R)) == 2


def test_a_window_has_context_round_its_holes():
    known = known_with((400, 500), (100, 130, 100, 140))
    (group,) = plan_lib.plan(known, R)
    (window,) = group.windows
    margins = (window.core.top - window.seen.top, window.seen.bottom - window.core.bottom,
               window.core.left - window.seen.left, window.seen.right - window.core.right)
    assert min(margins) >= R // 8


def test_windows_stay_inside_the_picture():
    known = known_with((100, 70), (0, 5, 0, 5), (95, 100, 60, 70))
    for group in plan_lib.plan(known, R):
        for window in group.windows:
            assert window.seen.top >= 0 and window.seen.left >= 0
            assert window.seen.bottom <= 100 and window.seen.right <= 70
            assert (window.seen.height, window.seen.width) == (R, R)


def test_small_pictures_have_small_windows():
    known = known_with((30, 40), (3, 9, 4, 11))
    (group,) = plan_lib.plan(known, R)
    assert group.windows[0].seen == (0, 30, 0, 40)


def test_scratches_are_tiled_in_order():
    known = np.ones((600, 600), bool)
    for i in range(20, 580):
        known[i, i:i + 3] = False
    (group,) = plan_lib.plan(known, R)
    assert group.route == 'tiles'
    assert covered([group], known) == 0
    boxes = [window.core for window in group.windows]
    assert len(boxes) <= 560 / (R / 2) * 1.5
    for before, after in zip(boxes, boxes[1:]):
        gap = max(after.top - before.bottom, before.top - after.bottom,
                  after.left - before.right, before.left - after.right)
        assert gap <= 2


def test_a_ring_is_tiled_whole():
    y, x = np.mgrid[:400, :400] - 200
    known = np.abs(np.hypot(y, x) - 150) > 4
    (group,) = plan_lib.plan(known, R)
    assert group.route == 'tiles' and covered([group], known) == 0


def test_thick_holes_are_scaled_with_context():
    known = known_with((600, 800), (200, 400, 300, 500))
    (group,) = plan_lib.plan(known, R)
    assert group.route == 'scaled' and covered([group], known) == 0
    (window,) = group.windows
    assert group.factor == window.seen.height / R > 4
    assert window.seen.height >= 300


def test_a_thick_hole_with_a_tail_is_cut_in_two():
    known = known_with((600, 800), (200, 400, 100, 300), (290, 294, 300, 780))
    groups = plan_lib.plan(known, R)
    assert [group.route for group in groups] == ['scaled', 'tiles']
    assert groups[0].windows[0].core.width < 300
    assert covered(groups, known) == 0


@pytest.mark.parametrize('seed', range(6))
def test_every_hole_is_covered(seed):
    rng = np.random.default_rng(seed)
    known = np.ones(tuple(rng.integers(20, 500, 2)), bool)
    for _ in range(rng.integers(1, 30)):
        top, left = (int(rng.integers(0, side)) for side in known.shape)
        height, width = rng.integers(1, [200, 8] if rng.random() < .5 else [8, 200])
        known[top:top + height, left:left + width] = False
    groups = plan_lib.plan(known, R)
    assert covered(groups, known) == 0
    order = ['scaled', 'native', 'tiles']
    places = [order.index(group.route) for group in groups]
    assert places == sorted(places)


def test_many_spots_are_planned():
    rng = np.random.default_rng(0)
    known = np.ones((3000, 4000), bool)
    known[rng.integers(0, 3000, 3000), rng.integers(0, 4000, 3000)] = False
    groups = plan_lib.plan(known, R)
    assert covered(groups, known) == 0
    assert len(groups) < 3000


@pytest.mark.parametrize('known', [np.ones((3, 4)), np.ones((3, 4, 1), bool)])
def test_other_arrays_are_refused(known):
    with pytest.raises(ValueError, match=r'expected bool\[H, W\]'):
        plan_lib.plan(known, R)
