"""What ``smp-deploy validate`` looks at: frames with and without labels, and the network, as a user names them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.bundle.bundle import Bundle
from engines.errors import InputError, NetworkError
from smp_deploy.cli.console import note
from smp_deploy.cli.summaries import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from converters.verification import Frame

LIMIT = 5
"""Frames of a dataset, where nobody says how many."""


def frames_of(bundle: Bundle, options: Mapping[str, Any]) -> list[Frame]:
    """Those of --images and of --dataset."""
    return _images(bundle, options) + _dataset(bundle, options)


def _images(bundle: Bundle, options: Mapping[str, Any]) -> list[Frame]:
    from converters.verification import Frame
    from smp_deploy.images import Wanted, frame_from_file, image_files

    folder: Path | None = options["labels"]
    if folder is not None and not options["images"]:
        raise InputError("--labels are those of --images; name the images, too")
    frames, wanted = [], Wanted.by_bundle(bundle.manifest.input.size)
    for path in image_files(options["images"]):
        image = frame_from_file(path, wanted)
        frames.append(Frame(path.name, image, truth=_truth(bundle, folder, path) if folder is not None else None))
    return frames


def _truth(bundle: Bundle, folder: Path, image: Path) -> NDArray[np.uint8]:
    """The labels of an image: class numbers, or 255 where a person gave none."""
    from converters.palettes import PALETTES
    from converters.verification import IGNORED
    from smp_deploy.datasets.base import DatasetInfo, check_known_ids
    from smp_deploy.datasets.label_images import LabelColours, labels_from_file
    from smp_deploy.images import Wanted

    file = folder / f"{image.stem}.png"
    if not file.is_file():
        raise InputError(f"{folder} has no {file.name} for {image}")
    size = bundle.manifest.input.size

    wanted = Wanted((size[0], size[1]), f"; the bundle's frames are {shown(size)}")
    classes = bundle.manifest.classes
    names, colours = tuple(record.name for record in classes), tuple(record.color for record in classes)
    # Of a published palette, the colours of pixels without a class are known, too.
    void = next((held.void for held in PALETTES.values() if held.colours == colours), ())
    labels = labels_from_file(file, LabelColours.of_classes(colours, void, IGNORED), wanted)
    check_known_ids(file, labels, DatasetInfo("the bundle", names, colours, IGNORED, ()))
    return labels


def _dataset(bundle: Bundle, options: Mapping[str, Any]) -> list[Frame]:
    if options["dataset"] is None:
        for name in ("root", "split", "limit"):
            if options[name] is not None:
                raise InputError(f"--{name} is for --dataset")
        return []
    import numpy as np

    from converters.verification import IGNORED, Frame
    from smp_deploy.datasets import open_dataset
    from smp_deploy.datasets.base import check_same_classes
    from smp_deploy.images import check_size

    dataset = open_dataset(options["dataset"], options["root"], options["split"] or "val")
    check_same_classes(bundle.path, [record.name for record in bundle.manifest.classes], dataset.info)
    frames = []
    for index in range(min(len(dataset), options["limit"] or LIMIT)):
        example = dataset.load(index)
        check_size(example.name, example.image, bundle.manifest.input.size)
        truth = np.where(example.labels == dataset.info.ignore_id, IGNORED, example.labels).astype(np.uint8)
        frames.append(Frame(example.name, example.image, truth=truth))
    return frames


def network_of(bundle: Bundle, options: Mapping[str, Any]) -> nn.Module | None:
    """The network to run anew: of the user's words; of the manifest's only where they name a known architecture."""
    checkpoint, arch, model = (options[name] for name in ("checkpoint", "arch", "model"))
    if arch is not None and model is not None:
        raise InputError("name the network either with --arch or with --model")
    if arch is not None and checkpoint is None:
        raise InputError("--arch goes with --checkpoint: a known network has no weights of its own")
    for name in ("weights", "strip_prefix"):
        if options[name] is not None and checkpoint is None:
            raise InputError(f"--{name.replace('_', '-')} is for --checkpoint")
    if checkpoint is None and model is None:
        return None
    from converters.checkpoints import checkpoint_from_file, load_checkpoint, network_from_checkpoint
    from converters.densifying import Densification, densified
    from converters.networks import network_from_factory

    record = bundle.manifest.network
    if model is None:
        _check_known(bundle, arch)
    loaded = None
    if checkpoint is not None:
        chosen = {name: options[name] for name in ("weights", "strip_prefix")}
        loaded = checkpoint_from_file(checkpoint, **chosen)
    if loaded is not None and loaded.sha256 != record.checkpoint_sha256:
        note(f"{checkpoint} is not the checkpoint that the bundle was exported from (SHA-256 differs)")
    if model is None:
        assert loaded is not None
        classes = len(bundle.manifest.classes)
        network: nn.Module = network_from_checkpoint(
            loaded, arch or record.source, classes=classes, width=record.width, on_note=note
        )
    else:
        network = network_from_factory(model)
        if loaded is not None:
            load_checkpoint(network, loaded, on_note=note)
    if record.densified is not None:
        network, _ = densified(network, bundle.manifest.input.size, Densification.of_record(record.densified))
    return network.eval()


def _check_known(bundle: Bundle, arch: str | None) -> None:
    """Raise :class:`NetworkError` unless the user or the manifest names a known network."""
    from converters.networks import ARCHITECTURES

    source = bundle.manifest.network.source
    if arch is not None or source in ARCHITECTURES:
        return
    if ":" in source:
        raise NetworkError(
            f"{bundle.path} names code as its network, and a bundle's word is shown, never run. If this is code of "
            f"your own, say so by adding, from the bundle's manifest: --model {shlex.quote(source)}"
        )
    raise NetworkError(
        f"{bundle.path} is of a network that was exported from Python, by its manifest a {shlex.quote(source)}, and "
        "nothing says how to build one anew; add --model package.module:factory, which makes it"
    )
