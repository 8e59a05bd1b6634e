"""The runtime for engines as far as a machine without a GPU has it: files, records, CUDA's names, clear errors."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from engines import Bundle, Lowering, Precision, Schedule, Session, build_engine, choose_schedule
from engines.backends import BACKENDS, backend_named
from engines.backends.tensorrt.backend import TENSORRT_RTX
from engines.backends.tensorrt.builder import BuildConfig, engine_from_onnx
from engines.backends.tensorrt.engine import TensorRTEngine
from engines.backends.tensorrt.logger import BuildLog
from engines.backends.tensorrt.opening import _loaded, why_not_loaded
from engines.bundle.records import BuildDevice
from engines.devices.gpus import gpus
from engines.errors import BackendError, BundleError, InputError, OutOfMemory
from engines.planning.smaller import smaller_schedules
from tests.conftest import Cli
from tests.converters.verification.faults import sealed
from tests.engines.test_proof import with_engine
from tests.records import build_record

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)
without_gpu = pytest.mark.skipif(bool(gpus()), reason="not run: this machine has a GPU")


@pytest.fixture(scope="module")
def built(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with real RTX engines, in fp16 for sub-batches of 4 and of 1, as build-engine stores them."""
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    bundle = Bundle.open(shutil.copytree(exported.path, tmp_path_factory.mktemp("built") / "bundle"))
    graph = bundle.file(bundle.trunk_graph(bundle.manifest.trunk(), Precision.FP16))
    prepare = engine_from_onnx(bundle.file(bundle.manifest.prepare), TENSORRT_RTX.flavour, BuildConfig(None))
    for sub_batch in (4, 1):
        plan = engine_from_onnx(graph, TENSORRT_RTX.flavour, BuildConfig(Precision.FP16, sub_batch=sub_batch)).plan
        record = build_record(version="1.0.0")
        schedule = Schedule(2, sub_batch)
        bundle = bundle.with_engine(
            "tensorrt-rtx", Precision.FP16, schedule, plan=plan, prepare=prepare.plan, record=record
        )
    return bundle


@without_gpu
def test_without_a_gpu_the_message_is_one(built: Bundle) -> None:
    with pytest.raises(BackendError, match="there is no NVIDIA driver on this machine") as caught:
        Session.open(built.path, "tensorrt-rtx", precision=Precision.FP16, schedule=Schedule(2, 4))
    assert not isinstance(caught.value, OutOfMemory)
    with pytest.raises(BackendError, match="there is no NVIDIA driver on this machine"):
        Session.open(built, "tensorrt-rtx", precision=Precision.FP16, allow_smaller=True)


@needs_rtx
@without_gpu
def test_tensorrts_own_words_for_an_engine_that_it_does_not_load(built: Bundle) -> None:
    import tensorrt_rtx as trt

    good = built.file(built.engines[0].engine).read_bytes()
    for plan, said in ((good, "CUDA driver version is insufficient"), (b"junk" * 100, "Serialization")):
        with pytest.raises(BackendError, match=rf"tensorrt_rtx [\d.]+ does not load x\.engine: .*{said}"):
            TensorRTEngine(trt, plan, "x.engine")


def test_the_bytes_that_are_loaded_are_verified_again(built: Bundle, tmp_path: Path) -> None:
    """A file that changes after the bundle was opened is never deserialized."""
    bundle = Bundle.open(shutil.copytree(built.path, tmp_path / "bundle"))
    name = bundle.engines[0].engine
    good = (bundle.path / name).read_bytes()
    assert bundle.content(name) == good
    (bundle.path / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"is not the file that was built \(SHA-256 differs\); build it again"):
        bundle.content(name)
    with pytest.raises(BundleError, match="is not the file that was built"):
        Bundle.open(bundle.path)
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=r"cannot read .*No such file or directory; the bundle is damaged"):
        bundle.content(name)


def test_a_missing_engine_names_the_command_that_builds_it(built: Bundle) -> None:
    with pytest.raises(BundleError) as caught:
        Session.open(built, "tensorrt-rtx", precision=Precision.FP16, schedule=Schedule(2, 3, Lowering.DILATED))
    assert str(caught.value) == (
        "the bundle has no tensorrt-rtx engine in fp16 for levels 2, sub-batch 3, dilated (it has: "
        "tensorrt-rtx fp16, levels 2, sub-batch 4, reshape; tensorrt-rtx fp16, levels 2, sub-batch 1, reshape); build "
        f"it on this machine: build_engine('{built.path}', backend='tensorrt-rtx', precision='fp16', levels=2, "
        "lowering='dilated', sub_batch=3)"
    )
    with pytest.raises(BundleError, match="no tensorrt engine in fp32"):
        Session.open(built, "tensorrt")


