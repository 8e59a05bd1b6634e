"""Random strided networks, dense: a part of those of ``benchmarks/random_strided.py``."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_strided import EXACT, judged


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6))
def test_a_random_strided_network_is_exact_at_every_phase(seed: int) -> None:
    row = judged(seed)
    assert row["phase (0, 0)"] <= EXACT
    assert row["other phases"] <= EXACT
