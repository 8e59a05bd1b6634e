"""Verification of a bundle on the machine that exports: PyTorch against every graph, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.stages import Normalization, WholeNetwork
from engines import Bundle, Session
from engines.backends import OnnxRuntimeRunner
from engines.backends.onnxruntime import NO_BF16
from engines.errors import MissingDependency
from engines.manifest import OutputKind, Precision, ReferenceRecord, TrunkRecord
from engines.parity import TOLERANCES, Check, assembled_at, label_agreement, phases_at, relative_error
from engines.phases import Phase, PhaseGrid

# ONNX Runtime held 6 times the largest tensor of SMP-18 when it ran the whole graph at 256x512 without an arena.
_PEAK_PER_LARGEST_TENSOR = 8


@dataclass(frozen=True)
class LiveFrame:
    """A frame beside the bundle's own reference cases."""

    name: str
    image: NDArray[np.uint8]


def checks_of_bundle(
    bundle: Bundle, *, network: nn.Module | None = None, frames: tuple[LiveFrame, ...] = ()
) -> Iterator[Check]:
    """Make the checks of a bundle one after the other, and give each as soon as it is made.

    Layout first, then for every reference case PyTorch's stored logits against the whole graph and against the
    trunk of every precision, then the merged phases against the whole graph. ``frames`` are checked in the same
    way. ``network``, the one the bundle was exported from, is run anew on all of them where it is given.
    """
    # Trunks of the same levels share their layout.
    for levels in dict.fromkeys(trunk.levels for trunk in bundle.manifest.trunks):
        yield _layout_check(bundle.manifest.grid(bundle.manifest.trunk(levels)), levels)
    whole = _WholeGraph(bundle)
    for index, case in enumerate(bundle.manifest.reference):
        image, logits = bundle.reference_arrays(case)
        subject = f"reference frame {index}, phase {case.phase}"
        whole_logits = whole.logits(image)
        yield whole.check(f"PyTorch -> {bundle.manifest.model}", subject, whole_logits, logits, case)
        if network is not None:
            yield whole.check_against(network, f"reference frame {index}", image, whole_logits)
        for trunk in bundle.manifest.trunks:
            for precision in trunk.graphs:
                yield _trunk_check(bundle, trunk, precision, image, logits, case, subject)
        yield _merge_check(bundle, image, whole_logits, f"reference frame {index}")
    for frame in frames:
        whole_logits = whole.logits(frame.image)
        if network is not None:
            yield whole.check_against(network, frame.name, frame.image, whole_logits)
        yield _merge_check(bundle, frame.image, whole_logits, frame.name)


def _layout_check(grid: PhaseGrid, levels: int) -> Check:
    """Every pixel has a number; cutting the phases out and placing them must give each number back."""
    height, width = grid.padded_size
    numbered = np.arange(height * width).reshape(1, height, width)
    merged = np.full_like(numbered, -1)
    for phases in grid.sub_batches(1):
        grid.place(grid.at_phase(numbered, phases[0])[None], phases, merged)
    wrong = int((merged != numbered).sum())
    subject = f"layout of {height}x{width}, levels {levels}"
    return Check.at_most("phases -> merged", subject, wrong, 0, "pixels at another place")


class _WholeGraph:
    """``model.onnx`` in ONNX Runtime, where this machine's memory allows."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._graph = bundle.file(bundle.manifest.model)
        needed = _PEAK_PER_LARGEST_TENSOR * _largest_tensor_bytes(self._graph)
        available = _available_memory_bytes()
        self.lack = (
            f"needs about {needed / 2**30:.0f} GiB of memory, {available / 2**30:.0f} GiB are free"
            if available is not None and needed > available
            else None
        )

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """``(classes, H, W)`` of a frame, or ``None`` where memory does not suffice."""
        if self.lack:
            return None
        with OnnxRuntimeRunner(self._graph, arena=False) as runner:
            return np.asarray(runner.infer({"frames": image[None]})["logits"][0], np.float32)

    def check(
        self,
        name: str,
        subject: str,
        actual: NDArray[np.float32] | None,
        expected: NDArray[np.float32] | None,
        case: ReferenceRecord | None,
    ) -> Check:
        """The error of the whole graph's logits, at the phase of a reference case or everywhere."""
        tolerance = TOLERANCES[Precision.FP32].logits
        if actual is None or expected is None:
            return Check.not_run(name, subject, tolerance, self.lack or "")
        if case is not None:
            # The padded pixels of the phase are cropped in the whole graph, so they are cropped here too.
            (row, column), (h, w) = case.phase, case.window
            actual = actual[:, row::h, column::w]
            expected = expected[:, : actual.shape[1], : actual.shape[2]]
        return Check.at_most(name, subject, relative_error(actual, expected), tolerance, "relative error of logits")

    def check_against(
        self, network: nn.Module, subject: str, image: NDArray[np.uint8], actual: NDArray[np.float32] | None
    ) -> Check:
        """The error of the whole graph's logits against a network that is run now."""
        expected = _torch_logits(self._bundle, network, image) if actual is not None else None
        return self.check(f"PyTorch, run anew -> {self._bundle.manifest.model}", subject, actual, expected, None)


