"""Schedules: every trunk of a bundle gives the labels of the whole graph."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Bundle, Lowering, Precision, Schedule, Session
from engines.errors import BundleError, LayoutError
from engines.parity.comparison import assembled_at, phases_at
from engines.planning.choice import named_schedule
from engines.schedules.phases import PhaseGrid

SCHEDULES = [
    *(Schedule(levels, sub_batch) for levels in range(6) for sub_batch in (1, 5)),
    *(Schedule(2, sub_batch, lowering) for lowering in (Lowering.STRIDED, Lowering.DILATED) for sub_batch in (1, 5)),
]


@pytest.fixture(scope="module")
def whole(exported: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """A frame, and the logits of the whole graph for it."""
    frame = np.random.default_rng(5).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(exported.path / "model.onnx"), providers=["CPUExecutionProvider"])
    return frame, session.run(None, {"frames": frame[None]})[0][0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_gives_the_labels_of_the_whole_graph(exported: Bundle, whole, schedule: Schedule) -> None:
    frame, logits = whole
    with Session.open(exported, schedule=schedule) as session:
        labels = session.predict(frame)
    ordered = np.sort(logits, axis=0)
    differs = labels != logits.argmax(0)
    assert (ordered[-1] - ordered[-2])[differs].max(initial=0) <= 1e-4 * np.abs(logits).max()
    assert differs.mean() <= 1e-3


def test_the_trunks_of_a_bundle(exported: Bundle) -> None:
    kinds = [(trunk.levels, trunk.lowering.value) for trunk in exported.manifest.trunks]
    assert kinds[:3] == [(2, "reshape"), (2, "strided"), (2, "dilated")]
    assert kinds[3:] == [(levels, "reshape") for levels in (0, 1, 3, 4, 5)]
    # Work before a split is repeated for its children from level 3 on: the design's figures for SMP-18.
    work = {t.levels: t.operations * len(exported.manifest.grid(t).phases) for t in exported.manifest.trunks}
    relative = [round(work[levels] / work[0], 2) for levels in range(6)]
    assert relative[:3] == [1, 1, 1]
    assert relative == sorted(relative)
    assert 3 < relative[5] < 4
    # Feature maps fall to a quarter with each level, until the windows that come in are what is left.
    live = {t.levels: t.live_bytes[Precision.FP32] for t in exported.manifest.trunks if t.lowering is Lowering.RESHAPE}
    assert 3.5 < live[0] / live[1] < 4.1
    assert 2 < live[1] / live[2] < 4
    windows = 4 * 3 * 67 * 99
    assert windows < live[4] <= live[3] < live[2]
    assert live[5] - live[4] == 16  # one more pair of offsets


def test_a_schedule_named_in_part_is_completed(exported: Bundle) -> None:
    manifest = exported.manifest
    assert named_schedule(manifest) == Schedule(2, 1, Lowering.RESHAPE)
    assert named_schedule(manifest, sub_batch=99) == Schedule(2, 16, Lowering.RESHAPE)
    assert named_schedule(manifest, levels=4, sub_batch=99) == Schedule(4, 16, Lowering.RESHAPE)
    assert named_schedule(manifest, lowering=Lowering.DILATED) == Schedule(2, 1, Lowering.DILATED)
    with pytest.raises(BundleError, match=r"no trunk of levels 3 with the dilated lowering \(it has 2 reshape, "):
        named_schedule(manifest, levels=3, lowering=Lowering.DILATED)
    with pytest.raises(LayoutError, match="levels from 0"):
        Schedule(-1)


@given(
    outer=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    factor=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_phases_of_one_window_say_what_a_phase_of_another_is(outer, factor, data) -> None:
    finer = (outer[0] * factor[0], outer[1] * factor[1])
    size = (finer[0] * 2, finer[1] * 3)
    full = np.arange(size[0] * size[1]).reshape(size)
    for window, other in ((outer, finer), (finer, outer)):
        phase = data.draw(st.tuples(st.integers(0, other[0] - 1), st.integers(0, other[1] - 1)))
        pieces = {(r, c): full[r :: window[0], c :: window[1]] for r, c in phases_at(window, phase, other)}
        np.testing.assert_array_equal(
            assembled_at(pieces, window, phase, other), full[phase[0] :: other[0], phase[1] :: other[1]]
        )


@given(
    cut=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    inner=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=2),
    sub_batch=st.integers(1, 10),
)
def test_sub_batches_share_their_inner_offsets(cut, inner, sub_batch) -> None:
    window = np.prod([cut, *inner], axis=0)
    size = (int(window[0]), int(window[1]))
    grid = PhaseGrid(size, size, cut, (0, 0, 0, 0), tuple(inner))
    groups = grid.sub_batches(sub_batch)
    assert sorted(phase for group in groups for phase in group) == grid.phases
    for group in groups:
        assert len(group) <= sub_batch
        offsets = grid.inner_offsets(group)
        for row, column in group:
            # The digits of a phase, put together again.
            step, place = np.array(cut), np.array((row % cut[0], column % cut[1]))
            for offset, side in zip(offsets, inner, strict=True):
                place, step = place + step * offset, step * side
            assert tuple(place) == (row, column)


def test_phases_with_other_offsets_cannot_go_together() -> None:
    grid = PhaseGrid((8, 8), (8, 8), (2, 2), (0, 0, 0, 0), ((2, 2),))
    with pytest.raises(LayoutError, match="share their inner offsets"):
        grid.inner_offsets([(0, 0), (2, 0)])
