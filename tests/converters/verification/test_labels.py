"""Which pixels labels are compared at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.verification.agreements import Lattice
from engines.schedules.phases import dispersed


@pytest.mark.parametrize(("window", "step"), [((4, 4), (2, 2)), ((8, 8), (2, 2)), ((2, 2), (2, 2)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("start", [(0, 0), (1, 3), (2, 1)])
def test_a_quarter_of_a_walk_from_anywhere_is_a_lattice(window, step, start):
    first = (start[0] % window[0], start[1] % window[1])
    walk = dispersed(window)
    phases = [((first[0] + r) % window[0], (first[1] + c) % window[1]) for r, c in walk[: -(-len(walk) // 4)]]
    assert Lattice.within(window, phases) == Lattice(step, (first[0] % step[0], first[1] % step[1]))


@given(st.data())
def test_every_pixel_of_a_lattice_is_computed_and_none_is_denser(data: st.DataObject) -> None:
    window = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    phases = data.draw(st.lists(st.sampled_from(dispersed(window)), min_size=1, unique=True))
    lattice = Lattice.within(window, phases)
    computed = np.zeros((3 * window[0], 2 * window[1]), bool)
    for row, column in phases:
        computed[row :: window[0], column :: window[1]] = True
    taken = np.zeros_like(computed)
    taken[lattice.rows, lattice.columns] = True
    assert computed[taken].all()
    assert taken[phases[0]]
    assert lattice.whole == taken.all()
    # No other regular choice of computed pixels with the first phase in it has more of them.
    for down in range(1, window[0] + 1):
        for right in range(1, window[1] + 1):
            if window[0] % down or window[1] % right:
                continue
            other = np.zeros_like(computed)
            other[phases[0][0] % down :: down, phases[0][1] % right :: right] = True
            assert other.sum() <= taken.sum() or not computed[other].all()
