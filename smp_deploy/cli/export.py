"""``smp-deploy export``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engines.bundle.manifest import MANIFEST_NAME, OutputKind
from engines.bundle.staging import check_target
from engines.errors import FrameError, InputError, MissingDependency
from engines.schedules.phases import Size
from engines.schedules.schedule import Lowering, Precision
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.errors import in_options
from smp_deploy.cli.options import (
    FrameSize,
    JsonOption,
    MaxPoolOption,
    StripPrefixOption,
    UntilOption,
    UpsamplingOption,
    WeightsOption,
    above_zero,
    densification_of,
    frame_size,
)
from smp_deploy.cli.summaries import bundle_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from converters.checkpoints import Checkpoint
    from converters.networks import SegmentationNetwork
    from engines.bundle.manifest import ClassRecord


def _share(value: float | None) -> float | None:
    """Refuse what is no percentage above 0."""
    above_zero(value)
    if value is not None and value > 100:
        raise typer.BadParameter(f"{value} is not in the range 0<x<=100.")
    return value


def export_command(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="[CHECKPOINT]", help="Weights; with --model it may be left out.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="NAME", help="A known network, smp-resnet18 for example.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PACKAGE.MODULE:FACTORY",
            help="A network of your own: of pooling layers, or with --densify an ordinary strided one.",
        ),
    ] = None,
    *,
    size: Annotated[
        FrameSize,
        typer.Option("--size", parser=frame_size, metavar="HxW", help="Frames, height x width in pixels."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Where the bundle goes.")],
    outputs: Annotated[
        OutputKind, typer.Option("--outputs", help="What the bundle gives for a frame.")
    ] = OutputKind.LABELS,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="P",
            help="For labels of a network of one logit a pixel: 1 where its sigmoid is above P, else 0.",
        ),
    ] = None,
    precisions: Annotated[
        list[Precision] | None,
        typer.Option(
            "--precision",
            help="Trunks to write beside the fp32 one, which the checks need; may be given several times. fp32 writes "
            "that one alone, bf16 needs --opset 22, int8 needs --calibration-images.  [default: fp16]",
        ),
    ] = None,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-fp32",
            metavar="[PRECISION:]PATTERN",
            help="Modules that stay in fp32 in the other trunks, 'layer4.*' for example; with 'int8:' in front in "
            "those of int8 alone. May be given several times.",
        ),
    ] = None,
    calibration_images: Annotated[
        list[str] | None,
        typer.Option(
            "--calibration-images",
            metavar="PATH",
            help="Frames of --size that int8 measures its activations on: files, folders or patterns.",
        ),
    ] = None,
    calibration: Annotated[
        Literal["entropy", "percentile", "minmax"] | None,
        typer.Option("--calibration", help="How int8 chooses the range of an activation.  [default: percentile]"),
    ] = None,
    calibration_percentile: Annotated[
        float | None,
        typer.Option(
            "--calibration-percentile",
            callback=_share,
            metavar="PERCENT",
            help="Values that --calibration percentile does not cut off.  [default: 99.99]  [0<x<=100]",
        ),
    ] = None,
    levels: Annotated[
        list[int] | None,
        typer.Option(
            "--levels",
            min=0,
            metavar="N",
            help="Write only trunks for a loop over this many levels; may be given several times.  [default: all "
            "levels, and the lowerings strided and dilated for the level that repeats no work]",
        ),
    ] = None,
    lowerings: Annotated[
        list[Lowering] | None,
        typer.Option("--lowering", help="Write only trunks of this lowering; may be given several times."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, metavar="N", help="Channels of the logits.  [default: the checkpoint's]"),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", min=1, metavar="N", help="Channels of the stem.  [default: the checkpoint's]"),
    ] = None,
    densify: Annotated[
        bool,
        typer.Option("--densify", help="Make a strided network dense: each stride a split, the same weights."),
    ] = False,
    until: UntilOption = None,
    upsampling: UpsamplingOption = None,
    max_pool: MaxPoolOption = None,
    weights: WeightsOption = None,
    strip_prefix: StripPrefixOption = None,
    backbone_only: Annotated[
        bool,
        typer.Option("--backbone-only", help="Accept a checkpoint without classifiers; they start at random."),
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(
            "--class-names",
            metavar="PATH",
            help="A file with a class a line, 'name R G B'. Without it: what `train` wrote into CHECKPOINT; else, with "
            "--arch, Cityscapes for 19 classes and CamVid for 11.  [default: numbers]",
        ),
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--mean", metavar="R G B", help="Of R, G and B in [0, 1].  [default: ImageNet's]"),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--std", metavar="R G B", help="Of R, G and B in [0, 1].  [default: ImageNet's]"),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", min=18, max=23, metavar="N", help="ONNX opset.")] = 18,
    reference_images: Annotated[
        list[str] | None,
        typer.Option(
            "--reference-images",
            metavar="PATH",
            help="Frames of --size to keep with PyTorch's outputs for later checks: files, folders or patterns.  "
            "[default: one of noise]",
        ),
    ] = None,
    product: Annotated[
        str | None,
        typer.Option("--product", metavar="NAME", help="What the bundle is a version of.  [default: the network's]"),
    ] = None,
    bundle_version: Annotated[
        int,
        typer.Option(
            "--bundle-version", min=0, metavar="N", help="Which one; a policy refuses older ones than it has accepted."
        ),
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that stands at the output.")] = False,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Write the bundle of a network: its ONNX graphs, weights, manifest and reference outputs.

    CHECKPOINT is a file of safetensors, the index of its shards, or what torch.save wrote; no code in it is run. It may
    be left out with --model when the factory loads its own weights.
    """
    if (arch is None) == (model is None):
        raise InputError("name the network, either with --arch or with --model")
    if model is not None and (classes or width):
        raise InputError("--classes and --width are for --arch; the factory of --model decides them itself")
    if checkpoint is None and backbone_only:
        raise InputError("--backbone-only says what of a CHECKPOINT is taken; name one")
    if checkpoint is None and model is None:
        raise InputError("a known network needs a CHECKPOINT")
    if checkpoint is None and (weights is not None or strip_prefix is not None):
        raise InputError("--weights and --strip-prefix are for a CHECKPOINT")
    wanted = tuple(precisions or (Precision.FP16,))
    # Said before the minutes of work, not after them.
    check_target(output, MANIFEST_NAME if force else None)
    try:
        import torch  # noqa: F401 - tells at once that the extra is missing

        from converters.checkpoints import checkpoint_from_file, load_checkpoint
        from converters.densifying import densified
        from converters.exporting import export
        from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD
        from converters.networks import network_from_factory
        from converters.palettes import classes_from_file
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error

    densification = densification_of(context.params, wanted=densify)
    loaded = None
    if checkpoint is not None:
        loaded = checkpoint_from_file(checkpoint, weights=weights, strip_prefix=strip_prefix)
    if arch is not None:
        assert loaded is not None
        network: nn.Module = _known(arch, loaded, classes, width, backbone_only=backbone_only)
        width = network.get_parameter("conv1.weight").shape[0]
    else:
        network = network_from_factory(str(model))
        if loaded is not None:
            load_checkpoint(network, loaded, backbone_only=backbone_only, on_note=note)
    if densification is not None:
        network, report = densified(network, size, densification)
        for line in report.summary():
            note(in_options(line))
    named = None
    if class_names is not None:
        named = classes_from_file(class_names)
    elif not backbone_only:
        named = _trained_classes(loaded, classes)
    bundle = export(
        network,
        output,
        size=size,
        outputs=outputs,
        threshold=threshold,
        precisions=wanted,
        keep_fp32=_kept(keep_fp32 or (), wanted),
        calibration_frames=_calibration_frames(calibration_images or (), size),
        calibration=calibration,
        calibration_percentile=calibration_percentile,
        levels=levels or None,
        lowerings=lowerings or None,
        classes=named,
        mean=mean or IMAGENET_MEAN,
        std=std or IMAGENET_STD,
        opset=opset,
        reference_frames=[frame for _, frame in _frames(reference_images or (), size, "reference")],
        source=arch or model,
        width=width if arch else None,
        checkpoint_sha256=loaded.sha256 if loaded else None,
        product=product,
        version=bundle_version,
        replace=force,
        on_step=_said,
    )
    document = {
        "bundle": str(bundle.path),
        "files": {name: record.size for name, record in bundle.manifest.files.items()},
    }
    if as_json:
        print_json(document)
    else:
        print_table(("bundle", str(bundle.path)), bundle_rows(bundle))
    return document


