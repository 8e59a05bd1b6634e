"""From a PyTorch network to a bundle: :func:`converters.export`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.analysis.network import TracedNetwork, traced_network
from converters.analysis.received import check_whole, half_types, pinned_defaults, working_copy
from converters.analysis.resolution import lost_resolution
from converters.arguments import ExportRequest, export_request
from converters.densifying.network import origin_of
from converters.graphs.from_torch import DEFAULT_OPSET, onnx_from_torch
from converters.graphs.modules import matching_modules
from converters.graphs.quantization import CalibrationConfig, CalibrationMethod, ranges_from_frames
from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD, Prepare, WholeNetwork
from converters.graphs.weights import SharedWeights
from converters.graphs.written import WrittenGraphs
from converters.networks.sources import ARCHITECTURES, same_directory
from converters.outputs import channels_of, check_channels, check_meaning
from converters.palettes import default_classes
from converters.readme import README_NAME, readme_from_manifest
from converters.reference import digest_of_parameters, noise_frame, reference_case, write_edges, write_reference
from converters.rewriting.lowerings.base import LoweredNetwork
from converters.rewriting.proof import noise_case
from converters.thresholds import with_threshold
from converters.trunks import TrunkPrecisions, TrunkWriter, proven_trunks, write_trunks
from engines.backends.versions import installed_versions
from engines.bundle.bundle import Bundle
from engines.bundle.contents import record_of_file
from engines.bundle.gate import Folder
from engines.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    CalibrationRecord,
    ClassRecord,
    EdgeRecord,
    InputRecord,
    Manifest,
    NetworkRecord,
    OutputKind,
    ReferenceRecord,
    TrunkRecord,
    json_from_manifest,
)
from engines.bundle.staging import staged_directory
from engines.errors import InputError, NetworkError
from engines.schedules.phases import PhaseGrid, Size
from engines.schedules.schedule import Lowering, Precision

_MAX_LABELS = 256
_TOOLS = ("smp-deploy", "torch", "onnx", "onnxscript", "onnx-ir")
"""What an export is made with, by the names on PyPI."""
_MODEL, _PREPARE, _WEIGHTS = "model.onnx", "prepare.onnx", "weights.bin"

Step = Callable[[str], None]
"""Called with what is being done."""


def export(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    size: Size = (1024, 2048),
    outputs: OutputKind | str = "labels",
    threshold: float | None = None,
    precisions: Iterable[Precision | str] | Precision | str = ("fp16",),
    keep_fp32: Mapping[Precision | str, Iterable[str]] | Iterable[str] | None = None,
    calibration_frames: Sequence[NDArray[np.uint8]] = (),
    calibration: CalibrationMethod | str | None = None,
    calibration_percentile: float | None = None,
    levels: Iterable[int] | int | None = None,
    lowerings: Iterable[Lowering | str] | Lowering | str | None = None,
    classes: Sequence[ClassRecord | str] | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    opset: int = DEFAULT_OPSET,
    reference_frames: Sequence[NDArray[np.uint8]] = (),
    source: str | None = None,
    width: int | None = None,
    checkpoint_sha256: str | None = None,
    product: str | None = None,
    version: int = 0,
    replace: bool = False,
    on_step: Step | None = None,
) -> Bundle:
    """Write the bundle of a network at ``path``: whole, or not at all.

    The network is left unchanged, whatever device and mode it is in: a copy on the CPU, in evaluation mode, is worked
    on. Every form of it that is written is compared with it first.

    Args:
        network: maps ``(n, 3, H, W)`` float32, normalised RGB, to logits ``(n, classes, H, W)``; of pooling layers and
            ordinary layers, with parameters in float32, or in a half precision, which becomes
            float32. An attribute ``size_multiple = (rows, columns)`` says what ``H``
            and ``W`` must be multiples of; by default what its splits need.
        path: where the bundle's directory goes.
        size: of the frames, ``(height, width)`` in pixels; padded inside where the network needs a multiple.
        outputs: what the bundle gives for a frame: ``"labels"`` uint8 ``(H, W)``, or ``"logits"`` or
            ``"probabilities"`` float32 ``(classes, H, W)``.
        threshold: for labels of a network of one logit a pixel: 1 where its sigmoid is above this probability, else 0.
        precisions: of the trunks to write beside the fp32 ones, which every check needs: ``"fp16"``, ``"bf16"`` (opset
            22 or later), ``"int8"`` (with ``calibration_frames``).
        keep_fp32: shell patterns of modules that stay in fp32 in the other trunks, ``("layer4.*",)``; a mapping gives
            each precision its own, ``{"int8": ("head",)}``.
        calibration_frames: for int8: frames uint8 ``(H, W, 3)`` in [0, 255] of ``size``, such as the network is meant
            for.
        calibration: how int8 chooses the range of an activation: ``"percentile"`` (the default), ``"entropy"`` or
            ``"minmax"``.
        calibration_percentile: in per cent: the values that ``"percentile"`` does not cut off; by default 99.99.
        levels: write only trunks for a loop over these numbers of levels; by default all that the network allows.
        lowerings: write only trunks of these lowerings, ``"reshape"``, ``"strided"``, ``"dilated"``; by default
            reshape, and the others for the level that repeats no work.
        classes: names, or records with colours, one a channel of the logits; by default numbers, and for a known
            architecture as ``source`` Cityscapes' names for 19 and CamVid's for 11.
        mean: of R, G and B in [0, 1]: the graphs compute ``(x / 255 - mean) / std``.
        std: likewise, above zero.
        opset: of ONNX, 18 to 23.
        reference_frames: frames uint8 ``(H, W, 3)`` of ``size`` to keep with PyTorch's outputs for later checks; by
            default one of noise.
        source: for the manifest: a known architecture's name, which ``smp-deploy validate --checkpoint`` builds anew,
            or ``"package.module:factory"``, which it shows; by default the name of the network's class.
        width: for the manifest: channels of the stem of a known architecture.
        checkpoint_sha256: for the manifest: of the file that the parameters come from.
        product: what the bundle is a version of, for who must not accept an older one; by default the ``source``.
        version: which one, counting up from 0.
        replace: whether a bundle that is at ``path`` already is replaced.
        on_step: called with what is being done, and with what is to be known of the network, ``warning: ...``.

    Raises:
        InputError: an argument is wrong.
        NetworkError: the network cannot be traced, exported, or cut into phases at this size.
        OutputError: ``path`` exists and ``replace`` is false, or cannot be written.
        MissingDependency: a package of the extra ``export`` is missing.
    """
    request = export_request(
        size=size,
        outputs=outputs,
        threshold=threshold,
        precisions=precisions,
        keep_fp32=keep_fp32,
        calibration_frames=calibration_frames,
        calibration=calibration,
        calibration_percentile=calibration_percentile,
        levels=levels,
        lowerings=lowerings,
        classes=classes,
        mean=mean,
        std=std,
        opset=opset,
        reference_frames=reference_frames,
        product=product,
        version=version,
    )
    check_whole(network)
    made_by, densified = origin_of(network)
    origin = NetworkRecord(
        source=source or made_by,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        width=width,
        checkpoint_sha256=checkpoint_sha256,
        densified=densified,
        threshold=request.threshold,
    )
    target = Path(path)
    # The network's own code runs, and a relative path means what it meant before.
    staging = staged_directory(target, replaces=MANIFEST_NAME if replace else None)
    with pinned_defaults(), staging as stage, same_directory():
        _Export(request, stage, on_step or (lambda message: None)).write(network, origin)
    return Bundle.read(Folder(target))


@dataclass(frozen=True)
class _Forms:
    """A network in every form that is written, and what the bundle says of it."""

    network: TracedNetwork
    trunks: list[LoweredNetwork]
    kept: Mapping[Precision, frozenset[str]]
    """Modules that stay in fp32, by the precision of the trunk."""
    frame: InputRecord
    classes: tuple[ClassRecord, ...]


@dataclass(frozen=True)
class _Export:
    """One export: from the network to the files of a bundle that is being made."""

    request: ExportRequest
    stage: Path
    on_step: Step

    def write(self, network: nn.Module, origin: NetworkRecord) -> Manifest:
        """Write every file of the bundle, the manifest last."""
        self.on_step("tracing the network, rewriting it for every schedule and proving each form")
        if halves := half_types(network):
            self.on_step(
                f"the network has weights in {' and '.join(halves)}: all is computed in fp32 with their values"
            )
        if self.request.threshold is not None:
            network = with_threshold(network, self.request.threshold)
        forms = self._forms(traced_network(working_copy(network), self.request.size), origin)
        origin = msgspec.structs.replace(origin, parameters_sha256=digest_of_parameters(network))
        ranges = self._ranges(forms)
        with SharedWeights(self.stage / _WEIGHTS) as weights:
            planes = self._write_surroundings(forms, weights)
            trunks = self._write_trunks(forms, ranges, weights, planes)
        self.on_step("computing reference outputs in PyTorch")
        reference = write_reference(self.stage, forms.network, forms.frame, self.request.reference_frames)
        edges = write_edges(self.stage, forms.network, forms.frame)
        manifest = self._manifest(forms, origin, trunks, reference, edges, ranges)
        (self.stage / README_NAME).write_text(readme_from_manifest(manifest), encoding="utf-8")
        manifest = msgspec.structs.replace(manifest, files=_records_of(self.stage))
        (self.stage / MANIFEST_NAME).write_bytes(json_from_manifest(manifest))
        return manifest

    def _forms(self, network: TracedNetwork, origin: NetworkRecord) -> _Forms:
        request = self.request
        padded = network.size
        channels = channels_of(network.graph, padded)
        check_channels(channels, request.outputs)
        case = noise_case(network)
        check_meaning(case.logits, request.outputs)
        if case.grown:
            self.on_step(
                f"proving on noise of {case.size[0]}x{case.size[1]}, the least size that the network takes and where "
                f"it decides by shapes as it does for {padded[0]}x{padded[1]}"
            )
        classes = self._classes(channels, origin)
        if (lost := lost_resolution(network, padded)) is not None:
            self.on_step(f"warning: {lost.warning(len(network.windows))}")
        kept = {held: matching_modules(patterns, network.modules) for held, patterns in request.keep_fp32.items()}
        trunks = list(proven_trunks(case, request.levels, request.lowerings))
        frame = InputRecord(
            size=request.size,
            padded_size=padded,
            border=network.prefix.border,
            mean=request.normalization.mean,
            std=request.normalization.std,
        )
        return _Forms(network, trunks, kept, frame, classes)

    def _classes(self, channels: int, origin: NetworkRecord) -> tuple[ClassRecord, ...]:
        classes = self.request.classes
        if classes is None:
            classes, whose = default_classes(channels, usual=origin.source in ARCHITECTURES)
            self.on_step(f"no class is named: {whose}")
        if len(classes) != channels:
            raise InputError(f"{len(classes)} classes are named, and the network's logits have {channels} channels")
        if self.request.outputs is OutputKind.LABELS and channels > _MAX_LABELS:
            raise NetworkError(
                f'labels are uint8; {channels} classes do not fit: choose outputs="logits" or outputs="probabilities"'
            )
        return classes

    def _write_surroundings(self, forms: _Forms, weights: SharedWeights) -> NDArray[np.float32]:
        """``model.onnx``, the whole network, and ``prepare.onnx``, what comes before a trunk; what it gives."""
        normalization, frame, opset = self.request.normalization, forms.frame, self.request.opset
        self.on_step(f"exporting and proving {_MODEL}, the whole network")
        whole = WholeNetwork(normalization, forms.network.graph, frame.size, frame.padded_size).eval()
        # A batch of two: one would be taken for a constant.
        frames = torch.zeros((), dtype=torch.uint8).expand(2, *frame.size, 3)
        model = onnx_from_torch(whole, {"frames": frames}, output_name="logits", opset=opset, batch="batch")
        weights.save_graph(model, self.stage / _MODEL)
        proofs, image = WrittenGraphs(self.stage, self.on_step), self._proof_frame()
        case = reference_case(forms.network, frame, image, 0)
        proofs.prove_whole(_MODEL, whole, {"frames": image[None]}, case.phase, case.window, case.logits)
        self.on_step(f"exporting and proving {_PREPARE}, the normalisation")
        # The prepared planes as one phase: what all trunks of the bundle read.
        planes = PhaseGrid(frame.size, frame.padded_size, (1, 1), frame.border)
        prepare = Prepare(normalization, planes).eval()
        model = onnx_from_torch(prepare, {"frame": frames[0]}, output_name="planes", opset=opset)
        weights.save_graph(model, self.stage / _PREPARE)
        proofs.prove_prepare(_PREPARE, prepare, {"frame": image})
        with torch.inference_mode():
            # A copy: PyTorch takes no array that is read-only.
            return prepare(torch.from_numpy(image.copy())).numpy()  # type: ignore[no-any-return]

    def _proof_frame(self) -> NDArray[np.uint8]:
        """What every graph is proven on."""
        frames = self.request.reference_frames
        return frames[0] if frames else noise_frame(self.request.size, seed=0)

    def _write_trunks(
        self, forms: _Forms, ranges: Mapping[str, float], weights: SharedWeights, planes: NDArray[np.float32]
    ) -> list[TrunkRecord]:
        request = self.request
        writer = TrunkWriter(
            frame=forms.frame,
            outputs=request.outputs,
            opset=request.opset,
            precisions=TrunkPrecisions(request.precisions, forms.kept, ranges),
            weights=weights,
            stage=self.stage,
            planes=planes,
            on_step=self.on_step,
        )
        return write_trunks(forms.trunks, writer)

    def _ranges(self, forms: _Forms) -> dict[str, float]:
        """The activation ranges for int8: measured once, and valid for every trunk."""
        config = self.request.calibration
        if config is None:
            return {}
        count = len(config.frames)
        self.on_step(f"calibrating int8 on {count} frame{'s' if count > 1 else ''} ({config.method.value})")
        default, frame = forms.trunks[0], forms.frame
        grid = default.looped.grid(frame.size, frame.padded_size)
        return ranges_from_frames(default.graph, grid, self.request.normalization, config)

    def _manifest(
        self,
        forms: _Forms,
        origin: NetworkRecord,
        trunks: list[TrunkRecord],
        reference: list[ReferenceRecord],
        edges: EdgeRecord | None,
        ranges: dict[str, float],
    ) -> Manifest:
        """All but the files' hashes."""
        request = self.request
        return Manifest(
            schema_version=SCHEMA_VERSION,
            product=request.product or origin.source,
            version=request.version,
            network=origin,
            input=forms.frame,
            outputs=request.outputs,
            classes=list(forms.classes),
            windows=list(forms.network.windows),
            model=_MODEL,
            prepare=_PREPARE,
            weights=_WEIGHTS,
            trunks=trunks,
            keep_fp32={precision: list(patterns) for precision, patterns in request.keep_fp32.items() if patterns},
            calibration=None if request.calibration is None else _calibration_record(request.calibration, ranges),
            reference=reference,
            edges=edges,
            opset=request.opset,
            tools=installed_versions(_TOOLS),
            files={},
        )


def _calibration_record(config: CalibrationConfig, ranges: dict[str, float]) -> CalibrationRecord:
    percentile = config.percentile if config.method is CalibrationMethod.PERCENTILE else None
    return CalibrationRecord(
        method=config.method.value, percentile=percentile, frames=len(config.frames), ranges=ranges
    )


def _records_of(stage: Path) -> dict[str, Any]:
    return {
        path.relative_to(stage).as_posix(): record_of_file(path) for path in sorted(stage.rglob("*")) if path.is_file()
    }
