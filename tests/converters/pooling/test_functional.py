"""Layouts against plain numpy slicing and hand-computed values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converters.pooling import expand, merge, nested_phase, shrink, split
from engines.errors import LayoutError

sides = st.integers(1, 4)
windows = st.tuples(sides, sides)


def numbered(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.arange(int(np.prod(shape))).reshape(shape).to(dtype)


def test_split_of_a_four_by_four_by_hand() -> None:
    batches = split(numbered(1, 1, 4, 4), (2, 2))
    assert batches[:, 0].tolist() == [
        [[0, 2], [8, 10]],  # phase (0, 0)
        [[1, 3], [9, 11]],  # phase (0, 1): one column on
        [[4, 6], [12, 14]],  # phase (1, 0): one row on
        [[5, 7], [13, 15]],
    ]


def test_split_follows_equation_1() -> None:
    h, w, height, width = 2, 3, 4, 6
    a = np.arange(height * width).reshape(height, width)
    batches = split(torch.from_numpy(a)[None, None], (h, w))
    for k in range(w):
        for l in range(h):  # noqa: E741 - the paper's letter
            for i in range(width // w):
                for j in range(height // h):
                    # The paper indexes A by (column, row), so a_{i*w+k, j*h+l} is a[row, column] = a[j*h+l, i*w+k].
                    assert batches[l * w + k, 0, j, i] == a[j * h + l, i * w + k]


@given(n=st.integers(1, 3), c=st.integers(1, 3), i=sides, j=sides, window=windows)
def test_split_is_strided_slicing(n: int, c: int, i: int, j: int, window: tuple[int, int]) -> None:
    h, w = window
    x = numbered(n, c, i * h, j * w)
    batches = split(x, window).numpy()
    assert batches.shape == (n * h * w, c, i, j)
    for image in range(n):
        for row in range(h):
            for column in range(w):
                expected = x.numpy()[image, :, row::h, column::w]
                np.testing.assert_array_equal(batches[(image * h + row) * w + column], expected)


@given(
    n=st.integers(1, 3),
    i=sides,
    j=sides,
    window=windows,
    dtype=st.sampled_from([torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64, torch.bool]),
)
def test_merge_undoes_split_bit_for_bit(n: int, i: int, j: int, window: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randint(0, 255, (n, 2, i * window[0], j * window[1])).to(dtype)
    assert torch.equal(merge(split(x, window), window), x)
    assert torch.equal(split(merge(split(x, window), window), window), split(x, window))


@given(i=sides, j=sides, window=windows, choice=st.data())
def test_shrink_keeps_one_split_batch_and_expand_puts_it_back(
    i: int, j: int, window: tuple[int, int], choice: st.DataObject
) -> None:
    h, w = window
    row, column = choice.draw(st.tuples(st.integers(0, h - 1), st.integers(0, w - 1)))
    x = numbered(1, 2, i * h, j * w) + 1
    small = shrink(x, window, (row, column))
    assert torch.equal(small, split(x, window)[row * w + column : row * w + column + 1])
    values, mask = expand(small, window, (row, column))
    expected_mask = np.zeros((i * h, j * w), bool)
    expected_mask[row::h, column::w] = True
    np.testing.assert_array_equal(mask.numpy(), expected_mask)
    np.testing.assert_array_equal(values.numpy(), np.where(expected_mask, x.numpy(), 0))


def test_expand_passes_the_gradient_of_valid_elements_alone() -> None:
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    weights = numbered(1, 1, 4, 4, dtype=torch.float32)
    (expand(x, (2, 2), (1, 0)).values * weights).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[[4, 6], [12, 14]]]]


@given(st.lists(windows, min_size=1, max_size=3), st.data())
def test_nested_shrinks_are_one_shrink(nested: list[tuple[int, int]], choice: st.DataObject) -> None:
    offsets = [choice.draw(st.tuples(st.integers(0, h - 1), st.integers(0, w - 1))) for h, w in nested]
    window, phase = nested_phase(nested, offsets)
    x = numbered(1, 1, window[0] * 2, window[1] * 3)
    stepwise = x
    for one, offset in zip(nested, offsets, strict=True):
        stepwise = shrink(stepwise, one, offset)
    assert torch.equal(stepwise, shrink(x, window, phase))


@pytest.mark.parametrize("operation", [lambda x: split(x, (2, 3)), lambda x: shrink(x, (2, 3), (0, 0))])
def test_a_window_that_does_not_divide_is_named_with_the_size(operation) -> None:
    with pytest.raises(LayoutError, match=r"2x3 does not divide a map of 4x7"):
        operation(torch.zeros(1, 1, 4, 7))


def test_merge_refuses_an_incomplete_set() -> None:
    with pytest.raises(LayoutError, match=r"sets of 4 split batches; received a batch of 6"):
        merge(torch.zeros(6, 1, 2, 2), (2, 2))


@pytest.mark.parametrize("offset", [(2, 0), (0, 2), (-1, 0)])
def test_an_offset_outside_the_window_is_refused(offset: tuple[int, int]) -> None:
    for operation in (shrink, expand):
        with pytest.raises(LayoutError, match=r"outside a window of 2x2"):
            operation(torch.zeros(1, 1, 4, 4), (2, 2), offset)


def test_nested_phase_wants_as_many_offsets_as_windows() -> None:
    with pytest.raises(LayoutError, match="2 windows and 1 offsets"):
        nested_phase([(2, 2), (2, 2)], [(0, 0)])
