"""The backend ``onnxruntime-cuda``: ONNX Runtime's CUDA provider, on any NVIDIA GPU that it has kernels for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.backends.base import Backend, Kind, Support
from engines.backends.memory import MIB, DeviceMemoryModel
from engines.backends.onnxruntime.engine import OnnxRuntimeEngine
from engines.backends.onnxruntime.sessions import Provider, import_onnxruntime
from engines.bundle.bundle import Bundle
from engines.devices.base import OpenEngine, Stream
from engines.devices.cuda import CudaDevice
from engines.devices.gpus import gpu_title, gpus
from engines.devices.names import DeviceName
from engines.executors.base import Executor
from engines.executors.device import DeviceExecutor
from engines.schedules.schedule import Lowering, Precision, Schedule


class OnnxRuntimeCuda(Backend):
    """On an NVIDIA GPU, with graphs as they are: no engine is built."""

    name = "onnxruntime-cuda"
    title = "run on a GPU (ONNX Runtime)"
    kind = Kind.GPU
    precisions = frozenset(Precision)
    extra = "ort"
    packages = ("onnxruntime-gpu",)
    # Measured on an H100 (docs/memory.md). The rearrangement of the reshape lowering is done in the plain layout, so
    # that there are more copies than those that the arena was computed with.
    memory = DeviceMemoryModel(
        runtime_bytes=20 * MIB,
        context_bytes=550 * MIB,
        arena={Lowering.RESHAPE: 1.3, Lowering.STRIDED: 1.0, Lowering.DILATED: 1.0},
        shares_memory=False,
        largest_tensor=2**31,
        # In fp32 cuDNN takes scratch memory that follows from no graph.
        measured=frozenset({Precision.FP16, Precision.TF32}),
    )

    def device_title(self, device: DeviceName) -> str:
        return gpu_title(device.index)

    def runtime(self) -> str:
        return f"onnxruntime {import_onnxruntime().__version__}"

    def _support(self) -> Support:
        found = self.runtime()
        if Provider.CUDA.value not in import_onnxruntime().get_available_providers():
            return Support(False, f"{found} is built without CUDA", "install onnxruntime-gpu")
        if not gpus():
            return Support(False, f"{found} has the provider, but there is no GPU", "needs an NVIDIA GPU")
        return Support(True, f"{found}, {Provider.CUDA.value}")

    def _open(
        self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName, memory_bytes: int | None
    ) -> Executor:
        manifest, index = bundle.manifest, device.index
        trunk = manifest.trunk_of(schedule)
        # Before the device: where CUDA is missing altogether, ONNX Runtime's reason says more.
        import_onnxruntime()
        limits: tuple[int | None, int | None] = (None, None)
        if memory_bytes is not None:
            prepare, buffers = self.memory.prepare_bytes(manifest, schedule), self.memory.buffers(manifest, schedule)
            # What is to spare is of the handles' share.
            limits = prepare + MIB, max(memory_bytes - buffers.on_device - prepare - self.memory.runtime_bytes, 1)

        def opener(graph: Path, limit: int | None) -> OpenEngine:
            return lambda stream: OnnxRuntimeEngine(
                graph, Provider.CUDA, provider_options(index, stream, precision, limit), index
            )

        with _small_workspaces(), bundle.copies() as file:
            return DeviceExecutor(
                CudaDevice(index, self.extra),
                opener(file(manifest.prepare), limits[0]),
                opener(file(bundle.trunk_graph(trunk, precision)), limits[1]),
                manifest.grid(trunk),
                schedule.sub_batch,
            )


@contextmanager
def _small_workspaces() -> Iterator[None]:
    """Let the handles of cuBLAS that are made inside take little scratch memory, unless the user has said how much.

    By default each takes tens of MiB, and ONNX Runtime makes one for each session, of which a convolutional network
    uses nothing.
    """
    with _OPENING:
        if _CUBLAS_WORKSPACE in os.environ:
            yield
            return
        os.environ[_CUBLAS_WORKSPACE] = ":16:8"
        try:
            yield
        finally:
            os.environ.pop(_CUBLAS_WORKSPACE, None)


_OPENING = threading.Lock()
"""The environment is the process's: one session is opened after the other."""
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def provider_options(index: int, stream: Stream, precision: Precision, limit: int | None) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told, in its own words.

    Chosen by what was measured; docs/runtime.md has the figures. ``limit`` is that of its arena, in bytes.
    """
    options = {
        "device_id": str(index),
        # All work on the executor's stream: nothing waits but what must.
        "user_compute_stream": str(int(stream)),
        # The matrix units' TF32 is on by default, and is no fp32.
        "use_tf32": "1" if precision is Precision.TF32 else "0",
        # Convolutions on channels-last tensors, which the matrix units want.
        "prefer_nhwc": "1",
        # By default memory is taken in powers of two.
        "arena_extend_strategy": "kSameAsRequested",
        # Trying all algorithms finds slower ones here, in seconds.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
    }
    return options if limit is None else {**options, "gpu_mem_limit": str(limit)}


ONNXRUNTIME_CUDA = OnnxRuntimeCuda()
