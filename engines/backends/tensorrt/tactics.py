"""Tactics: the kernels that TensorRT chose, recorded from a build and replayed in another one.

TensorRT times its kernels on the machine that builds, so two builds of one graph may take different ones, and a
different kernel may round differently. What it chose lies in its timing cache, which from 10.13 on can be asked for its
keys (one for each problem that was timed), asked for the kernel and the time of each key, and changed. A key that a
cache does not have cannot be put into it, though: a build is needed to make the keys. So a replay builds twice, or
takes the keys from a timing cache that was kept. Then::

    a copy of that cache:  recorded keys get the recorded kernel and time, all others are deleted
    build with the copy:   a kernel that would have to be timed is an error to TensorRT
    compare:               every key has the recorded kernel, and there is no other key

The comparison counts: TensorRT 11.0 builds on past some of the misses that it should report. What is compared is the
kernel alone. Times differ between devices of one kind, and so do the bytes of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from engines.bundle.records import MOST_TACTICS, Tactic
from engines.errors import BackendError, CheckFailed

_SHOWN = 3
"""Keys that a message names of each kind."""
_NO_TACTIC = 2**64 - 1
"""What TensorRT says where it has none."""


def check_editable(trt: Any) -> None:
    """Raise :class:`BackendError` for a TensorRT whose timing cache cannot be asked for its tactics."""
    known = (
        hasattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE"),
        hasattr(trt, "TimingCacheValue"),
        hasattr(trt.ITimingCache, "queryKeys"),
        hasattr(trt.ITimingCache, "query"),
        hasattr(trt.ITimingCache, "update"),
    )
    if not all(known):
        raise BackendError(
            f"TensorRT {trt.__version__} cannot be asked for its tactics: that takes 10.13 or later; leave "
            "record_tactics= and reproduce= out"
        )


class TacticCache:
    """The timing cache of one build, whose tactics can be read and pinned. It is attached to the builder's settings.

    Args:
        trt: a TensorRT that :func:`check_editable` accepts.
        settings: the builder's. Caches of compiled kernels are turned off: what they hold was never timed.
        content: a timing cache that was kept; by default an empty one. Another device of the same kind may have
            written it.

    Raises:
        BackendError: TensorRT does not take the cache.
    """

    def __init__(self, trt: Any, settings: Any, content: bytes = b"") -> None:
        self._trt, self._settings = trt, settings
        settings.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
        settings.set_flag(trt.BuilderFlag.DISABLE_COMPILATION_CACHE)
        self._attach(content)

    def tactics(self) -> tuple[Tactic, ...]:
        """What is in the cache now, by key.

        Raises :class:`BackendError` where a key has no tactic or time, or comes twice, and for more keys than a record
        holds.
        """
        held = []
        for key, timed in self._entries():
            name, tactic, ms = str(key), int(timed.tacticHash), float(timed.timingMSec)
            if tactic == _NO_TACTIC or not math.isfinite(ms) or ms < 0:
                raise BackendError(f"TensorRT {self._trt.__version__} names no tactic of {name}: it cannot be recorded")
            held.append(Tactic(key=name, tactic=f"0x{tactic:016x}", ms=ms))
        if len({tactic.key for tactic in held}) != len(held):
            raise BackendError(f"TensorRT {self._trt.__version__} gives two tactics for one key: none can be recorded")
        if len(held) > MOST_TACTICS:
            raise BackendError(f"TensorRT chose {len(held)} tactics, and a record holds {MOST_TACTICS}")
        return tuple(sorted(held, key=_key_of))

    def pin(self, wanted: Sequence[Tactic], name: str) -> None:
        """Attach a copy with these tactics and no others; from now on TensorRT shall choose none by itself.

        Raises :class:`CheckFailed` for tactics whose keys the cache does not have: the build never came to them.
        """
        found = self.tactics()
        if missing := {tactic.key for tactic in wanted} - {tactic.key for tactic in found}:
            raise CheckFailed(
                _not_reproduced(name, len(wanted), {"have keys that this build has not": sorted(missing)})
            )
        trt, settings, cache = self._trt, self._settings, self._cache()
        self._attach(bytes(cache.serialize()))
        cache, by_key = self._cache(), {tactic.key: tactic for tactic in wanted}
        refused = []
        for key, _ in self._entries():
            tactic = by_key.get(str(key))
            # A time that is no number deletes the entry.
            chosen = (0, math.nan) if tactic is None else (int(tactic.tactic, 16), tactic.ms)
            if not cache.update(key, trt.TimingCacheValue(*chosen)):
                refused.append(str(key))
        if refused:
            raise CheckFailed(_not_reproduced(name, len(wanted), {"are refused by TensorRT": sorted(refused)}))
        settings.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)

    def _entries(self) -> list[tuple[Any, Any]]:
        cache = self._cache()
        return [(key, cache.query(key)) for key in cache.queryKeys()]

    def _cache(self) -> Any:
        settings = self._settings
        return settings.get_timing_cache()

    def _attach(self, content: bytes) -> None:
        settings = self._settings
        cache = settings.create_timing_cache(content)
        # The header of a cache names the very device. What counts is compared after the build.
        if cache is None or not settings.set_timing_cache(cache, True):
            raise BackendError(f"TensorRT {self._trt.__version__} does not take a timing cache of {len(content)} bytes")
        # TensorRT keeps no reference to it.
        self._held = cache


def check_replayed(wanted: Iterable[Tactic], found: Iterable[Tactic], name: str) -> None:
    """Raise :class:`CheckFailed`, with the first keys, unless a build chose the wanted tactics and no others."""
    expected, actual = ({tactic.key: tactic.tactic for tactic in held} for held in (wanted, found))
    differences = {
        "are of another kernel": [
            f"{key} ({expected[key]}, here {actual[key]})"
            for key in sorted(expected.keys() & actual.keys())
            if expected[key] != actual[key]
        ],
        "are missing": sorted(expected.keys() - actual.keys()),
        "are not in the record": sorted(actual.keys() - expected.keys()),
    }
    if any(differences.values()):
        raise CheckFailed(_not_reproduced(name, len(expected), differences))


def _not_reproduced(name: str, recorded: int, differences: dict[str, list[str]]) -> str:
    parts = []
    for what, keys in differences.items():
        if keys:
            more = ", ..." if len(keys) > _SHOWN else ""
            parts.append(f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{more}")
    return f"{name} was not built as recorded; of its tactics ({recorded} in the record) {'; '.join(parts)}"


def _key_of(tactic: Tactic) -> str:
    return tactic.key
