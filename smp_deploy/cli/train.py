"""``smp-deploy train``: a segmentation network from labelled frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from smp_deploy.cli.console import note, print_json, progress
from smp_deploy.cli.options import (
    DatasetOption,
    FrameSize,
    JsonOption,
    MaxPoolOption,
    RootOption,
    StripPrefixOption,
    UntilOption,
    UpsamplingOption,
    WeightsOption,
    densification_of,
    finite,
    frame_size,
)

if TYPE_CHECKING:
    from smp_deploy.training import Measurement, TrainingConfig

_CROP = FrameSize(512, 512)


def train_command(
    context: typer.Context,
    dataset: DatasetOption,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Weights (.safetensors).")],
    root: RootOption = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", metavar="PATH", help="Checkpoint to start from; heads may differ.")
    ] = None,
    weights: WeightsOption = None,
    strip_prefix: StripPrefixOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of this output, if there is one.")] = False,
    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="smp-, fcn32s- or fcn8s-resnet18 to 101.  [default: smp-resnet18]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="A network of your own in place of --arch: package.module:factory."
        ),
    ] = None,
    densify: Annotated[
        bool,
        typer.Option("--densify", help="Make a strided network dense, and train it by shrink-expand steps."),
    ] = False,
    until: UntilOption = None,
    upsampling: UpsamplingOption = None,
    max_pool: MaxPoolOption = None,
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", help="Channels of --arch's stem; fewer for slim networks.  [default: 64]"),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N")] = 100,
    batch: Annotated[int, typer.Option("--batch", metavar="N")] = 10,
    accumulate: Annotated[
        int, typer.Option("--accumulate", metavar="N", help="Batches added up for one optimizer step.")
    ] = 1,
    optimizer: Annotated[Literal["adam", "adamw"], typer.Option("--optimizer")] = "adam",
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0, callback=finite, metavar="RATE")] = 1e-5,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0, callback=finite, metavar="RATE")] = 5e-4,
    schedule: Annotated[Literal["constant", "cosine"], typer.Option("--schedule")] = "constant",
    clip_norm: Annotated[
        float | None, typer.Option("--clip-norm", min=0, callback=finite, metavar="NORM", help="Largest gradient norm.")
    ] = None,
    averaging: Annotated[
        float,
        typer.Option("--averaging", min=0, callback=finite, metavar="DECAY", help="Decay of averaged weights; 0: off."),
    ] = 0.0,
    class_weighting: Annotated[
        float,
        typer.Option("--class-weighting", min=0, callback=finite, metavar="SHARE", help="0: alike, 1: by frequency."),
    ] = 0.0,
    lovasz: Annotated[
        float,
        typer.Option("--lovasz", min=0, callback=finite, metavar="WEIGHT", help="Weight of the Lovász-softmax loss."),
    ] = 0.0,
    dense_levels: Annotated[
        int, typer.Option("--dense-levels", metavar="N", help="Last levels that are not shrunk; SMP-X has 5.")
    ] = 0,
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option("--precision")] = "fp32",
    seed: Annotated[int, typer.Option("--seed", metavar="N")] = 0,
    crop: Annotated[
        FrameSize,
        typer.Option(
            "--crop",
            parser=frame_size,
            show_default=False,
            metavar="HxW",
            help="Multiples of 32; --model: of its windows.  [default: 512x512]",
        ),
    ] = _CROP,
    flip: Annotated[
        float, typer.Option("--flip", min=0, callback=finite, metavar="SHARE", help="Probability of a horizontal flip.")
    ] = 0.5,
    scale: Annotated[
        tuple[float, float],
        typer.Option(
            "--scale", min=0, callback=finite, metavar="LOW HIGH", help="Smallest and largest factor, 0.01 to 100."
        ),
    ] = (1.0, 1.0),
    aspect: Annotated[
        float,
        typer.Option("--aspect", min=0, callback=finite, metavar="CHANGE", help="Largest log change of the aspect."),
    ] = 0.0,
    jitter: Annotated[
        float, typer.Option("--jitter", min=0, callback=finite, metavar="STRENGTH", help="Strength of colour changes.")
    ] = 0.0,
    validate_every: Annotated[
        int, typer.Option("--validate-every", metavar="N", help="Epochs between validations.")
    ] = 5,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=1, metavar="N", help="Stop after so many validations without progress."),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option("--save-every", min=1, metavar="N", help="Steps between saved states; default: an epoch."),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=256, metavar="N", help="Processes that prepare batches ahead.")
    ] = 0,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, metavar="N", help="CPU threads of PyTorch; default: all cores."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train SMP-X, FCN32s, FCN8s or a network of your own by shrink-expand steps.

    The defaults are the paper's protocol. State, learning curves (CSV, PNG) and TensorBoard events go to a
    directory beside the output; a run that was killed goes on with --resume.
    """
    from smp_deploy import Observer, train

    with progress("train") as advance:
        last = train(
            dataset,
            output,
            config_from_options(context.params),
            root=root,
            device=device,
            workers=workers,
            save_every=save_every,
            init_from=init_from,
            weights=weights,
            strip_prefix=strip_prefix,
            threads=threads,
            resume=resume,
            observer=Observer(advance, _say, note),
        )
    if as_json:
        row = last.as_row()
        print_json({"output": str(output), **{name: row[name] for name in ("mean_iou", "thin_iou", "step")}})
    else:
        note(f"wrote {output}; learning curves are in {output.with_suffix('.run')}")


def config_from_options(options: Mapping[str, Any]) -> TrainingConfig:
    """The configuration that the command's options name."""
    from smp_deploy import (
        Augmentation,
        Autocast,
        LearningRateSchedule,
        Loss,
        Optimizer,
        TrainingConfig,
        Validation,
    )

    if options["densify"] and options["upsampling"] is None:
        # With a kernel behind the merges, every step would compute every pixel.
        options = {**options, "upsampling": "merge"}
    return TrainingConfig(
        densification=densification_of(options, wanted=options["densify"]),
        **{name: options[name] for name in _SAME_NAME},
        optimizer=Optimizer(options["optimizer"]),
        schedule=LearningRateSchedule(options["schedule"]),
        precision=Autocast(options["precision"]),
        augmentation=Augmentation(
            crop=options["crop"],
            flip=options["flip"],
            scale=options["scale"],
            aspect=options["aspect"],
            jitter=options["jitter"],
        ),
        loss=Loss(class_weighting=options["class_weighting"], lovasz=options["lovasz"]),
        validation=Validation(every_epochs=options["validate_every"], patience=options["patience"]),
    )


_SAME_NAME = (
    "arch",
    "model",
    "width",
    "epochs",
    "batch",
    "accumulate",
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "averaging",
    "dense_levels",
    "seed",
)


def _say(measurement: Measurement) -> None:
    ious = {"mean IoU": measurement.mean_iou, "thin": measurement.thin_iou}
    said = [f"{name} {100 * iou:.1f} %" for name, iou in ious.items() if not math.isnan(iou)]
    note(f"epoch {measurement.epoch:g}: " + ", ".join([f"loss {measurement.loss:.4f}", *said]))
