"""What surrounds a build and needs no TensorRT: targets, trtexec lines, progress, limits, inspector documents."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from engines import Precision
from engines.backends.tensorrt.flavours import PROPER, RTX
from engines.backends.tensorrt.inspection import check_effective_precision, convolution_types_from_inspection
from engines.backends.tensorrt.limits import MAX_ELEMENTS, check_tensor_sizes
from engines.backends.tensorrt.logger import BuildLog
from engines.backends.tensorrt.machine import Family, Machine, Soc, this_machine
from engines.backends.tensorrt.progress import BuildProgress
from engines.backends.tensorrt.settings import BuildOptions, HardwareCompatibility, MemoryPool
from engines.backends.tensorrt.targets import PLATFORMS, Target, check_build, check_flavour, check_machine
from engines.backends.tensorrt.timing import check_timing_cache, load_timing_cache
from engines.backends.tensorrt.trtexec import trtexec_lines
from engines.errors import BackendError, InputError, OutputError

PLAIN = BuildOptions()
X86 = Machine("x86_64")
MACHINES = {target: Machine("aarch64", platform.soc, platform.family) for target, platform in PLATFORMS.items()}


def test_trtexec_lines() -> None:
    assert trtexec_lines("b/trunk.fp16.onnx", "windows", (3, 131, 259), 4) == [
        "trtexec --onnx=b/trunk.fp16.onnx --minShapes=windows:1x3x131x259 --optShapes=windows:4x3x131x259 "
        "--maxShapes=windows:4x3x131x259 --stronglyTyped --noTF32 --saveEngine=trunk.fp16-b4.engine",
        "trtexec --onnx=b/prepare.onnx --stronglyTyped --noTF32 --saveEngine=prepare.engine",
    ]


def test_trtexec_lines_with_every_flag_and_a_name_that_needs_quotes() -> None:
    options = BuildOptions(
        optimization_level=5,
        pool_limits={MemoryPool.WORKSPACE: 2**29, MemoryPool.TACTIC_SHARED_MEMORY: 1000},
        max_aux_streams=0,
        hardware_compatibility=HardwareCompatibility.AMPERE_PLUS,
        version_compatible=True,
        timing_cache=Path("t.cache"),
    )
    _, prepare = trtexec_lines("my bundle/trunk.onnx", "windows", (3, 67, 99), 4, options)
    assert prepare == (
        "trtexec '--onnx=my bundle/prepare.onnx' --stronglyTyped --builderOptimizationLevel=5 "
        "--memPoolSize=workspace:512M,tacticSharedMem:1000B --maxAuxStreams=0 --hardwareCompatibilityLevel=ampere+ "
        "--versionCompatible --timingCacheFile=t.cache --noTF32 --saveEngine=prepare.engine"
    )


def test_the_page_on_targets_shows_the_lines_that_are_printed() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "target.md").read_text(encoding="utf-8")
    shown = " ".join(page.replace("\\\n", " ").split())
    for line in trtexec_lines("smp18.bundle/trunk.onnx", "windows", (3, 131, 259), 4):
        assert line in shown


@pytest.mark.parametrize("target", PLATFORMS)
def test_a_platform_is_built_for_on_itself_alone(target: Target) -> None:
    lines = trtexec_lines("b/trunk.onnx", "windows", (3, 67, 99), 4)
    for machine in (X86, Machine("aarch64"), *(held for other, held in MACHINES.items() if other is not target)):
        with pytest.raises(BackendError, match=f"an engine for {target.value} is not built on") as caught:
            check_machine(target, machine, lambda: lines)
        assert str(caught.value).splitlines()[1:] == [f"  {line}" for line in lines]
    check_machine(target, MACHINES[target], lambda: lines)
    with pytest.raises(BackendError, match="nothing here tells a DRIVE from a Jetson"):
        check_machine(target, replace(MACHINES[target], family=None), lambda: lines)


def test_targets_that_any_machine_serves() -> None:
    for target in (Target.RTX, Target.THIS_MACHINE):
        for machine in (X86, *MACHINES.values()):
            check_machine(target, machine, list)


def test_flavours_that_do_not_serve_a_target() -> None:
    with pytest.raises(InputError, match='target="rtx" is TensorRT-RTX alone, not tensorrt; leave backend= out'):
        check_flavour(Target.RTX, X86, PROPER)
    orin = MACHINES[Target.JETSON_ORIN]
    with pytest.raises(InputError, match="TensorRT-RTX does not run on jetson-orin"):
        check_flavour(Target.JETSON_ORIN, orin, RTX)
    with pytest.raises(InputError, match="TensorRT-RTX does not run on Jetson Orin"):
        check_flavour(Target.THIS_MACHINE, orin, RTX)
    check_flavour(Target.THIS_MACHINE, orin, PROPER)
    check_flavour(Target.RTX, X86, RTX)


def test_options_that_a_tensorrt_would_ignore_or_get_wrong() -> None:
    rtx, ten = (RTX, "1.7.1.116"), (PROPER, "10.13.3.9")
    compatible = replace(PLAIN, hardware_compatibility=HardwareCompatibility.AMPERE_PLUS)
    with pytest.raises(InputError, match="TensorRT-RTX ignores a hardware compatibility level"):
        check_build(Target.THIS_MACHINE, X86, compatible, rtx, list)
    with pytest.raises(InputError, match="without the lean runtime"):
        check_build(Target.THIS_MACHINE, X86, replace(PLAIN, version_compatible=True), rtx, list)
    with pytest.raises(InputError, match="not for Jetson or DRIVE, and this is a DRIVE Thor"):
        check_build(Target.THIS_MACHINE, MACHINES[Target.DRIVE_THOR], compatible, ten, list)
    check_build(Target.THIS_MACHINE, X86, compatible, ten, list)


def test_versions_that_a_platform_does_not_carry() -> None:
    orin = MACHINES[Target.DRIVE_ORIN]
    check_build(Target.DRIVE_ORIN, orin, PLAIN, (PROPER, "10.10.10"), list)
    with pytest.raises(BackendError, match=r"drive-orin carries TensorRT .*10.x \(DriveOS 7.x\), but .* finds 11.4"):
        check_build(Target.DRIVE_ORIN, orin, PLAIN, (PROPER, "11.4.1"), list)
    with pytest.raises(BackendError, match=r"TensorRT 8.6.13 is too old: .*\n  trtexec"):
        check_build(Target.THIS_MACHINE, orin, PLAIN, (PROPER, "8.6.13"), lambda: ["trtexec --onnx=trunk.onnx"])


@pytest.mark.parametrize(
    ("model", "compatible", "release", "soc", "family"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737\0nvidia,tegra234\0", False, Soc.ORIN, Family.JETSON),
        ("board", "nvidia,tegra264\0", True, Soc.THOR, Family.JETSON),
        ("NVIDIA DRIVE board", "nvidia,tegra264\0", False, Soc.THOR, Family.DRIVE),
        ("board", "nvidia,tegra234\0", False, Soc.ORIN, None),
        ("Raspberry Pi", "brcm,bcm2711\0", False, None, None),
    ],
)
def test_a_machine_is_known_by_its_device_tree(
    tmp_path: Path, model: str, compatible: str, release: bool, soc: Soc | None, family: Family | None
) -> None:
    for folder in ("proc/device-tree", "etc"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text(f"{model}\0")
    (tmp_path / "proc/device-tree/compatible").write_text(compatible)
    if release:
        (tmp_path / "etc/nv_tegra_release").write_text("# R38\n")
    machine = this_machine(tmp_path)
    assert (machine.architecture, machine.soc, machine.family) == (platform.machine(), soc, family)
    assert this_machine(tmp_path / "absent").soc is None


def test_nested_phases_are_one_rising_figure() -> None:
    said: list[tuple[int, int]] = []
    progress = BuildProgress(lambda done, total: said.append((done, total)))
    progress.started("build", None, 4)
    assert progress.stepped("build", 0)
    progress.started("optimize", "build", 2)
    progress.started("time", "optimize", 5)
    for step in range(5):
        progress.stepped("time", step)
    progress.finished("time")
    progress.stepped("optimize", 0)
    progress.finished("optimize")
    progress.stepped("build", 1)
    progress.cancel()
    assert not progress.stepped("build", 2)
    progress.complete()
    # One step of four is 25 %; a fifth of a half of one is 2.5 %.
    assert [done for done, _ in said] == [25, 27, 30, 32, 35, 37, 50, 75, 100]
    assert {total for _, total in said} == {100}


def test_a_failing_listener_cancels() -> None:
    def fail(*_: int) -> None:
        raise ValueError("no")

    progress = BuildProgress(fail)
    progress.started("build", None, 2)
    assert not progress.stepped("build", 0)
    assert str(progress.failure) == "no"


def test_the_limit_of_a_tensor_names_the_largest_layer() -> None:
    check_tensor_sizes([])
    check_tensor_sizes([("a", (1024, 1024, 2048)), ("b", (-1, 3))])
    with pytest.raises(
        BackendError, match=rf"layer c has 2147483904 elements \(8388609 x 256\).*at most {MAX_ELEMENTS}"
    ):
        check_tensor_sizes([("a", (2**31,)), ("c", (2**23 + 1, 256)), ("b", (-1, 2**31))])


def tensor(kind: str) -> dict[str, object]:
    return {"Name": "t", "Location": "Device", "Dimensions": [4, 8, 16, 24], "Format/Datatype": kind}


def convolution(*kinds: str, **fields: object) -> dict[str, object]:
    tensors = [tensor(kind) for kind in kinds]
    return {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": tensors[:1], "Outputs": tensors[1:], **fields}


NAMES = {
    10: {"Bindings": ["windows", "labels"]},
    11: {"I/O Tensors": [{"Name": "windows", "IOMode": "Input", "DataType": "Float", "Dimensions": [-1, 3, 67, 99]}]},
}


@pytest.mark.parametrize("version", [10, 11])
def test_types_are_read_from_either_form_of_an_inspectors_document(version: int) -> None:
    layers = [
        {"Name": "in", "LayerType": "Reformat", "Inputs": [tensor("Row major linear FP32")], "Outputs": []},
        convolution("Row major linear FP32", "Channel major FP16 format where channel % 8 == 0"),
        convolution("Half", "Half"),
        convolution("N/A due to dynamic shapes", "N/A due to dynamic shapes", Weights={"Type": "Half", "Count": 9}),
        convolution("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
        convolution("Half", "Half", LayerType="kgen"),
        convolution("Half", "Half", LayerType="gemm", Metadata="[ONNX Layer: layer1.0.downsample.0/Conv]"),
        convolution("Float", "Float", LayerType="Myelin", ParameterType="Convolution"),
        convolution("BF16", "BF16"),
    ]
    types = convolution_types_from_inspection(json.dumps({"Layers": layers, **NAMES[version]}))
    assert types == {"HALF": 4, "UNKNOWN": 1, "FLOAT": 1, "BF16": 1}


def test_an_fp32_engine_is_not_passed_off_as_fp16() -> None:
    types = convolution_types_from_inspection(json.dumps({"Layers": [convolution("Float", "Float")] * 21}))
    assert types == {"FLOAT": 21}
    check_effective_precision(types, Precision.FP32)
    check_effective_precision({"HALF": 21}, Precision.FP16)
    with pytest.raises(BackendError, match="was to be fp16, but its convolutions compute in: 21 FLOAT"):
        check_effective_precision(types, Precision.FP16)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "gave no list of layers"),
        ("[]", "gave no list of layers"),
        ('{"Bindings": []}', "gave no list of layers"),
        ('{"Layers": ["conv1", "conv2"]}', "names of layers only"),
    ],
)
def test_documents_that_say_nothing(document: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        convolution_types_from_inspection(document)


def test_a_log_gives_reasons_with_what_to_do() -> None:
    log = BuildLog()
    assert log.why() == "it gave no reason"
    log.add(2, "WARNING", "slow")
    log.add(1, "ERROR", "Could not find any implementation for node conv1")
    assert log.why() == (
        "Could not find any implementation for node conv1 "
        "(the memory of this device does not suffice; choose a smaller sub_batch=)"
    )
    assert log.warnings == ["slow"]


def test_a_timing_cache_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, said in {"pipe": "is a pipe", "zero": "is a device"}.items():
        with pytest.raises(OutputError, match=f"{name} is a pipe or a device; name a file"):
            check_timing_cache(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} {said}, where a file is needed"):
            load_timing_cache(None, tmp_path / name)


def test_a_timing_cache_that_cannot_be_written(tmp_path: Path) -> None:
    check_timing_cache(tmp_path / "new.cache")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="is a directory; name a file"):
        check_timing_cache(tmp_path)
    with pytest.raises(OutputError, match=r"cannot write the timing cache .*: No such file or directory"):
        check_timing_cache(tmp_path / "absent" / "a.cache")