def _said(message: str) -> None:
    note(message)
    if "smp_deploy.densify(" in message:
        note("to make it dense, add --densify; `smp-deploy densify` shows first what becomes of each layer")


def _trained_classes(checkpoint: Checkpoint | None, classes: int | None) -> list[ClassRecord] | None:
    """Those of a checkpoint of `train`, unless another number of classes is asked for."""
    from smp_deploy.training.weights import classes_of

    found = None if checkpoint is None else classes_of(checkpoint)
    return found if found is None or classes in (None, len(found)) else None


def _kept(
    patterns: Sequence[str], precisions: Sequence[Precision]
) -> Mapping[Precision | str, tuple[str, ...]] | tuple[str, ...]:
    """``keep_fp32`` of the operation: ``int8:head`` is for int8 alone, ``head`` for all trunks but fp32."""
    parts = [text.rpartition(":") for text in patterns]
    prefixes = [prefix for prefix, colon, _ in parts if colon]
    if not prefixes:
        return tuple(patterns)
    kept: dict[Precision | str, tuple[str, ...]] = {}
    for trunk in dict.fromkeys([*(held.value for held in precisions if held is not Precision.FP32), *prefixes]):
        kept[trunk] = tuple(pattern for prefix, colon, pattern in parts if prefix == trunk or not colon)
    return {trunk: held for trunk, held in kept.items() if held}


def _calibration_frames(images: Sequence[str], size: Size) -> list[NDArray[np.uint8]]:
    """Read the calibration frames; each that cannot be used is named."""
    frames = []
    for path, frame in _frames(images, size, "calibration"):
        if frame.min() == frame.max():
            raise FrameError(
                f"{path} has one value throughout, {frame.min()}: it says nothing of the activations on real frames"
            )
        frames.append(frame)
    return frames


def _frames(images: Sequence[str], size: Size, kind: str) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """Read the frames of an option; one that is not of ``--size`` is named."""
    from smp_deploy.images import Wanted, frame_from_file, image_files

    wanted = Wanted((size[0], size[1]), f"; {kind} images are of --size, {size[0]}x{size[1]}")
    for path in image_files(images):
        yield path, frame_from_file(path, wanted)


def _known(
    arch: str, checkpoint: Checkpoint, classes: int | None, width: int | None, *, backbone_only: bool
) -> SegmentationNetwork:
    import torch

    from converters.checkpoints import network_from_checkpoint

    with torch.random.fork_rng():
        # A head that no checkpoint gives is random, but the same in every export.
        torch.manual_seed(0)
        return network_from_checkpoint(
            checkpoint, arch, classes=classes, width=width, backbone_only=backbone_only, on_note=note
        )
