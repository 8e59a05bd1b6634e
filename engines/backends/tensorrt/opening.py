"""From an engine of a bundle to an executor on the GPU."""

from __future__ import annotations

from typing import Any

from engines.backends.tensorrt.engine import TensorRTEngine
from engines.backends.tensorrt.flavours import Flavour
from engines.bundle.bundle import Bundle
from engines.bundle.comparing import build_record_of
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import BuildRecord
from engines.devices.cuda import CudaDevice
from engines.devices.gpus import gpus
from engines.devices.names import DeviceName
from engines.errors import BackendError, BundleError, OutOfMemory
from engines.executors.base import Executor
from engines.executors.device import DeviceExecutor


def executor_from_engine(
    bundle: Bundle, engine: EngineRecord, flavour: Flavour, name: DeviceName, memory_bytes: int | None = None
) -> Executor:
    """Load an engine of the bundle and that of its ``prepare.onnx`` on a GPU.

    The very bytes that are deserialized are verified: deserializing runs code from them. A budget covers the
    plans, which hold the weights, and all that is allocated.

    Raises:
        MissingDependency: the engine's TensorRT or cuda-bindings is not installed.
        BundleError: a file is not the one that was built.
        BackendError: there is no driver or GPU, or TensorRT does not load the engine, with the likely reason.
        OutOfMemory: the GPU has no room, or the budget does not suffice.
    """
    trt, index = flavour.load(), name.index
    plans = sum(bundle.files[plan].size for plan in (engine.engine, engine.prepare))
    grid = bundle.manifest.grid(bundle.manifest.trunk_of(engine.schedule))
    return DeviceExecutor(
        CudaDevice(index, flavour.extra),
        # TensorRT takes the stream with each run.
        lambda stream: _loaded(trt, bundle, engine, engine.prepare, index),
        lambda stream: _loaded(trt, bundle, engine, engine.engine, index),
        grid,
        engine.schedule.sub_batch,
        None if memory_bytes is None else memory_bytes - plans,
    )


def why_not_loaded(record: BuildRecord, runtime: str, gpu: tuple[str, str] | None) -> str:
    """What differs between where an engine was built and here, as the likely reason why it does not load; or ``""``.

    ``runtime`` is the module of TensorRT here and its version, ``gpu`` the name and the compute capability of the one
    at hand. A portable engine of TensorRT-RTX names none.
    """
    differences = []
    module, _, version = runtime.partition(" ")
    if record.version != version:
        differences.append(f"it was built with {module} {record.version}, here is {version}")
    built_for = record.device.gpu, record.device.compute_capability
    if built_for[0] is not None and gpu is not None and built_for != gpu:
        differences.append(f"it was built on {built_for[0]} ({built_for[1]}), here is {gpu[0]} ({gpu[1]})")
    if not differences:
        return ""
    return f" ({'; '.join(differences)}: build it again on this machine)"


def _loaded(trt: Any, bundle: Bundle, engine: EngineRecord, name: str, index: int) -> TensorRTEngine:
    plan = bundle.content(name)
    try:
        return TensorRTEngine(trt, plan, name)
    except OutOfMemory:
        raise
    except BackendError as error:
        found = gpus()[index : index + 1]
        gpu = (found[0].name, found[0].compute_capability) if found else None
        reason = _likely_reason(bundle, engine, f"{trt.__name__} {trt.__version__}", gpu)
        raise BackendError(f"{error}{reason}") from error


def _likely_reason(bundle: Bundle, engine: EngineRecord, runtime: str, gpu: tuple[str, str] | None) -> str:
    try:
        return why_not_loaded(build_record_of(bundle, engine), runtime, gpu)
    except BundleError as error:
        return f" ({error}: build it again on this machine)"
