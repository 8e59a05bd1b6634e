"""Random networks, exported right, pass: a small sample of ``benchmarks/false_alarms.py``."""

from pathlib import Path

import pytest

from benchmarks.false_alarms import judged


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_false_alarm(seed: int, tmp_path: Path) -> None:
    result = judged(seed, tmp_path)
    assert result["failed"] == []
    assert result["checks"] > 10