def _trunk_check(
    bundle: Bundle,
    trunk: TrunkRecord,
    precision: Precision,
    image: NDArray[np.uint8],
    logits: NDArray[np.float32],
    case: ReferenceRecord,
    subject: str,
) -> Check:
    """A trunk at the pixels of a reference case."""
    manifest, tolerance = bundle.manifest, TOLERANCES[precision]
    graph, grid = bundle.trunk_graph(trunk, precision), manifest.grid(trunk)
    if precision is Precision.BF16:
        return Check.not_run(f"PyTorch -> {graph.name}", subject, tolerance.label_agreement, NO_BF16)
    with OnnxRuntimeRunner(bundle.file(manifest.prepare)) as prepare:
        planes = np.asarray(prepare.infer({"frame": image})["planes"], np.float32)
    results: dict[Phase, NDArray[np.generic]] = {}
    with OnnxRuntimeRunner(graph, precision=precision) as runner:
        for phase in phases_at(grid.window, case.phase, case.window):
            feed: dict[str, NDArray[np.generic]] = {"windows": grid.cut(planes, [phase])}
            if grid.inner_windows:
                feed["offsets"] = grid.inner_offsets([phase])
            results[phase] = runner.infer(feed)[manifest.outputs.value][0]
    predictions = assembled_at(results, grid.window, case.phase, case.window)
    name = f"PyTorch -> {graph.name}"
    if manifest.outputs is OutputKind.LABELS:
        agreement = label_agreement(np.asarray(predictions, np.uint8), logits, tolerance.logits)
        return Check.at_least(
            name,
            subject,
            agreement.judged(tolerance),
            tolerance.label_agreement,
            f"label agreement: {agreement}",
        )
    expected = logits if manifest.outputs is OutputKind.LOGITS else _softmax(logits)
    error = relative_error(np.asarray(predictions, np.float32), expected)
    return Check.at_most(name, subject, error, tolerance.logits, f"relative error of {manifest.outputs.value}")


def _merge_check(
    bundle: Bundle, image: NDArray[np.uint8], whole_logits: NDArray[np.float32] | None, subject: str
) -> Check:
    name, tolerance = f"{bundle.manifest.model} -> merged phases", TOLERANCES[Precision.FP32]
    if whole_logits is None:
        return Check.not_run(name, subject, tolerance.label_agreement, "the whole graph did not run")
    with Session.open(bundle) as session:
        merged = session.predict(image)
    if bundle.manifest.outputs is OutputKind.LABELS:
        agreement = label_agreement(merged, whole_logits, tolerance.logits)
        return Check.at_least(
            name, subject, agreement.judged(tolerance), tolerance.label_agreement, f"label agreement: {agreement}"
        )
    expected = whole_logits if bundle.manifest.outputs is OutputKind.LOGITS else _softmax(whole_logits)
    return Check.at_most(
        name,
        subject,
        relative_error(merged, expected),
        tolerance.logits,
        f"relative error of {bundle.manifest.outputs.value}",
    )


def _torch_logits(bundle: Bundle, network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    record = bundle.manifest.input
    whole = WholeNetwork(Normalization(record.mean, record.std), network, record.size, record.padded_size).eval()
    with torch.inference_mode():
        return whole(torch.from_numpy(image[None]))[0].numpy()  # type: ignore[no-any-return]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(0))
    return np.asarray(raised / raised.sum(0), np.float32)


def _largest_tensor_bytes(graph: Path) -> int:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency("onnx", "export") from error
    model = onnx.load(graph, load_external_data=False)
    tensors = (value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output))
    return max(4 * int(np.prod([_extent(dim) for dim in tensor.shape.dim], dtype=np.int64)) for tensor in tensors)


def _extent(dim: object) -> int:
    """A dimension for a batch of one: ``batch`` is 1, and ``1024*batch`` is 1024."""
    value = int(getattr(dim, "dim_value", 0))
    if value:
        return value
    factor = str(getattr(dim, "dim_param", "")).partition("*")[0]
    return int(factor) if factor.isdigit() else 1


def _available_memory_bytes() -> int | None:
    """What Linux says can be had without swapping; ``None`` elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