def test_which_engine_and_which_schedule(built: Bundle, exported: Bundle) -> None:
    assert TENSORRT_RTX.engine(built, Precision.FP16, Schedule(2, 4)) is built.engines[0]
    # With several engines the default is the bundle's; with one it is that one's.
    assert choose_schedule(built, "tensorrt-rtx", Precision.FP16).schedule == Schedule(2, 1)
    (first, _) = built.engines
    alone = replace(built, target=msgspec.structs.replace(built.target, engines=[first]))
    assert choose_schedule(alone, "tensorrt-rtx", Precision.FP16).schedule == Schedule(2, 4)
    assert choose_schedule(alone, "tensorrt-rtx", Precision.FP32).schedule == Schedule(2, 1)
    with Session.open(exported, schedule=Schedule(2, 100)) as session:
        assert session.schedule == Schedule(2, 16)


def test_smaller_schedules_need_clearly_less_each(built: Bundle) -> None:
    assert smaller_schedules(built, TENSORRT_RTX, Precision.FP16, Schedule(2, 4)) == [Schedule(2, 1)]
    assert smaller_schedules(built, TENSORRT_RTX, Precision.FP16, Schedule(2, 1)) == []
    cpu = backend_named("onnxruntime")
    chain = [Schedule(0), *smaller_schedules(built, cpu, Precision.FP32, Schedule(0))]
    needed = [cpu.memory.sub_batch_bytes(built.manifest, schedule, Precision.FP32) for schedule in chain]
    assert all(after <= 0.75 * before for before, after in pairwise(needed))
    assert chain[-1].sub_batch == 1
    assert chain[-1].levels >= 3


def test_what_differs_is_the_likely_reason() -> None:
    orin, thor = ("Orin", "8.7"), ("Thor", "11.0")
    device = BuildDevice(architecture="aarch64", soc="Orin", gpu="Orin", compute_capability="8.7")
    record = build_record(version="10.3.0", device=device)
    assert why_not_loaded(record, "tensorrt 10.3.0", orin) == ""
    assert why_not_loaded(record, "tensorrt 10.16.1", thor) == (
        " (it was built with tensorrt 10.3.0, here is 10.16.1; it was built on Orin (8.7), here is Thor (11.0): "
        "build it again on this machine)"
    )
    portable = build_record(version="1.7.1")
    assert why_not_loaded(portable, "tensorrt_rtx 1.7.1", orin) == ""


@pytest.mark.parametrize("document", [b"[]", b"[1]", b"{}", b"not JSON", b"[" * 100_000])
def test_a_build_record_that_is_none_is_said_beside_why_the_engine_does_not_load(bundle: Path, document: bytes) -> None:
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    (engine,) = opened.engines
    (bundle / engine.record).write_bytes(document)
    opened = sealed(bundle, engines=[engine])
    plan = opened.content(engine.engine)

    class Refusing:
        __name__, __version__ = "tensorrt", "10.3.0"

        def __getattr__(self, name: str) -> Any:
            raise BackendError(f"does not load {plan!r}")

    with pytest.raises(BackendError, match=r"does not load b'plan' \(engines/.*\.json (is no record|cannot be read).*"):
        _loaded(Refusing(), opened, engine, engine.engine, 0)


def test_a_log_that_speaks_of_memory() -> None:
    log = BuildLog()
    log.add(1, "ERROR", "Error Code 2: OutOfMemory (Requested size was 4096 bytes.)")
    assert log.out_of_memory()
    log.clear()
    assert not log.out_of_memory()
    assert log.why() == "it gave no reason"


def test_backends_that_run_engines(exported: Bundle) -> None:
    assert [backend.name for backend in BACKENDS if backend.needs_engines] == ["tensorrt", "tensorrt-rtx"]
    with pytest.raises(InputError, match="onnxruntime runs graphs: no engine is built for it"):
        build_engine(exported, "onnxruntime")
    with pytest.raises(InputError, match="unknown backend 'abacus'; known are onnxruntime, "):
        build_engine(exported, "abacus")


def test_the_command_line_says_what_is_missing(cli: Cli, built: Bundle, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "frame.png")
    run = ("run", built.path, tmp_path / "frame.png", "-o", tmp_path / "out", "--precision", "fp16")
    if not gpus():
        result = cli(*run, "--backend", "tensorrt-rtx", "--sub-batch", 4)
        assert result.returncode == 3, result.stderr
        assert result.stderr == (
            "schedule: levels 2, sub-batch 4, reshape (asked for)\n"
            "memory, as predicted: 1.6 MiB beyond CUDA's context and the loaded kernels, which were not measured\n"
            "smp-deploy: there is no NVIDIA driver on this machine, or it is too old for this CUDA (error 35)\n"
        )
    result = cli(*run, "--backend", "tensorrt-rtx", "--levels", 3)
    assert result.returncode == 2
    command = f"smp-deploy build-engine {built.path} --fp16 --flavour tensorrt-rtx --levels 3 --lowering reshape"
    assert f"build it on this machine: {command} --sub-batch 1\n" in result.stderr
    result = cli(*run, "--allow-smaller", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["reductions"] == []
