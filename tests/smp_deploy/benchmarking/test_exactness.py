"""Schedules against the whole graph, and that the comparison sees what it is to see."""

from pathlib import Path

import numpy as np
import pytest

from converters.analysis.network import traced_network
from converters.exporting import export
from engines import Lowering
from smp_deploy.benchmarking.exactness import all_schedules, difference, differences
from tests.networks import RandomNetwork, with_statistics


@pytest.mark.parametrize("seed", [8, 13])
def test_every_schedule_of_random_networks_is_exact(seed: int, tmp_path: Path) -> None:
    network = with_statistics(lambda: RandomNetwork(seed), seed)
    traced = traced_network(network)
    levels, size = traced.most_levels, (traced.size_multiple[0] * 4 - 1, traced.size_multiple[1] * 3)
    bundle = export(
        network,
        tmp_path / "bundle",
        size=size,
        outputs="logits",
        precisions=(),
        levels=range(levels + 1),
        lowerings=Lowering,
    )
    frame = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = dict(differences(bundle, frame))
    assert list(found) == all_schedules(bundle.manifest)
    assert {(s.levels, s.lowering) for s in found} == {(n, form) for n in range(levels + 1) for form in Lowering}
    assert all(one.exact for one in found.values()), found


WHOLE = np.array([[[4.0, 1.0]], [[2.0, 0.9999]], [[-8.0, 0.0]]], np.float32)
"""Three classes at two pixels: one is clear, one has its two highest logits 1.25e-5 of the largest apart."""


def test_equal_logits_are_exact() -> None:
    assert difference(WHOLE, WHOLE.copy()).exact
    assert difference(WHOLE, WHOLE) == difference(WHOLE, WHOLE.copy())


def test_a_tie_may_fall_either_way() -> None:
    other = WHOLE.copy()
    other[1, 0, 1] += 6e-5
    other[0, 0, 1] -= 6e-5
    found = difference(WHOLE, other)
    assert found.labels_differ == 1
    assert found.relative_error == pytest.approx(7.5e-6, rel=0.01)
    assert found.widest_gap == pytest.approx(1.25e-5, rel=0.01)
    assert found.exact


@pytest.mark.parametrize(
    ("place", "value"), [((0, 0, 0), 4.001), ((1, 0, 0), 5.0), ((2, 0, 1), np.nan), ((0, 0, 1), np.inf)]
)
def test_more_than_rounding_is_not_exact(place: tuple[int, int, int], value: float) -> None:
    other = WHOLE.copy()
    other[place] = value
    assert not difference(WHOLE, other).exact
