"""``smp-deploy train``: a segmentation network from labelled frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smp_deploy.cli.console import note, print_json, progress
from smp_deploy.cli.options import FiniteRange, SizeType, json_option

if TYPE_CHECKING:
    from smp_deploy.training import Measurement, Run, TrainingConfig

_Function = TypeVar("_Function", bound=Callable[..., Any])

_RANGE = FiniteRange(min=0)

_DATA = (
    click.option("--dataset", required=True, help="camvid, cityscapes, gta5, folder, or scenes (generated)."),
    click.option("--root", type=click.Path(path_type=Path), help="The dataset's directory; scenes need none."),
    click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="Weights (.safetensors)."),
    click.option("--init-from", type=click.Path(path_type=Path), help="Checkpoint to start from; heads may differ."),
    click.option("--resume", is_flag=True, help="Continue the run of this output, if there is one."),
)
_NETWORK = (
    click.option("--arch", help="smp-, fcn32s- or fcn8s-resnet18 to 101.  [default: smp-resnet18]"),
    click.option("--model", help="A network of your own in place of --arch: package.module:factory."),
    click.option("--width", type=int, help="Channels of --arch's stem; fewer for slim networks.  [default: 64]"),
)
_OPTIMISATION = (
    click.option("--epochs", default=100, show_default=True),
    click.option("--batch", default=10, show_default=True),
    click.option("--accumulate", default=1, show_default=True, help="Batches added up for one optimizer step."),
    click.option("--optimizer", type=click.Choice(["adam", "adamw"]), default="adam", show_default=True),
    click.option("--learning-rate", type=_RANGE, default=1e-5, show_default=True),
    click.option("--weight-decay", type=_RANGE, default=5e-4, show_default=True),
    click.option("--schedule", type=click.Choice(["constant", "cosine"]), default="constant", show_default=True),
    click.option("--clip-norm", type=_RANGE, help="Largest gradient norm."),
    click.option("--averaging", type=_RANGE, default=0.0, show_default=True, help="Decay of averaged weights; 0: off."),
    click.option("--class-weighting", type=_RANGE, default=0.0, show_default=True, help="0: alike, 1: by frequency."),
    click.option("--lovasz", type=_RANGE, default=0.0, show_default=True, help="Weight of the Lovász-softmax loss."),
    click.option("--dense-levels", default=0, show_default=True, help="Last levels that are not shrunk; SMP-X has 5."),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True),
    click.option("--seed", default=0, show_default=True),
)
_AUGMENTATION = (
    click.option(
        "--crop",
        type=SizeType(),
        default="512x512",
        show_default=True,
        help="Multiples of 32; --model: of its windows.",
    ),
    click.option("--flip", type=_RANGE, default=0.5, show_default=True, help="Probability of a horizontal flip."),
    click.option(
        "--scale",
        type=(_RANGE, _RANGE),
        metavar="LOW HIGH",
        default=(1.0, 1.0),
        show_default=True,
        help="Smallest and largest factor, 0.01 to 100.",
    ),
    click.option("--aspect", type=_RANGE, default=0.0, show_default=True, help="Largest log change of the aspect."),
    click.option("--jitter", type=_RANGE, default=0.0, show_default=True, help="Strength of colour changes."),
)
_MACHINE = (
    click.option("--validate-every", default=5, show_default=True, help="Epochs between validations."),
    click.option("--patience", type=click.IntRange(min=1), help="Stop after so many validations without progress."),
    click.option("--save-every", type=click.IntRange(min=1), help="Steps between saved states; default: an epoch."),
    click.option(
        "--workers",
        type=click.IntRange(0, 256),
        default=0,
        show_default=True,
        help="Processes that prepare batches ahead.",
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of PyTorch; default: all cores."),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
    json_option,
)


def _options(function: _Function) -> _Function:
    for option in reversed((*_DATA, *_NETWORK, *_OPTIMISATION, *_AUGMENTATION, *_MACHINE)):
        function = option(function)
    return function


@click.command("train")
@_options
def train_command(**options: Any) -> int:
    """Train SMP-X, FCN32s, FCN8s or a network of your own by shrink-expand steps.

    The defaults are the paper's protocol. State, learning curves (CSV, PNG) and TensorBoard events go to a
    directory beside the output; a run that was killed goes on with --resume.
    """
    try:
        import torch

        from smp_deploy.training import Observer, Trainer
    except ImportError as error:
        from engines.errors import MissingDependency

        raise MissingDependency(error.name or "torch", "train") from error
    from smp_deploy.datasets import open_dataset

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    config, run = config_from_options(options), run_from_options(options)
    train, validation = (open_dataset(options["dataset"], options["root"], split) for split in ("train", "val"))
    note(f"{config.network_name} on {len(train)} frames of {train.info.name}, {config.epochs} epochs")
    trainer = Trainer(config, train, validation, run)
    with progress("train") as advance:
        last = trainer.fit(Observer(advance, _say, note), resume=options["resume"])
    if options["as_json"]:
        row = last.as_row()
        print_json({"output": str(run.output), **{name: row[name] for name in ("mean_iou", "thin_iou", "step")}})
    else:
        note(f"wrote {run.output}; learning curves are in {run.directory}")
    return 0


def config_from_options(options: Mapping[str, Any]) -> TrainingConfig:
    """The configuration that the command's options name."""
    from smp_deploy.training import (
        Augmentation,
        Autocast,
        LearningRateSchedule,
        Loss,
        Optimizer,
        TrainingConfig,
        Validation,
    )

    return TrainingConfig(
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


def run_from_options(options: Mapping[str, Any]) -> Run:
    """Where and on what the command's options say to run."""
    from engines.errors import OutputError
    from smp_deploy.training import Run

    output: Path = options["output"]
    if output.suffix != ".safetensors":
        raise OutputError(f"weights are written as .safetensors; received --output {output}")
    return Run(output, options["device"], options["workers"], options["save_every"], options["init_from"])


def _say(measurement: Measurement) -> None:
    ious = {"mean IoU": measurement.mean_iou, "thin": measurement.thin_iou}
    said = [f"{name} {100 * iou:.1f} %" for name, iou in ious.items() if not math.isnan(iou)]
    note(f"epoch {measurement.epoch:g}: " + ", ".join([f"loss {measurement.loss:.4f}", *said]))
