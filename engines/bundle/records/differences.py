"""Two builds side by side: in what their records differ, and what could not be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from engines.bundle.records.build import BuildRecord
from engines.bundle.records.codec import builtins_from_record
from engines.bundle.records.fingerprint import EngineLayer, EngineLayers, Tactic

_APART = ("tactics", "fingerprint", "build_s")
"""Fields that are compared part by part, and a time, which differs always."""


@dataclass(frozen=True)
class Difference:
    """One thing in which two builds differ; ``None`` where one of them does not have it."""

    what: str
    here: str | None
    there: str | None


@dataclass(frozen=True)
class BuildComparison:
    """All of them."""

    differences: tuple[Difference, ...]
    not_compared: tuple[str, ...]
    """What is missing on one side or on both, and why."""


def compared_builds(here: BuildRecord, there: BuildRecord) -> BuildComparison:
    """Compare what two engines were built from, with and for, what they are and what they give.

    Layers are compared by name, in the order in which they run; tactics by key, and by kernel alone, since times
    differ always.
    """
    ours, theirs = builtins_from_record(here), builtins_from_record(there)
    differences = list(
        field_differences(
            *({key: value for key, value in held.items() if key not in _APART} for held in (ours, theirs))
        )
    )
    absent: list[str] = []
    for graph in ("trunk", "prepare"):
        layers = getattr(here.fingerprint, graph), getattr(there.fingerprint, graph)
        if reason := _absent(*layers):
            absent.append(f"layers of {graph}: {reason}")
        else:
            differences += _layer_differences(graph, *layers)
    if here.tactics is None or there.tactics is None:
        sides = [side for side, record in zip(_SIDES, (here, there), strict=True) if record.tactics is None]
        absent.append(f"tactics: not recorded {' and '.join(sides)}")
    else:
        for graph in ("trunk", "prepare"):
            differences += _tactic_differences(graph, getattr(here.tactics, graph), getattr(there.tactics, graph))
    if reason := _absent(here.fingerprint.outputs, there.fingerprint.outputs):
        absent.append(f"outputs: {reason}")
    else:
        differences += _output_differences(here, there)
    return BuildComparison(tuple(differences), tuple(absent))


def field_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[Difference]:
    """Fields that differ, by their name; those of fields as ``device.gpu``."""
    ours, theirs = _flat(here), _flat(there)
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            yield Difference(name, _text(ours.get(name)), _text(theirs.get(name)))


_SIDES = ("here", "there")


def _absent(here: object, there: object) -> str:
    """Why a part is missing, by side; ``""`` where both have it."""
    reasons: dict[str, list[str]] = {}
    for side, held in zip(_SIDES, (here, there), strict=True):
        if isinstance(held, str):
            reasons.setdefault(held, []).append(side)
    return "; ".join(f"{reason} ({' and '.join(sides)})" for reason, sides in reasons.items())


def _layer_differences(graph: str, here: EngineLayers, there: EngineLayers) -> Iterator[Difference]:
    if here.sha256 == there.sha256:
        return
    ours, theirs = _by_name(here.layers), _by_name(there.layers)
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        pair = zip_longest(ours.get(name, []), theirs.get(name, []))
        for mine, other in pair:
            if mine != other:
                yield Difference(f"{graph}, layer {name}", _layer_text(mine), _layer_text(other))
    orders = [layer.name for layer in here.layers], [layer.name for layer in there.layers]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        place = next(index for index, (one, other) in enumerate(zip(*orders, strict=True)) if one != other)
        yield Difference(f"{graph}, order of layers from {place} on", orders[0][place], orders[1][place])


def _by_name(layers: list[EngineLayer]) -> dict[str, list[EngineLayer]]:
    held: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        held.setdefault(layer.name, []).append(layer)
    return held


def _layer_text(layer: EngineLayer | None) -> str | None:
    if layer is None:
        return None
    return f"{layer.kind} {layer.tactic}: {', '.join(layer.inputs)} -> {', '.join(layer.outputs)}"


def _tactic_differences(graph: str, here: list[Tactic], there: list[Tactic]) -> Iterator[Difference]:
    ours, theirs = ({tactic.key: tactic.tactic for tactic in tactics} for tactics in (here, there))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield Difference(f"{graph}, tactic {key}", ours.get(key), theirs.get(key))


def _output_differences(here: BuildRecord, there: BuildRecord) -> Iterator[Difference]:
    """By the content of the frame: files of the same name may be others."""
    assert isinstance(here.fingerprint.outputs, list)
    assert isinstance(there.fingerprint.outputs, list)
    names = {digest.frame_sha256: digest.frame for digest in (*there.fingerprint.outputs, *here.fingerprint.outputs)}
    ours, theirs = (
        {digest.frame_sha256: digest.output_sha256 for digest in outputs}
        for outputs in (here.fingerprint.outputs, there.fingerprint.outputs)
    )
    for frame, name in names.items():
        if ours.get(frame) != theirs.get(frame):
            yield Difference(f"output for {name}", ours.get(frame), theirs.get(frame))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _text(value: object) -> str | None:
    return None if value is None else str(value)
