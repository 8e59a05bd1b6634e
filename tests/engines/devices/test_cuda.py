"""CUDA as far as a machine without a GPU has it: its names, their arguments, clear errors."""

from __future__ import annotations

import ast
import inspect
from types import SimpleNamespace

import pytest

import engines.devices.cuda as cuda_module
from engines.devices import DeviceName
from engines.devices.cuda import CudaDevice, import_cuda, no_such_gpu
from engines.devices.gpus import gpus
from engines.errors import BackendError, InputError, MissingDependency, OutOfMemory

without_gpu = pytest.mark.skipif(bool(gpus()), reason="not run: this machine has a GPU")


def calls_of_cuda() -> dict[str, int]:
    """Names that the CUDA device calls, with the number of arguments, from its source."""
    calls = {}
    for node in ast.walk(ast.parse(inspect.getsource(cuda_module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "_call" and isinstance(node.args[0], ast.Constant):
                calls[str(node.args[0].value)] = len(node.args) - 1
            elif isinstance(node.func.value, ast.Attribute) and node.func.value.attr in ("_cuda", "_driver"):
                calls[node.func.attr] = len(node.args)
    return calls


def test_every_call_of_cuda_exists_with_its_arguments() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="not run: cuda-bindings is not installed")
    driver = pytest.importorskip("cuda.bindings.driver", reason="not run: cuda-bindings is not installed")
    calls = calls_of_cuda()
    assert len(calls) > 20
    assert {"cuCtxPushCurrent", "cuCtxPopCurrent"} <= set(calls)
    for name, arguments in calls.items():
        # The first line of a binding's docstring is its signature.
        module = driver if name.startswith("cu") and not name.startswith("cuda") else runtime
        signature = getattr(module, name).__doc__.splitlines()[0]
        assert signature.startswith(f"{name}(")
        if name == "cudaMemcpy3DParms":
            # A structure, made empty and filled.
            assert arguments == 0
            assert {"dstPtr", "srcPtr", "extent", "kind"} <= set(dir(runtime.cudaMemcpy3DParms))
            continue
        inside = signature[len(name) + 1 : -1]
        assert len(inside.split(",")) == arguments if inside else arguments == 0, signature
    for value in (runtime.cudaHostAllocDefault, runtime.cudaStreamNonBlocking):
        assert isinstance(value, int)
    assert {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"} <= set(
        dir(runtime.cudaMemcpyKind)
    )
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    numbers = {code.name: int(code) for code in runtime.cudaError_t}
    assert (numbers["cudaErrorMemoryAllocation"], numbers["cudaErrorInsufficientDriver"]) == (2, 35)
    assert numbers["cudaErrorNoDevice"] == 100
    numbers = {code.name: int(code) for code in driver.CUresult}
    assert (numbers["CUDA_ERROR_OUT_OF_MEMORY"], numbers["CUDA_ERROR_NO_DEVICE"]) == (2, 100)


@without_gpu
def test_each_call_without_a_driver_says_so() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="not run: cuda-bindings is not installed")
    driver = pytest.importorskip("cuda.bindings.driver", reason="not run: cuda-bindings is not installed")
    with pytest.raises(BackendError, match=r"there is no NVIDIA driver on this machine.*\(error 35\)"):
        CudaDevice()
    device = CudaDevice.__new__(CudaDevice)
    device._cuda, device._driver, device._context = runtime, driver, driver.CUcontext()
    with pytest.raises(BackendError, match="no NVIDIA driver"), device.current():
        pass
    for call in (lambda: device.allocate(10), lambda: device.allocate_pinned(10), device.create_stream,
                 device.create_event, device.free_bytes):  # fmt: skip
        with pytest.raises(BackendError, match=r"no NVIDIA driver"):
            call()
    assert isinstance(device._error("cudaMalloc", runtime.cudaError_t(2), "10 bytes of device memory"), OutOfMemory)
    other = device._error("cudaMemcpyAsync", runtime.cudaError_t(1), "")
    assert str(other) == "CUDA refuses cudaMemcpyAsync: invalid argument (error 1)"
    assert "no NVIDIA GPU" in str(device._error("cudaMalloc", runtime.cudaError_t(100), ""))


def test_bindings_that_raise_without_a_driver() -> None:
    """As cuda-bindings 12.8 do, with these words; those of 13 give an error code."""

    def refuse(size: int) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    device = CudaDevice.__new__(CudaDevice)
    device._cuda = SimpleNamespace(cudaMalloc=refuse)
    with pytest.raises(BackendError, match=r"there is no NVIDIA driver on this machine: Failed to dlopen libcuda"):
        device.allocate(10)


def test_missing_cuda_bindings_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(MissingDependency, match=r"cuda-bindings is not installed; .*smp-deploy\[tensorrt\]"):
        import_cuda()


def test_a_thread_is_on_the_device_inside_and_where_it_was_afterwards() -> None:
    """By contexts on the driver's stack. No GPU, no contexts: this driver is the test's own."""
    stack: list[str] = []

    def push(context: str) -> tuple[int]:
        stack.append(context)
        return (0 if context != "lost" else 201,)

    driver = SimpleNamespace(
        cuCtxPushCurrent=push,
        cuCtxPopCurrent=lambda: (0, stack.pop()),
        cuGetErrorString=lambda code: (0, b"invalid device context"),
    )

    def device_of(context: str) -> CudaDevice:
        device = CudaDevice.__new__(CudaDevice)
        device._driver, device._context = driver, context
        return device

    def work_on(device: CudaDevice) -> None:
        with device.current(), device.current():
            assert stack == ["one", "two", "two"]
            raise KeyError

    with device_of("one").current():
        with pytest.raises(KeyError):
            work_on(device_of("two"))
        assert stack == ["one"]
    assert stack == []
    with pytest.raises(BackendError) as caught, device_of("lost").current():
        pass
    assert str(caught.value) == "CUDA refuses cuCtxPushCurrent: invalid device context (error 201)"


def test_a_gpu_that_is_not_there_names_those_that_are() -> None:
    assert str(no_such_gpu(2, ["Orin", "NVIDIA H100"])) == (
        "there is no cuda:2 on this machine; there is cuda:0 (Orin), cuda:1 (NVIDIA H100)"
    )
    assert str(no_such_gpu(0, [])) == "there is no NVIDIA GPU on this machine"


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("cpu", DeviceName("cpu"), "cpu"),
        ("cuda", DeviceName("cuda", 0), "cuda:0"),
        ("cuda:0", DeviceName("cuda", 0), "cuda:0"),
        ("cuda:12", DeviceName("cuda", 12), "cuda:12"),
    ],
)
def test_a_device_has_a_name(text: str, name: DeviceName, shown: str) -> None:
    assert DeviceName.parse(text) == name
    assert str(name) == shown


@pytest.mark.parametrize(
    "text",
    ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda: 1", "cuda:1\n", "cuda:\u0661", "cpu:1", "cuda:12345", 0, None],
)
def test_what_names_no_device_is_told(text: object) -> None:
    with pytest.raises(InputError) as caught:
        DeviceName.parse(text)  # type: ignore[arg-type]
    assert str(caught.value) == f'a device is "cpu", "cuda" or "cuda:INDEX"; received {text!r}'
