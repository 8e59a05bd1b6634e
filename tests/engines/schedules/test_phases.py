"""The geometry of phases against plain numpy slicing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import LayoutError
from engines.schedules.phases import PhaseGrid

small = st.integers(1, 4)
borders = st.tuples(*[st.integers(0, 3)] * 4)


def grid_of(window: tuple[int, int], cells: tuple[int, int], border=(0, 0, 0, 0)) -> PhaseGrid:
    padded = (window[0] * cells[0], window[1] * cells[1])
    return PhaseGrid(padded, padded, window, border)


def test_smp_at_full_hd_by_hand() -> None:
    grid = PhaseGrid((1080, 1920), (1088, 1920), (4, 4), (3, 3, 3, 3))
    assert grid.planes_size == (1094, 1926)
    assert grid.crop_size == (1091, 1923)
    assert grid.phase_size == (272, 480)
    assert len(grid.phases) == 16
    assert grid.phases[6] == (1, 2)


@given(window=st.tuples(small, small), cells=st.tuples(small, small), border=borders)
def test_a_strided_window_reads_what_its_phase_needs(window, cells, border) -> None:
    """A convolution that looks ``border`` far around each pixel, done naively on the whole and on each window."""
    grid = grid_of(window, cells, border)
    top, left, bottom, right = border
    planes = np.random.default_rng(0).normal(size=(3, *grid.planes_size)).astype(np.float32)
    sums = np.zeros(grid.padded_size)
    for row in range(grid.padded_size[0]):
        for column in range(grid.padded_size[1]):
            sums[row, column] = planes[:, row : row + top + bottom + 1, column : column + left + right + 1].sum()
    merged = np.full(grid.padded_size, np.nan)
    for phase in grid.phases:
        (cut,) = grid.cut(planes, [phase])
        assert cut.shape == (3, *grid.crop_size)
        i, j = grid.phase_size
        prediction = np.array(
            [
                [
                    cut[
                        :,
                        y * window[0] : y * window[0] + top + bottom + 1,
                        x * window[1] : x * window[1] + left + right + 1,
                    ].sum()
                    for x in range(j)
                ]
                for y in range(i)
            ]
        )
        grid.place(prediction[None], [phase], merged)
    np.testing.assert_allclose(merged, sums, rtol=1e-4, atol=1e-4)


@given(window=st.tuples(small, small), cells=st.tuples(small, small), sub_batch=st.integers(1, 20))
def test_sub_batches_hold_every_phase_once(window, cells, sub_batch) -> None:
    grid = grid_of(window, cells)
    groups = grid.sub_batches(sub_batch)
    assert sorted(phase for group in groups for phase in group) == [
        (row, column) for row in range(window[0]) for column in range(window[1])
    ]
    assert all(len(group) == sub_batch for group in groups[:-1])


def test_padding_is_cropped_at_the_bottom_and_on_the_right() -> None:
    grid = PhaseGrid((3, 5), (4, 6), (2, 2), (0, 0, 0, 0))
    full = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(grid.unpadded(full), full[:3, :5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4), (4, 4), (3, 2), (0, 0, 0, 0)), "3x2 does not divide a padded frame of 4x4"),
        (((5, 4), (4, 4), (2, 2), (0, 0, 0, 0)), "does not lie inside"),
        (((4, 4), (4, 4), (2, 2), (0, -1, 0, 0)), "no negative side"),
        (((4, 4), (4, 4), (0, 2), (0, 0, 0, 0)), "0x2"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(arguments, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        PhaseGrid(*arguments)
