"""``validate(reproduce=...)``: from the first check that failed to a folder that shows the fault alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from converters.graphs.rounding import write_rounding
from converters.reproductions.pieces import OUTPUT, Piece, file_stem, run_of, without_weights
from converters.reproductions.sources import piece_in_precision, piece_of_output, pieces_in_fp32
from converters.thresholds import as_exported
from converters.verification.chain import PYTORCH
from converters.verification.subject import Frame, Subject, reference_frames
from engines.backends.versions import tool_versions
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import TrunkRecord
from engines.bundle.records import Check, Kind
from engines.bundle.staging import check_target, staged_directory
from engines.errors import BackendError, InputError, MissingDependency
from engines.schedules.schedule import Precision

GRAPH = "piece.onnx"
ROUNDED = "piece-rounded.onnx"
"""The same with every result rounded to half precision, which ONNX Runtime does not do on a CPU by itself."""


class Unreproducible(InputError):
    """No piece of a graph fails alone."""


def reproduce(
    bundle: Bundle | str | Path,
    folder: str | Path,
    checks: Iterable[Check],
    *,
    network: nn.Module | None = None,
    frames: Sequence[Frame] = (),
    weights: bool = True,
) -> Piece:
    """Write the smallest piece of a graph that fails alone, of the first failed check that has one, into a new folder.

    Args:
        bundle: that was validated, open, or the path of one.
        folder: to be made; it must not be there.
        checks: of the validation, ``validate(...).checks``.
        network: as for :func:`validate`: with it, convolutions are compared with PyTorch's.
        frames: further ones that were validated on. The reference frames are tried first.
        weights: keep the network's weights. Without, they are random ones of the same mean and spread.

    Raises:
        BundleError: the bundle is damaged.
        MissingDependency: Polygraphy is not installed.
        OutputError: the folder is there, or cannot be written.
        Unreproducible: nothing failed, no piece fails alone, or none does without the network's weights.
    """
    opened = Bundle.of(bundle)
    check_target(Path(folder), None)
    subject = Subject(opened, [*reference_frames(opened), *frames], {}, as_exported(opened, network))
    failed = [check for check in checks if check.failed]
    if not failed:
        raise Unreproducible("no check failed: there is nothing to reproduce")
    # A hop from another graph fails for both of its ends: PyTorch's say which is wrong.
    wrong = {check.graph for check in failed if check.hop is not None and check.hop[0].startswith(PYTORCH)}
    reasons = []
    for check, frame in product(failed, subject.frames):
        try:
            for piece in _pieces_of(subject, check, frame, wrong):
                sent = piece if weights else without_weights(piece)
                if sent is not None:
                    _write(check, sent, Path(folder), with_weights=weights)
                    return sent
                reasons.append(f"{', '.join(piece.nodes)}: the fault does not survive other weights")
        except BackendError as error:
            reasons.append(str(error))
    said = "; ".join(dict.fromkeys(reasons)) or "every layer is right by itself, or there is nothing to compare it with"
    hint = "" if network is not None else "; with the network, PyTorch's layers are compared, too"
    raise Unreproducible(f"no piece of a graph was found that fails alone: {said}{hint}")


def _pieces_of(subject: Subject, check: Check, frame: Frame, wrong: set[str | None]) -> Iterator[Piece]:
    """The pieces of a check that is about a graph, each beside another one that knows better."""
    phase = frame.case.phase if frame.case is not None else (0, 0)
    graphs = dict(_graphs(subject))
    if check.graph not in graphs:
        return
    trunk, precision = graphs[check.graph]
    if trunk is not None:
        window = subject.bundle.manifest.grid(trunk).window
        phase = phase[0] % window[0], phase[1] % window[1]
    if precision is Precision.FP32 and check.kind is not Kind.LAYOUT:
        others = [
            other
            for name, (other, held) in graphs.items()
            if held is Precision.FP32 and name not in wrong and name != check.graph
        ]
        yield from pieces_in_fp32(subject, trunk, frame, phase, others)
        return
    if trunk is None:
        return
    if check.kind is Kind.LAYOUT:
        piece = piece_of_output(subject, trunk, precision, frame, phase)
    elif trunk.graphs[Precision.FP32] in wrong:
        # Nobody knows which of the two is right.
        return
    else:
        piece = piece_in_precision(subject, trunk, precision, frame, phase)
    if piece is not None:
        yield piece


def _graphs(subject: Subject) -> Iterator[tuple[str, tuple[TrunkRecord | None, Precision]]]:
    """By file: the trunk and the precision; ``None`` for ``model.onnx``."""
    for trunk in subject.bundle.manifest.trunks:
        for precision, name in trunk.graphs.items():
            yield name, (trunk, precision)
    yield subject.bundle.manifest.model, (None, Precision.FP32)


def _write(check: Check, piece: Piece, folder: Path, *, with_weights: bool) -> None:
    model = ir.to_proto(piece.model).SerializeToString()
    rounded = None
    # Float16 that ONNX Runtime computes in float32 may be right there, and wrong wherever it is rounded.
    if replace(piece, actual=run_of(piece, rounded=False)).fails is False:
        copied = piece.model.clone()
        write_rounding(copied)
        rounded = ir.to_proto(copied).SerializeToString()
    inputs: dict[str, NDArray[np.generic]] = dict(piece.inputs)
    files = {name: f"input-{index}-{file_stem(name)}" for index, name in enumerate(inputs)}
    with staged_directory(folder) as stage:
        (stage / GRAPH).write_bytes(model)
        if rounded is not None:
            (stage / ROUNDED).write_bytes(rounded)
        for name, array in inputs.items():
            np.save(stage / f"{files[name]}.npy", array)
            # trtexec reads raw bytes.
            array.tofile(stage / f"{files[name]}.bin")
        np.save(stage / "expected.npy", piece.expected)
        np.save(stage / "actual-onnxruntime.npy", piece.actual)
        (stage / "inputs.json").write_text(_polygraphy([inputs]))
        (stage / "expected.json").write_text(_polygraphy_results(piece))
        text = _text(check, piece, files, rounded=rounded is not None, with_weights=with_weights)
        (stage / "README.md").write_text(text, encoding="utf-8")


def _polygraphy(value: Any) -> str:
    try:
        from polygraphy.json import to_json
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    return str(to_json(value))


def _polygraphy_results(piece: Piece) -> str:
    try:
        from polygraphy.comparator import RunResults
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    results: Any = RunResults()
    results.add([{OUTPUT: piece.expected}], runner_name="expected")
    return _polygraphy(results)


def _text(check: Check, piece: Piece, files: dict[str, str], *, rounded: bool, with_weights: bool) -> str:
    """What a vendor reads first."""
    scale = float(np.abs(piece.expected).max(initial=0.0))
    atol = f"{piece.bound * scale:.3g}"
    graph = ROUNDED if rounded else GRAPH
    polygraphy = (
        f"polygraphy run {graph} --onnxrt --load-inputs inputs.json --load-outputs expected.json --atol {atol} --rtol 0"
    )
    loaded = ",".join(f"{name}:{files[name]}.bin" for name in piece.inputs)
    trtexec = shlex.join(["trtexec", f"--onnx={GRAPH}", "--stronglyTyped", f"--loadInputs={loaded}", "--dumpOutput"])
    nodes = "\n".join(f"- {node.op_type} `{name}`" for name, node in zip(piece.nodes, piece.model.graph, strict=True))
    counted = f"{len(piece.nodes)} node{'s' if len(piece.nodes) > 1 else ''}"
    shapes = "\n".join(
        f"- `{name}`: {array.dtype} {list(array.shape)}, `{files[name]}.npy`" for name, array in piece.inputs.items()
    )
    versions = "\n".join(f"- {name} {version}" for name, version in tool_versions().items())
    weights = "The network's own." if with_weights else "Random, of the mean and spread of the network's own."
    by_itself = (
        f"\n`{ROUNDED}` is the same graph with every result rounded to float16 once more: ONNX Runtime computes "
        "float16 in float32 on a CPU, where this fault does not show.\n"
        if rounded
        else ""
    )
    return f"""# A piece of {check.graph} that is wrong by itself

{check.name}, {check.subject}: {check.words}

## What it is

`{GRAPH}`, {counted}, cut out of `{check.graph}` ({piece.precision.value}):

{nodes}

Its inputs, right to rounding:

{shapes}

Its output `{OUTPUT}` should be `expected.npy`, float32 {list(piece.expected.shape)}, within {piece.bound:.3g} of the
largest value, {scale:.6g}. In ONNX Runtime it is {piece.error:.3g} off: `actual-onnxruntime.npy`.
{by_itself}
Weights: {weights}

## See it

```console
$ {polygraphy}
$ {trtexec}
```

The first fails while the fault is there. The second prints what TensorRT gives for the same inputs.

## Made with

{versions}
"""
