"""The backend ``onnxruntime-cuda``: ONNX Runtime's CUDA provider, a second opinion on a GPU."""

from __future__ import annotations

from engines.backends.base import Backend, Kind, Support
from engines.backends.memory import MemoryModel
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner, Provider, import_onnxruntime
from engines.bundle.bundle import Bundle
from engines.devices.gpus import gpu_title, gpus
from engines.devices.names import DeviceName
from engines.executors.base import Executor
from engines.executors.host import RunnerExecutor
from engines.schedules.schedule import Precision, Schedule


class OnnxRuntimeCuda(Backend):
    """On an NVIDIA GPU, with graphs as they are: no engine is built."""

    name = "onnxruntime-cuda"
    title = "run on a GPU (ONNX Runtime)"
    kind = Kind.GPU
    precisions = frozenset(Precision)
    extra = "ort"
    packages = ("onnxruntime-gpu",)
    memory = MemoryModel()

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

    def _open(self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName) -> Executor:
        trunk, index = bundle.manifest.trunk_of(schedule), device.index
        return RunnerExecutor(
            OnnxRuntimeRunner(bundle.file(bundle.manifest.prepare), Provider.CUDA, device_index=index),
            OnnxRuntimeRunner(bundle.trunk_graph(trunk, precision), Provider.CUDA, precision, device_index=index),
            bundle.manifest.grid(trunk),
        )


ONNXRUNTIME_CUDA = OnnxRuntimeCuda()
