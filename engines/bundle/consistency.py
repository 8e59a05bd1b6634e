"""What the types of the manifests cannot say: their parts agree with each other, and nothing is out of proportion.

Whoever opens a bundle reads, hashes and allocates what its manifest says. So sizes follow from what is described, or
have a bound; all of it is checked before anything is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from engines.bundle.limits import (
    ARRAY_BYTES,
    ARRAY_HEADER_BYTES,
    BUILD_RECORD_BYTES,
    BUNDLE_BYTES,
    GRAPH_BYTES,
    OTHER_BYTES,
    PLAN_BYTES,
    PLAN_WEIGHTS,
    WEIGHTS_BYTES,
)
from engines.bundle.names import MANIFEST_NAME, RESERVED, TARGET_NAME
from engines.errors import BundleError
from engines.schedules.phases import Size

if TYPE_CHECKING:
    from engines.bundle.manifest import EngineRecord, FileRecord, Manifest, TargetManifest, TrunkRecord

LARGEST_SIDE, MOST_PIXELS, MOST_PHASES, MOST_SPLITS = 2**16, 2**28, 2**14, 14
"""Of a padded frame; of the phases that a loop walks; and of the splits of a network. A frame of 8K has 2**25 pixels,
five splits of 2x2 give 2**10 phases."""
MOST_REFERENCES = 256


def check_manifest(manifest: Manifest) -> None:
    """Raise :class:`BundleError` or :class:`LayoutError` where the parts of ``manifest.json`` do not hold together."""
    _check_frame(manifest)
    _check_windows(manifest)
    _check_trunks(manifest)
    _check_references(manifest)
    named = [manifest.weights, *sorted(manifest.graphs)]
    named += [name for case in manifest.reference for name in (case.frame, case.logits)]
    named += [manifest.edges.logits] if manifest.edges else []
    _check_listed(MANIFEST_NAME, named, manifest.files)
    for name in manifest.files:
        if name.split("/")[0].lower() in RESERVED:
            raise BundleError(f"{MANIFEST_NAME} lists {name!r}, a name that no exported file has")
    _check_sizes(manifest)


def check_target(target: TargetManifest, manifest: Manifest, manifest_sha256: str) -> None:
    """Raise :class:`BundleError` where ``target.json`` does not belong to the manifest or contradicts itself."""
    if target.manifest_sha256 != manifest_sha256:
        raise BundleError(
            f"{TARGET_NAME} is of another {MANIFEST_NAME}: its engines and tunings are of other graphs; remove it"
        )
    graphs = {(trunk.levels, trunk.lowering): trunk.graphs for trunk in manifest.trunks}
    for tuning in target.tunings:
        for held in tuning.measurements:
            if (held.schedule.levels, held.schedule.lowering) not in graphs:
                raise BundleError(f"{TARGET_NAME} has a tuning of {held.schedule}, but no such trunk")
    for engine in target.engines:
        if engine.precision.graph not in graphs.get((engine.schedule.levels, engine.schedule.lowering), {}):
            raise BundleError(
                f"{TARGET_NAME} has an engine in {engine.precision.value} of {engine.schedule}, but no such trunk"
            )
    if len({engine.use for engine in target.engines}) < len(target.engines):
        raise BundleError(f"{TARGET_NAME} has two engines for the same use")
    named = [name for engine in target.engines for name in engine.files]
    _check_listed(TARGET_NAME, named, target.files)
    if unnamed := target.files.keys() - set(named):
        raise BundleError(f"{TARGET_NAME} lists {min(unnamed)!r}, which is no engine's")
    most = PLAN_WEIGHTS * manifest.files[manifest.weights].size + PLAN_BYTES
    for engine in target.engines:
        _check_engine(engine, target.files, most)


def _check_listed(document: str, named: Iterable[str], files: Mapping[str, FileRecord]) -> None:
    for name in named:
        if name not in files:
            raise BundleError(f"{document} names {name!r} but does not list it among its files")


def _check_engine(engine: EngineRecord, files: Mapping[str, FileRecord], most: int) -> None:
    for name, bound in ((engine.engine, most), (engine.prepare, most), (engine.record, BUILD_RECORD_BYTES)):
        _check_bytes(TARGET_NAME, name, files[name].size, bound)


def _check_frame(manifest: Manifest) -> None:
    frame = manifest.input
    height, width = frame.padded_size
    if max(height, width) > LARGEST_SIDE or height * width > MOST_PIXELS:
        raise BundleError(f"{MANIFEST_NAME} has a frame of {height}x{width}, which is too large")
    if any(side < inner for side, inner in zip(frame.padded_size, frame.size, strict=True)):
        raise BundleError(f"{MANIFEST_NAME} pads {frame.size} to {frame.padded_size}")
    if max(frame.border) > max(height, width):
        raise BundleError(f"{MANIFEST_NAME} has a border of {frame.border} around {height}x{width}")


def _check_windows(manifest: Manifest) -> None:
    if len(manifest.windows) > MOST_SPLITS:
        raise BundleError(
            f"{MANIFEST_NAME} has {len(manifest.windows)} splits, where a network has {MOST_SPLITS} at most"
        )
    if (1, 1) in manifest.windows:
        raise BundleError(f"{MANIFEST_NAME} has a split of a window of 1x1, which splits nothing")


def _check_trunks(manifest: Manifest) -> None:
    """Before anything is made of them: who asks for a grid of 2**28 phases gets as many objects."""
    if len({(trunk.levels, trunk.lowering) for trunk in manifest.trunks}) < len(manifest.trunks):
        raise BundleError(f"{MANIFEST_NAME} lists two trunks of the same levels and lowering")
    for trunk in manifest.trunks:
        _check_walk(trunk, manifest.windows)
        if not trunk.graphs.keys() <= trunk.convolutions.keys():
            raise BundleError(f"{MANIFEST_NAME} does not count the convolutions of every trunk")
        # Raises for a window that does not divide the frame.
        manifest.grid(trunk)


def _check_walk(trunk: TrunkRecord, windows: Sequence[Size]) -> None:
    """The windows of a trunk are those of the first splits: the first few together, the others one by one."""
    if trunk.levels > len(windows):
        raise BundleError(f"{MANIFEST_NAME} has a trunk of {trunk.levels} levels of {len(windows)} splits")
    cut = trunk.levels - len(trunk.inner_windows)
    if cut < 0 or trunk.inner_windows != windows[cut : trunk.levels] or trunk.cut_window != _together(windows)[cut]:
        raise BundleError(
            f"{MANIFEST_NAME} has a trunk of {trunk.levels} levels whose windows are not those of the first splits"
        )
    if math.prod(_together(windows)[trunk.levels]) > MOST_PHASES:
        raise BundleError(f"{MANIFEST_NAME} has a trunk of more than {MOST_PHASES} phases")


def _check_references(manifest: Manifest) -> None:
    if len(manifest.reference) > MOST_REFERENCES:
        raise BundleError(f"{MANIFEST_NAME} has {len(manifest.reference)} reference frames, above {MOST_REFERENCES}")
    phases = [(case.phase, case.window) for case in manifest.reference]
    if edges := manifest.edges:
        if not len(set(edges.frames)) == len(edges.frames) == len(edges.phases):
            raise BundleError(
                f"{MANIFEST_NAME} has {len(edges.phases)} phases for {len(edges.frames)} generated frames"
            )
        phases += [(phase, edges.window) for phase in edges.phases]
    for phase, window in phases:
        (row, column), (h, w), (height, width) = phase, window, manifest.input.padded_size
        if row >= h or column >= w or height % h or width % w or window not in _together(manifest.windows):
            raise BundleError(
                f"{MANIFEST_NAME} has a reference phase {phase} of a window of {h}x{w} in {height}x{width}"
            )


def _check_sizes(manifest: Manifest) -> None:
    """Of every file: an array has those of its shape, the others at most as many bytes as their kind."""
    arrays = dict[str, int]()
    (height, width), (padded_height, padded_width) = manifest.input.size, manifest.input.padded_size

    def logits_bytes(window: Size) -> int:
        return 4 * len(manifest.classes) * (padded_height // window[0]) * (padded_width // window[1])

    for case in manifest.reference:
        arrays[case.frame], arrays[case.logits] = 3 * height * width, logits_bytes(case.window)
    if edges := manifest.edges:
        arrays[edges.logits] = len(edges.frames) * logits_bytes(edges.window)
    most = {manifest.weights: WEIGHTS_BYTES} | dict.fromkeys(manifest.graphs, GRAPH_BYTES)
    for name, record in manifest.files.items():
        if name not in arrays:
            _check_bytes(MANIFEST_NAME, name, record.size, most.get(name, OTHER_BYTES))
        elif not arrays[name] < record.size <= arrays[name] + ARRAY_HEADER_BYTES:
            raise BundleError(
                f"{MANIFEST_NAME} lists {name!r} with {record.size} bytes, where an array of its shape has "
                f"{arrays[name]} and a header"
            )
        else:
            _check_bytes(MANIFEST_NAME, name, record.size, ARRAY_BYTES)
    _check_bytes(MANIFEST_NAME, "all files", sum(record.size for record in manifest.files.values()), BUNDLE_BYTES)


def _check_bytes(document: str, name: str, size: int, most: int) -> None:
    if size > most:
        raise BundleError(f"{document} lists {name} of {size} bytes; the most that is read of this kind is {most}")


def _together(windows: Sequence[Size]) -> list[Size]:
    """What the first splits amount to together: of none, of the first, of the first two, ..."""
    return list(accumulate(windows, lambda total, window: (total[0] * window[0], total[1] * window[1]), initial=(1, 1)))
