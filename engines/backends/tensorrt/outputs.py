"""What a finished engine gives for the bundle's reference frames, before it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from engines.backends.tensorrt.builder import BuiltEngine
from engines.backends.tensorrt.engine import TensorRTEngine
from engines.bundle.bundle import Bundle
from engines.bundle.records import OutputDigest
from engines.devices.cuda import CudaDevice
from engines.devices.gpus import gpus
from engines.devices.names import DeviceName
from engines.errors import MachineError
from engines.executors.base import Executor
from engines.executors.device import DeviceExecutor
from engines.schedules.schedule import Schedule


def outputs_of_engine(
    bundle: Bundle, schedule: Schedule, device: DeviceName, trunk: BuiltEngine, prepare: BuiltEngine
) -> list[OutputDigest] | str:
    """Digests of what the engine of a trunk and that of ``prepare.onnx`` give; else ``"not run: ..."``."""
    if not gpus():
        return "not run: there is no GPU"
    trt, flavour = trunk.flavour.load(), trunk.flavour

    def opened() -> Executor:
        return DeviceExecutor(
            CudaDevice(device.index, flavour.extra),
            lambda stream: TensorRTEngine(trt, prepare.plan, bundle.manifest.prepare),
            lambda stream: TensorRTEngine(trt, trunk.plan, "the engine"),
            bundle.manifest.grid(bundle.manifest.trunk_of(schedule)),
            schedule.sub_batch,
        )

    return outputs_of_executor(bundle, schedule, opened)


def outputs_of_executor(bundle: Bundle, schedule: Schedule, opened: Callable[[], Executor]) -> list[OutputDigest] | str:
    """The same, of an executor that is opened here. What the machine refuses is the reason why nothing was run."""
    digests = []
    try:
        with opened() as executor:
            for case in bundle.manifest.reference:
                image, _ = bundle.reference_arrays(case)
                executor.load(image, 0)
                for phases in executor.grid.sub_batches(schedule.sub_batch):
                    executor.submit(0, phases, 0)
                    executor.wait(0)
                output = executor.result(0)
                digests.append(
                    OutputDigest(
                        frame=case.frame,
                        frame_sha256=bundle.manifest.files[case.frame].sha256,
                        output_sha256=hashlib.sha256(output.tobytes()).hexdigest(),
                    )
                )
    except MachineError as error:
        return f"not run: {error}"
    return digests
