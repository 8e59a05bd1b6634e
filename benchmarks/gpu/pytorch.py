"""The bundle's network in PyTorch, as a user would run it instead, and one step of its training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engines import Bundle, Lowering, OutputKind, PhaseGrid, Precision
from engines.errors import NetworkError
from gpu.rates import with_tf32
from gpu.results import Job, Row
from gpu.sessions import PRECISIONS, Bench, median_ms

if TYPE_CHECKING:
    import torch
    from torch import nn

PYTORCH, TRAINING = "pytorch", "training"

EAGER, COMPILED = "PyTorch eager", "torch.compile"

_COMPILING_S = 60.0

_DTYPES = {Precision.FP16: "float16", Precision.TF32: "float32", Precision.FP32: "float32"}


@dataclass(frozen=True)
class Form:
    """One way to compute the network."""

    name: str
    walked: bool
    """The levels that repeat no work are walked in a loop; else the whole frame goes at once."""
    lowering: Lowering | None
    """Of the splits inside; ``None`` for the network as it is."""
    sub_batch: int = 1
    channels_last: bool = True


WHOLE = Form("whole, split", walked=False, lowering=None)
FORMS = (
    WHOLE,
    Form("walked, sub-batch 4, dilated", walked=True, lowering=Lowering.DILATED, sub_batch=4),
    Form("walked, sub-batch 1, dilated", walked=True, lowering=Lowering.DILATED),
    # With channels last, cuDNN's kernels for wide dilation take a hundred times as long.
    Form("whole, dilated, channels first", walked=False, lowering=Lowering.DILATED, channels_last=False),
)


class Labelling:
    """Frames ``(H, W, 3)`` uint8 to labels ``(H, W)`` uint8, both in host memory, as a session has them.

    Raises :class:`NetworkError` for a network that nothing says how to build, or that a form does not understand.
    """

    def __init__(self, bundle: Bundle, form: Form, precision: Precision, device: str, *, compiled: bool) -> None:
        import torch

        from converters.graphs.stages import Normalization, Prepare

        grid, trunk = trunk_of(bundle, form)
        frame = bundle.manifest.input
        self.grid, self.form, self.device = grid, form, device
        self.dtype: torch.dtype = getattr(torch, _DTYPES[precision])
        layout = torch.channels_last if form.channels_last else torch.contiguous_format
        self.layout: torch.memory_format = layout
        self.prepare = Prepare(Normalization(frame.mean, frame.std), grid).to(device)
        self.trunk: Callable[..., torch.Tensor] = trunk.to(device, self.dtype).to(memory_format=layout)  # type: ignore[call-overload]
        if compiled:
            self.trunk = torch.compile(self.trunk, dynamic=False)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        import torch

        (g, f), (height, width), (h, w) = self.grid.cut_window, self.grid.crop_size, self.grid.window
        with torch.inference_mode():
            planes = self.prepare(torch.from_numpy(frame).to(self.device))
            labels = torch.empty(self.grid.padded_size, dtype=torch.uint8, device=self.device)
            for phases in self.grid.sub_batches(self.form.sub_batch):
                origins = [(row % g, column % f) for row, column in phases]
                cut = [planes[:, row : row + height, column : column + width] for row, column in origins]
                windows = torch.stack(cut).to(self.dtype, memory_format=self.layout)
                for prediction, (row, column) in zip(self.trunk(windows), phases, strict=True):
                    labels[row::h, column::w] = prediction
            result: np.ndarray = self.grid.unpadded(labels.cpu().numpy())
        return result


def trunk_of(bundle: Bundle, form: Form) -> tuple[PhaseGrid, nn.Module]:
    """Windows to labels in a form, and the phases it is for. Weights are fresh ones, which take as long as any."""
    import torch

    from converters.analysis.network import traced_network
    from converters.graphs.stages import Trunk
    from converters.networks import network_from_arch
    from converters.rewriting.loops import looped_from_network
    from converters.rewriting.lowerings import lowered

    manifest, known = bundle.manifest, bundle.manifest.network
    if known.width is None:
        raise NetworkError(f"nothing says how to build a {known.source} anew")
    torch.manual_seed(0)
    traced = traced_network(network_from_arch(known.source, classes=len(manifest.classes), width=known.width).eval())
    frame = manifest.input
    if form.lowering is None:
        return PhaseGrid(frame.size, frame.padded_size, (1, 1), (0, 0, 0, 0)), Trunk(
            copy.deepcopy(traced.graph), (), OutputKind.LABELS
        ).eval()
    looped = looped_from_network(traced, None if form.walked else 0)
    made = lowered(looped, form.lowering)
    return looped.grid(frame.size, frame.padded_size), Trunk(made.graph, made.merges, OutputKind.LABELS).eval()


def pytorch_jobs(name: str, bundle: Bundle, bench: Bench, device: str) -> Iterator[Job]:
    """The network of a bundle: all forms in the fastest precision, and the whole network in the others."""
    precisions = PRECISIONS if device == "cuda" else (Precision.FP32,)
    for precision in precisions:
        for form in FORMS if precision is precisions[0] else (WHOLE,):
            for how in (EAGER, COMPILED):
                row = Row(PYTORCH, how, name, precision.value, form.name)
                guess_s = _COMPILING_S if how is COMPILED else 0.0
                yield Job(row, _labelling(bundle, form, precision, bench, device, compiled=how is COMPILED), guess_s)


def _labelling(
    bundle: Bundle, form: Form, precision: Precision, bench: Bench, device: str, *, compiled: bool
) -> Callable[[Row], Row]:
    def measure(row: Row) -> Row:
        frame, _ = bundle.reference_arrays(bundle.manifest.reference[0])
        manifest = bundle.manifest

        def timed() -> dict[str, Any]:
            with_tf32(precision is Precision.TF32)
            labelling = Labelling(bundle, form, precision, device, compiled=compiled)
            latency_ms = median_ms(lambda: labelling(frame), bench.repeats)
            # The whole network repeats no work, and no other form does less.
            rate = min(map(manifest.frame_operations, manifest.trunks)) / latency_ms * 1000
            figures = {"latency_ms": latency_ms, "operations_per_s": rate}
            if known := bench.matrix_rates.get(precision.value):
                figures["share_of_matrix_rate"] = rate / known
            return figures

        return in_pytorch(row, device, timed)

    return measure


def in_pytorch(row: Row, device: str, timed: Callable[[], dict[str, Any]]) -> Row:
    """The row with the figures of something in PyTorch, and the most that its allocator held meanwhile.

    What PyTorch refuses, a compiler that is missing say, is *not run*; an error of the accelerator is a failure.
    """
    try:
        import torch
    except ImportError as error:
        return row.ended("not run", f"{error.name} is not installed")
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        return row.ended("not run", "PyTorch sees no CUDA device")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        figures = timed()
    except torch.AcceleratorError as error:
        return row.ended("failed", f"broke: {_first_line(error)}")
    except (ImportError, RuntimeError, NetworkError) as error:
        # Its own exceptions derive from RuntimeError; the first line says what it lacks.
        return row.ended("not run", _first_line(error))
    finally:
        torch.compiler.reset()
        if on_gpu:
            peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            torch.cuda.empty_cache()
    if on_gpu:
        figures |= {"allocated_bytes": peaks[0], "reserved_bytes": peaks[1]}
    return row.ended("passed", "", **figures)


def training_job(bench: Bench, device: str, crop: int, width: int = 64) -> Job:
    """Forward, loss, backward and a step of Adam for SMP-18 by shrink-expand, two crops, bf16 autocast."""

    def measure(row: Row) -> Row:
        return in_pytorch(
            row, device, lambda: {"latency_ms": median_ms(training_step(device, crop, width), bench.repeats)}
        )

    return Job(Row(TRAINING, "SMP-18, shrink-expand", "", "bf16", f"2 crops of {crop}x{crop}"), measure)


def training_step(device: str, crop: int, width: int) -> Callable[[], float]:
    """One step, ready to be called again and again; it gives the loss."""
    import torch

    from converters.networks import network_from_arch
    from smp_deploy.training import draw_sampling, sampled_labels, sampled_logits, training_form

    torch.manual_seed(0)
    network = network_from_arch("smp-resnet18", width=width).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, weight_decay=5e-4)
    form, generator = training_form(network, 0), torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, crop, crop, device=device)
    labels = torch.randint(network.classes, (2, crop, crop), device=device)

    def step() -> float:
        sampling = draw_sampling(form, generator)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            logits = sampled_logits(form, x, sampling)
            loss = torch.nn.functional.cross_entropy(logits, sampled_labels(labels, sampling))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        # Waits for the device.
        return float(loss.detach())

    return step


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
