"""Engines on the GPU: deserialized, given shapes, addresses and memory, and queued on a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.backends.tensorrt.logger import BuildLog, trt_logger
from engines.devices.base import DeviceEngine, Execution, Stream, TensorSpec
from engines.errors import BackendError, OutOfMemory


class TensorRTEngine(DeviceEngine):
    """An engine of either flavour.

    Args:
        trt: the flavour's module.
        plan: what the builder gave. **Deserializing runs code from it**: verify its hash first.
        subject: what to call it in messages.

    Raises:
        BackendError: TensorRT does not load it, with TensorRT's own words.
        OutOfMemory: the device has no room for its weights.
    """

    def __init__(self, trt: Any, plan: bytes, subject: str) -> None:
        self.trt = trt
        self.log = BuildLog()
        self._name = f"{trt.__name__} {trt.__version__}"
        self._subject = subject
        # Both live as long as the engine.
        self._logger = trt_logger(trt, self.log)
        self._runtime = runtime = _made(lambda: trt.Runtime(self._logger))
        engine = _made(lambda: runtime.deserialize_cuda_engine(plan)) if runtime is not None else None
        if engine is None:
            raise self.error("does not load")
        self._engine: Any = engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = tuple(self._spec(name) for name in names if self._mode(name) == trt.TensorIOMode.INPUT)
        self.outputs = tuple(self._spec(name) for name in names if self._mode(name) == trt.TensorIOMode.OUTPUT)
        for name in names:
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise BackendError(f"{self._name} wants {name!r} of {subject} in host memory, which is not supported")

    def execution(self, shapes: Mapping[str, tuple[int, ...]]) -> Execution:
        self.log.clear()
        return TensorRTExecution(self, self._context(), shapes)

    def close(self) -> None:
        # In this order: what was made by another goes first. TensorRT frees with the last reference.
        self._engine = None
        self._runtime = None

    def memory_size(self) -> int:
        """Bytes that an execution needs at most, at the largest shapes of the one profile."""
        return int(self._engine.get_device_memory_size_for_profile_v2(0))

    def captures_by_itself(self) -> bool:
        """Whether executions are captured in CUDA graphs by TensorRT-RTX."""
        return hasattr(self.trt, "CudaGraphStrategy")

    def error(self, what: str) -> BackendError:
        """What TensorRT's log says of a failure."""
        message = f"{self._name} {what} {self._subject}: {self.log.why()}"
        return OutOfMemory(message) if self.log.out_of_memory() else BackendError(message)

    def _context(self) -> Any:
        """A context without memory of its own."""
        trt, engine = self.trt, self._engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.captures_by_itself() and hasattr(engine, "create_runtime_config"):
            runtime_config = engine.create_runtime_config()
            runtime_config.set_execution_context_allocation_strategy(strategy)
            if hasattr(runtime_config, "cuda_graph_strategy"):
                runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = _made(lambda: engine.create_execution_context(runtime_config))
        else:
            context = _made(lambda: engine.create_execution_context(strategy))
        if context is None:
            raise self.error("gives no execution context for")
        return context

    def _mode(self, name: str) -> Any:
        return self._engine.get_tensor_mode(name)

    def _spec(self, name: str) -> TensorSpec:
        trt, engine = self.trt, self._engine
        shape = tuple(None if length < 0 else int(length) for length in engine.get_tensor_shape(name))
        return TensorSpec(name, np.dtype(trt.nptype(engine.get_tensor_dtype(name))), shape)


class TensorRTExecution(Execution):
    """A context at fixed shapes."""

    def __init__(self, owner: TensorRTEngine, context: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._owner = owner
        self._context: Any = context
        for spec in owner.inputs:
            if spec.name not in shapes:
                raise BackendError(f"the engine takes an input {spec.name!r} that is not known here; build it again")
            if not context.set_input_shape(spec.name, shapes[spec.name]):
                raise owner.error(f"does not take {spec.name!r} of {shapes[spec.name]} for")
        insufficient = context.infer_shapes()
        if insufficient:
            raise owner.error(f"does not know the shapes of {insufficient} for")
        self.outputs = {spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in owner.outputs}
        # What these shapes need; the profile's largest would do for all, where TensorRT says nothing.
        size = int(context.update_device_memory_size_for_shapes())
        self.memory_size = size if size > 0 else owner.memory_size()

    def bind(self, addresses: Mapping[str, int], memory: int, memory_size: int) -> None:
        context, owner = self._context, self._owner
        owner.log.clear()
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise owner.error(f"does not take an address for {name!r} of")
        if memory_size:
            context.set_device_memory(memory, memory_size)

    def enqueue(self, stream: Stream) -> None:
        self._owner.log.clear()
        if not self._context.execute_async_v3(int(stream)):
            raise self._owner.error("failed in")

    def uncapturable(self, stream: Stream) -> str:
        context = self._context
        if self._owner.captures_by_itself():
            return "TensorRT-RTX captures by itself"
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(stream)):
            return "TensorRT says that it cannot be captured"
        return ""

    def close(self) -> None:
        self._context = None


def _made(make: Any) -> Any:
    """What TensorRT's bindings make; ``None`` where they raise for want of it. The log has the reason."""
    try:
        return make()
    except MemoryError as error:
        raise OutOfMemory("TensorRT found no memory on the host") from error
    except (TypeError, RuntimeError):
        # The bindings raise TypeError for a pointer that is null, and RuntimeError for what C++ throws.
        return None
