"""The backend ``onnxruntime-cuda``: ONNX Runtime's CUDA provider, on any NVIDIA GPU that it has kernels for."""

from __future__ import annotations

from pathlib import Path

from engines.backends.base import Backend, Kind, Support
from engines.backends.memory import DeviceMemoryModel
from engines.backends.onnxruntime.arena import Arena
from engines.backends.onnxruntime.engine import OnnxRuntimeEngine
from engines.backends.onnxruntime.sessions import Provider, import_onnxruntime
from engines.bundle.bundle import Bundle
from engines.devices.base import OpenEngine, Stream
from engines.devices.cuda import CudaDevice
from engines.devices.gpus import gpu_title, gpus
from engines.devices.names import DeviceName
from engines.executors.base import Executor
from engines.executors.device import DeviceExecutor
from engines.schedules.schedule import Precision, Schedule


class OnnxRuntimeCuda(Backend):
    """On an NVIDIA GPU, with graphs as they are: no engine is built."""

    name = "onnxruntime-cuda"
    title = "run on a GPU (ONNX Runtime)"
    kind = Kind.GPU
    precisions = frozenset(Precision)
    extra = "ort"
    packages = ("onnxruntime-gpu",)
    memory = DeviceMemoryModel()

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
        gpu = CudaDevice(index)
        block = self.memory.managed_bytes(manifest, schedule, precision)
        limit = None
        if memory_bytes is not None:
            limit = memory_bytes - self.memory.buffers(manifest, schedule).on_device
            block = max(min(block, limit), 0)
        arena = Arena(gpu, block, limit)

        def opener(graph: Path, *, owns_arena: bool = False) -> OpenEngine:
            return lambda stream: OnnxRuntimeEngine(
                graph,
                Provider.CUDA,
                provider_options(index, stream, precision),
                index,
                arena,
                owns_arena=owns_arena,
            )

        return DeviceExecutor(
            gpu,
            # Opened first and closed last.
            opener(bundle.file(manifest.prepare), owns_arena=True),
            opener(bundle.trunk_graph(trunk, precision)),
            manifest.grid(trunk),
            schedule.sub_batch,
        )


def provider_options(index: int, stream: Stream, precision: Precision) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told, in its own words.

    Chosen by what was measured; docs/runtime.md has the figures.
    """
    return {
        "device_id": str(index),
        # All work on the executor's stream: nothing waits but what must.
        "user_compute_stream": str(int(stream)),
        # The matrix units' TF32 is on by default, and is no fp32.
        "use_tf32": "1" if precision is Precision.TF32 else "0",
        # Convolutions on channels-last tensors, which the matrix units want.
        "prefer_nhwc": "1",
        # Trying all algorithms takes the largest workspace of them, and the heuristic finds what they find.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
    }


ONNXRUNTIME_CUDA = OnnxRuntimeCuda()
