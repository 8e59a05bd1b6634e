"""``smp-deploy debug-precision``."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engines.bundle.manifest import OutputKind
from engines.errors import CheckFailed, MissingDependency
from engines.schedules.schedule import Precision
from smp_deploy.cli.console import note, print_json, print_line, print_table, progress
from smp_deploy.cli.opening import opened_bundle
from smp_deploy.cli.options import BundleArgument, ImagesOption, JsonOption, TrustOption, frames_of
from smp_deploy.cli.summaries import shown

if TYPE_CHECKING:
    from converters.verification.precision_search import Figures, Search
    from engines.bundle.manifest import Manifest, NetworkRecord


def debug_precision_command(
    bundle: BundleArgument,
    # ONNX Runtime computes no bf16 on a CPU, so nothing could be said of it.
    precision: Annotated[
        Literal["fp16", "int8"], typer.Option("--precision", help="What is compared with fp32.")
    ] = "fp16",
    images: ImagesOption = None,
    trust: TrustOption = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Modules to show; --json has all.")] = 10,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Rank the modules of BUNDLE by the error they introduce in a lower precision, and propose what to keep in fp32.

    Each module with weights computes in that precision alone once, in ONNX Runtime on one phase of each frame, and the
    error is measured at the logits. The proposal is the shortest list found that is within tolerance; the graph that
    keeps these modules in fp32 was made and run. Frames are those of --images, else the bundle's reference frames.
    Exit code 1 where no list of modules suffices.
    """
    opened, wanted = opened_bundle(bundle, trust), Precision(precision)
    try:
        from converters.verification.precision_search import searched_precision
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    frames = frames_of(opened, images) or [opened.reference_arrays(case)[0] for case in opened.manifest.reference]
    with progress(f"{precision}, module by module") as advance:
        search = searched_precision(opened, wanted, frames, advance)
    command = _command(opened.manifest, wanted, search)
    document = {"bundle": str(bundle), "precision": precision, "frames": len(frames), **_document(search, command)}
    if as_json:
        print_json(document)
    else:
        _print(search, wanted, command, top)
    if search.proposal is None:
        raise CheckFailed(f"{precision} is not within tolerance even if every module with weights stays in fp32")
    return document


def _command(manifest: Manifest, precision: Precision, search: Search) -> str | None:
    """The export that makes this bundle with the proposed modules kept, with placeholders for what it does not know."""
    if not search.proposal:
        return None
    from converters.graphs.from_torch import DEFAULT_OPSET
    from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD
    from converters.networks import ARCHITECTURES
    from converters.palettes import default_classes

    frame, calibration = manifest.input, manifest.calibration
    words = ["--size", shown(frame.size)]
    if manifest.outputs is not OutputKind.LABELS:
        words += ["--outputs", manifest.outputs.value]
    for name, values, usual in (("--mean", frame.mean, IMAGENET_MEAN), ("--std", frame.std, IMAGENET_STD)):
        if tuple(values) != usual:
            words += [name, *map(repr, values)]
    if manifest.opset != DEFAULT_OPSET:
        words += ["--opset", str(manifest.opset)]
    words += _trunk_words(manifest)
    kept = manifest.keep_fp32 | {precision: [*manifest.keep_fp32.get(precision, []), *search.proposal]}
    for held in manifest.trunk().graphs:
        if held is not Precision.FP32:
            words += ["--precision", held.value]
            words += [word for module in kept.get(held, ()) for word in ("--keep-fp32", f"{held.value}:{module}")]
    line = shlex.join(words)
    if calibration is not None:
        line += f" --calibration {calibration.method}"
        if calibration.percentile is not None:
            line += f" --calibration-percentile {calibration.percentile!r}"
        line += " --calibration-images FRAMES"
    known = manifest.network.source in ARCHITECTURES
    if tuple(manifest.classes) != default_classes(len(manifest.classes), usual=known)[0]:
        line += " --class-names FILE"
    return f"smp-deploy export {_network_words(manifest.network)} {line} -o NEW_BUNDLE"


def _network_words(network: NetworkRecord) -> str:
    """The checkpoint and the network: a known one needs weights, a factory may bring its own."""
    from converters.networks import ARCHITECTURES

    if network.source in ARCHITECTURES:
        return f"CHECKPOINT --arch {network.source}"
    checkpoint = "CHECKPOINT " if network.checkpoint_sha256 else ""
    # The class of a network that was exported from memory says nothing of how one is made.
    factory = shlex.quote(network.source) if ":" in network.source else "PACKAGE.MODULE:FACTORY"
    return f"{checkpoint}--model {factory}"


def _trunk_words(manifest: Manifest) -> list[str]:
    """Levels and lowerings, where the bundle has every combination of some; else they are the default's."""
    held = {(trunk.levels, trunk.lowering.value) for trunk in manifest.trunks}
    levels, lowerings = sorted({level for level, _ in held}), sorted({lowering for _, lowering in held})
    if len(held) != len(levels) * len(lowerings):
        return []
    words = [word for level in levels for word in ("--levels", str(level))]
    return words + [word for lowering in lowerings for word in ("--lowering", lowering)]


def _document(search: Search, command: str | None) -> dict[str, Any]:
    return {
        "kept": list(search.kept_before),
        "before": _figures(search.before),
        "overflow": search.overflow,
        "modules": [
            {"module": entry.module, **_figures(entry.figures), "largest": _number(entry.largest)}
            for entry in search.ranked
        ],
        "proposal": None if search.proposal is None else list(search.proposal),
        "after": None if search.after is None else _figures(search.after),
        "graphs_run": search.runs,
        "command": command,
    }


def _print(search: Search, precision: Precision, command: str | None, top: int) -> None:
    rows = [
        (entry.module, f"{entry.figures.error:.2e}", f"{entry.figures.agreement:.4%}", f"{entry.largest:.4g}")
        for entry in search.ranked[:top]
    ]
    title = f"each module alone in {precision.value}, worst first"
    print_table(("module", "error of logits", "equal labels", "largest value"), rows, title=title)
    print_line(f"all together: {_shown(search.before)}")
    if search.overflow:
        print_line(f"not finite from {search.overflow} on: a value there is too large for {precision.value}")
    if search.proposal:
        assert search.after is not None
        assert command is not None
        print_line(f"keep in fp32: {', '.join(search.proposal)}")
        print_line(f"with these, verified by a graph that was run: {_shown(search.after)}")
        print_line(command)
    elif search.before.passed:
        note("within tolerance: nothing needs to stay in fp32")


def _shown(figures: Figures) -> str:
    verdict = "within tolerance" if figures.passed else "outside the tolerance"
    return f"error of logits {figures.error:.2e}, equal labels {figures.agreement:.4%}, {verdict}"


def _figures(figures: Figures) -> dict[str, Any]:
    return {"error": _number(figures.error), "label_agreement": figures.agreement, "passed": figures.passed}


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
