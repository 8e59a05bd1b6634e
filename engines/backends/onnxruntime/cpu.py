"""The backend ``onnxruntime``: ONNX Runtime on the CPU."""

from __future__ import annotations

from engines.backends.base import Backend, Kind
from engines.backends.memory import MIB, MemoryModel
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.backends.onnxruntime.sessions import import_onnxruntime
from engines.bundle.bundle import Bundle
from engines.devices.names import DeviceName
from engines.devices.processor import processor_title
from engines.executors.base import Executor
from engines.executors.host import RunnerExecutor
from engines.schedules.schedule import Precision, Schedule


class OnnxRuntimeCpu(Backend):
    """Anywhere; the embedded default, and what every graph is proven in."""

    name = "onnxruntime"
    title = "run and validate on the CPU (ONNX Runtime)"
    kind = Kind.CPU
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.INT8})
    extra = "ort"
    packages = ("onnxruntime", "onnxruntime-gpu")
    # Measured on x86-64 (docs/memory.md); an fp16 graph is computed in fp32 there, and int8 as it is written.
    memory = MemoryModel(
        process_bytes=64 * MIB,
        opening_bytes=12 * MIB,
        opening=1.65,
        runtime_bytes=22 * MIB,
        packing=None,
        computes_in=((Precision.FP16, Precision.FP32),),
        measured=frozenset({Precision.FP32, Precision.INT8}),
    )

    def refusal(self, precision: Precision) -> str | None:
        if precision is Precision.BF16:
            return "ONNX Runtime has no bf16 convolution on the CPU; run fp16 or fp32 here, and bf16 on a GPU"
        return super().refusal(precision)

    def unproven(self, precision: Precision) -> str | None:
        if precision is Precision.FP16:
            return (
                "ONNX Runtime computes fp16 graphs in fp32 on a CPU and rounds nothing, so this proves nothing of "
                "fp16; the validation of the whole bundle writes the rounding into the graph"
            )
        return None

    def device_title(self, device: DeviceName) -> str:
        return processor_title()

    def runtime(self) -> str:
        return f"onnxruntime {import_onnxruntime().__version__}"

    def _open(
        self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName, memory_bytes: int | None
    ) -> Executor:
        trunk = bundle.manifest.trunk_of(schedule)
        with bundle.copies() as file:
            return RunnerExecutor(
                OnnxRuntimeRunner(file(bundle.manifest.prepare)),
                OnnxRuntimeRunner(file(bundle.trunk_graph(trunk, precision)), precision),
                bundle.manifest.grid(trunk),
            )


ONNXRUNTIME_CPU = OnnxRuntimeCpu()
