"""``benchmarks/gpu_check.py`` on a machine without a GPU: everything is *not run*; its logic works on a CPU."""

# ruff: noqa: E402 - the script's folder is searched first

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
sys.path.append(str(SCRIPT.parent))

from gpu.copies import COPIES, copies, nodes_of, profiled_nodes
from gpu.page import page, rearrangement
from gpu.pytorch import FORMS, WHOLE, Form, Labelling, in_pytorch, training_step
from gpu.rates import FRAMES, fastest, frames_job, matrix_rate, trunk_time_ms
from gpu.results import OUT_OF_TIME, Clock, Job, Results, Row, run_jobs
from gpu.sessions import (
    BUDGET,
    PARITY,
    Bench,
    Subject,
    budget_job,
    budget_verdict,
    measured,
    refusal_verdict,
    schedule_job,
    subjects_of,
    verdict,
)

from converters.graphs.stages import Normalization, Normalize
from converters.networks import network_from_arch
from engines import Bundle, Lowering, Precision, Schedule, Session, plan
from engines.backends import backend_named
from engines.backends.onnxruntime.sessions import Provider
from engines.bundle.contents import record_of_file
from engines.bundle.manifest import MANIFEST_NAME, json_from_manifest
from engines.bundle.records import Check, Kind, Quantity, Status
from engines.devices.gpus import gpus
from engines.errors import BackendError, BundleError, InputError, WorkFailed
from engines.executors.device import DeviceExecutor
from engines.executors.timing import stage_times_ms
from engines.parity.checks import Question
from engines.proof import provenance_checks
from smp_deploy.benchmarking.device_memory import Gauge, PeakWatch, Taken
from tests.engines.executors.host_device import HostDevice, Mark
from tests.engines.executors.host_engine import frames, opener, session_on

MIB = 2**20
PHASES = [(0, 0), (2, 2), (0, 2)]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script, as a user runs it, from another folder."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


def cpu_subject(bundle: Bundle) -> Subject:
    """The bundle in ONNX Runtime on the CPU, in fp32."""
    return Subject("", bundle, backend_named("onnxruntime"), Precision.FP32)


def document(rows: list[Row], **head: Any) -> dict[str, Any]:
    """What a run of these rows writes."""
    named = {"gpu": "x", "machine": {"driver": "y"}, "complete": True, **head}
    return Results(named, lambda rows: {"rearrangement": rearrangement(rows)}, page, None, "x").document() | {
        "rows": [vars(row) for row in rows],
        "rearrangement": rearrangement(rows),
    }


def table(rows: list[Row], title: str) -> list[dict[str, str]]:
    """The rows of one table of the page, by its columns."""
    lines = page(document(rows)).partition(f"## {title}\n\n")[2].partition("\n\n")[0].splitlines()
    header, _, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in cells]


# The script as a whole.


@pytest.mark.skipif(bool(gpus()), reason="not run: this machine has a GPU")
def test_without_a_gpu_everything_is_not_run(tmp_path: Path) -> None:
    """With numpy and msgspec alone: neither torch, onnx nor a runtime is imported."""
    blocker = (
        "import runpy, sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'typer', 'rich', 'PIL', 'psutil'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['gpu_check.py', '--output', {str(tmp_path / 'results')!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", blocker], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "- schedules: there is no NVIDIA GPU: onnxruntime-cuda; tensorrt; tensorrt-rtx\n" in result.stdout
    assert "- pytorch: there is no NVIDIA GPU: PyTorch eager; torch.compile\n" in result.stdout
    assert not (tmp_path / "results").exists()


def test_the_whole_script_on_the_cpu(exported: Bundle, tmp_path: Path) -> None:
    """Two bundles: each row names its own. What a CPU does not have is not run, and says so."""
    other = shutil.copytree(exported.path, tmp_path / "other")
    arguments = (
        "--cpu",
        "--bundle",
        exported.path,
        "--bundle",
        other,
        "--repeats",
        1,
        "--output",
        tmp_path / "results",
    )
    result = run(*arguments, "--rows", "context", "matrix", BUDGET, FRAMES, COPIES, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (written,) = (tmp_path / "results").glob("*.json")
    found = json.loads(written.read_text())
    assert found["complete"]
    assert {name: facts["size"] for name, facts in found["bundles"].items()} == {
        exported.path.name: [64, 96],
        "other": [64, 96],
    }
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        by_kind.setdefault(row["kind"], []).append(row)
    assert {kind: len(rows) for kind, rows in by_kind.items()} == {
        "context": 1,
        "matrix": 1,
        BUDGET: 8,
        FRAMES: 2,
        COPIES: 2 * len(exported.manifest.trunks),
    }
    assert {row["bundle"] for row in by_kind[COPIES]} == {exported.path.name, "other"}
    assert {(row["status"], row["figures"]["copies"]) for row in by_kind[COPIES]} == {("passed", 0)}
    for row in by_kind[BUDGET]:
        # The labels were right; what was taken of a device is known of none.
        assert row["figures"]["agreement"] >= 0.9999
        assert (row["status"], row["reason"]) == ("not run", "nothing here measures what a device's memory grows by")
    shown = written.with_suffix(".md").read_text()
    assert shown in result.stdout
    assert f"| {exported.path.name} | onnxruntime | fp32 | levels 2, dilated | passed |" in shown


def test_what_does_not_fit_into_the_time_is_not_run(exported: Bundle, tmp_path: Path) -> None:
    result = run("--cpu", "--bundle", exported.path, "--minutes", 0, "--output", tmp_path / "results", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert not (tmp_path / "results").exists()
    rows = [line for line in result.stdout.splitlines() if line.endswith(f": not run: {OUT_OF_TIME}")]
    assert len(rows) > len(cpu_subject(exported).schedules())
    assert f"- schedules: {OUT_OF_TIME}: onnxruntime fp32 levels 2, sub-batch 4, dilated; " in result.stdout


def test_a_run_that_is_cut_leaves_what_it_had(exported: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--cpu", "--bundle", str(exported.path), "--repeats", "1"]
    with subprocess.Popen([*command, "--output", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # A row is said before it is written: when the third one is said, two have been.
        said = 0
        while said < 3:
            line = process.stdout.readline()
            assert line, "it ended by itself"
            said += line.startswith(f"{PARITY}: ")
        process.kill()
    (written,) = tmp_path.glob("*.json")
    found = json.loads(written.read_text())
    rows = [row for row in found["rows"] if row["kind"] == PARITY]
    assert [row["status"] for row in rows[:2]] == ["passed", "passed"]
    assert not found["complete"]
    shown = written.with_suffix(".md").read_text()
    assert "The run was cut before its end" in shown
    assert rows[0]["schedule"] in shown


def test_a_failed_parity_is_exit_code_1(bundle: Path, tmp_path: Path) -> None:
    """PyTorch's outputs are moved by a column, as if every prediction were."""
    opened = Bundle.open(bundle)
    case = opened.manifest.reference[0]
    np.save(bundle / case.logits, np.roll(np.load(bundle / case.logits), 1, axis=-1))
    files = opened.manifest.files | {case.logits: record_of_file(bundle / case.logits)}
    (bundle / MANIFEST_NAME).write_bytes(json_from_manifest(msgspec.structs.replace(opened.manifest, files=files)))
    arguments = ("--cpu", "--bundle", bundle, "--repeats", 1, "--rows", BUDGET)
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "Failed:\n\n- budgets: " in result.stdout
    assert "labels are shifted by" in result.stdout
    assert list(tmp_path.glob("*.json")) == []


# Jobs, and the time they may take.


def test_a_job_that_breaks_does_not_cost_the_others() -> None:
    def broken(row: Row) -> Row:
        raise ZeroDivisionError("nobody expected this")

    results = Results({"complete": False}, lambda rows: {}, lambda found: "", None, "x")
    jobs = [Job(Row("a", "first"), broken), Job(Row("a", "second"), lambda row: row.ended("passed"))]
    run_jobs(jobs, results, Clock(3600))
    assert [(row.what, row.status) for row in results.rows] == [("first", "failed"), ("second", "passed")]
    assert results.rows[0].reason == "broke: ZeroDivisionError: nobody expected this"


def test_the_longest_of_a_kind_says_what_fits() -> None:
    clock = Clock(3600)
    long, short = (Job(Row(PARITY, "x", precision=name), lambda row: row) for name in ("fp32", "fp16"))
    compiled = Job(Row("pytorch", "torch.compile"), lambda row: row, guess_s=4000)
    assert clock.allows(long)
    clock.took(long, 4000)
    clock.took(long, 1)
    assert [clock.allows(job) for job in (long, short, compiled)] == [False, True, False]


# Sessions.


def test_schedules_are_proven_and_timed(exported: Bundle) -> None:
    (subject,) = subjects_of("", exported, backend_named("onnxruntime"))
    assert subject.precision is Precision.FP32
    bench = Bench(None, repeats=1, matrix_rates={"fp32": 1e12})
    wanted = [*(Schedule(2, 4, lowering) for lowering in Lowering), Schedule(3, 4)]
    assert set(wanted) < set(subject.schedules())
    jobs = [schedule_job(subject, schedule, bench) for schedule in wanted]
    rows = [job.measure(job.row) for job in jobs]
    for index, (row, schedule) in enumerate(zip(rows, wanted, strict=True)):
        assert (row.what, row.precision, row.schedule, row.status) == ("onnxruntime", "fp32", str(schedule), "passed")
        assert row.figures["agreement"] >= 0.9999
        # Against PyTorch, and from the second on against the first schedule too.
        cases = len(exported.manifest.reference)
        assert row.figures["checks"] == (2 * cases if index else cases)
        operations = exported.manifest.frame_operations(exported.manifest.trunk_of(schedule))
        rate = operations / row.figures["latency_ms"] * 1000
        assert row.figures["operations_per_s"] == pytest.approx(rate)
        assert row.figures["share_of_matrix_rate"] == pytest.approx(rate / 1e12)
        assert row.figures["frame_to_frame_ms"] > 0
    (share,) = rearrangement(rows)
    assert share["schedule"] == "levels 2, sub-batch 4, reshape"
    json.dumps(document(rows))
    assert [line["schedule"] for line in table(rows, "Schedules")] == [str(schedule) for schedule in wanted]
    least = min(wanted, key=lambda schedule: rows[wanted.index(schedule)].figures["latency_ms"])
    assert fastest(rows, subject) == least


def test_memory_is_what_a_session_grew_by(exported: Bundle) -> None:
    """On a device in host memory: the peak is what the executor allocated, and nothing stays when it is closed."""
    device, schedule = HostDevice(), Schedule(2, 4)

    def used() -> int:
        with device.lock:
            return 7 * MIB + device.device_bytes

    row = measured(
        Row(PARITY, "x"),
        cpu_subject(exported),
        Bench(Gauge("host memory", used, sees_context=True), repeats=1),
        lambda: session_on(device, exported, schedule),
    )
    assert (row.status, row.reason) == ("passed", "")
    with opener(device, exported)(schedule) as executor:
        allocated = sum(size for purpose, size in executor.memory().items() if purpose != "pinned")
    assert row.figures["taken_bytes"] == row.figures["allocated_bytes"] == allocated > 0
    assert row.figures["stays_bytes"] == 0
    assert list(row.figures["stages_ms"]) == ["prepare", "cut", "trunk", "merge"]
    (line,) = table([row], "Schedules")
    assert line["taken, MiB"] == f"{allocated / MIB:.0f}"


@pytest.mark.parametrize("phase", ["opening", "first run", "running", "closing"])
def test_what_began_and_broke_is_a_failure(exported: Bundle, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """As an illegal memory access is, wherever the runtime says so; only what does not open is *not run*."""

    def broken(*_: object, **__: object) -> None:
        kind = WorkFailed if phase == "first run" else BackendError
        raise kind("an illegal memory access was encountered")

    monkeypatch.setattr(Session, {"running": "predict", "closing": "close"}.get(phase, "open"), broken)
    bench = Bench(None, repeats=1)
    job = schedule_job(cpu_subject(exported), Schedule(2), bench)
    row = job.measure(job.row)
    assert row.status == ("not run" if phase == "opening" else "failed")
    assert "an illegal memory access" in row.reason
    shown = f"\n{row.status.capitalize()}:\n\n- schedules: {row.reason}: onnxruntime fp32 levels 2"
    assert shown in page(document([row]))
    if phase == "opening":
        # A backend that does not open here is not tried again: the next engine would be built for nothing.
        monkeypatch.undo()
        assert job.measure(job.row) == row


def check(value: float | None, reason: str = "") -> Check:
    """Of labels, where 0.999 must agree."""
    question = Question(
        kind=Kind.HOP, name="a -> b", subject="a frame", quantity=Quantity.LABEL_AGREEMENT, tolerance=0.999
    )
    return question.not_run(reason) if value is None else question.measured(value, reason)


def test_the_verdict_of_checks_by_hand() -> None:
    assert verdict([check(1.0), check(None, "dead")]) == ("passed", "")
    assert verdict([check(None, "dead"), check(None, "dead")]) == ("not run", "dead")
    assert verdict([]) == ("not run", "there was nothing to check")
    status, reason = verdict([check(1.0), check(0.5, "shifted"), check(None, "dead")])
    assert status == "failed"
    assert reason == "1 of 3 checks: a -> b, a frame: 0.5 where 0.999 is held, label agreement; shifted"


@pytest.mark.parametrize(
    ("taken", "status", "reason"),
    [
        (1024 * MIB, "passed", ""),
        (1024 * MIB + 1, "failed", "took 1024 MiB of 1024"),
        (1500 * MIB, "failed", "took 1500 MiB of 1024"),
        (None, "not run", "nothing here measures what a device's memory grows by"),
    ],
)
def test_the_verdict_of_a_budget_by_hand(taken: int | None, status: str, reason: str) -> None:
    assert budget_verdict(1024 * MIB, taken) == (status, reason)


def test_a_refusal_must_name_what_would_suffice(exported: Bundle) -> None:
    with pytest.raises(InputError) as refused:
        plan(exported, memory="1MiB")
    assert refusal_verdict(refused.value) == ("refused", str(refused.value))
    assert refusal_verdict(InputError("it does not fit"))[0] == "failed"
    assert refusal_verdict(BundleError("the bundle has no fp16 trunk of 3.2 MiB"))[0] == "not run"
    job = budget_job(cpu_subject(exported), "1MiB", Bench(None, repeats=1))
    row = job.measure(job.row)
    assert (row.status, row.schedule) == ("refused", "budget 1MiB")
    assert "the smallest budget that would is" in row.reason
    assert table([row], "Budgets") == [
        {"what": "onnxruntime", "precision": "fp32", "schedule": "budget 1MiB", "status": "refused"}
    ]


def test_a_peak_between_two_states_is_seen() -> None:
    used = [3]
    with PeakWatch(Gauge("a list", lambda: used[0], sees_context=True)) as watch:
        used[0] = 11
        until = time.monotonic() + 60
        while watch.peak != 11:
            assert time.monotonic() < until, "the thread never asked"
            time.sleep(0.001)
        used[0] = 5
    watch.stop()
    used[0] = 4
    assert watch.peak == 11
    # 3 before, 4 in the end, 11 between: 1 stays, as the context and kernels do, and 7 were the session's.
    assert watch.taken() == Taken(session=7, stays=1)
    with PeakWatch(None) as nothing:
        pass
    assert (nothing.peak, nothing.taken()) == (None, None)


def test_engines_have_the_records_of_the_command(bundle: Path) -> None:
    """Hashes of graphs, weights and plans: without them nobody could say what an engine was built from."""
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    subject = Subject("", Bundle.open(bundle), backend_named("tensorrt-rtx"), Precision.FP16)
    subject.with_engine(levels=2, sub_batch=4)
    opened = Bundle.open(bundle)
    assert subject.bundle.engines == opened.engines
    (found,) = provenance_checks(opened, opened.engines)
    assert found.status is Status.PASSED


# Rates.


class ClockedDevice(HostDevice):
    """Every piece of work takes a millisecond, but for the uploading of frames: a mark is passed when it is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0.0
        self.passed_ms: dict[Any, float] = {}

    def queue(self, work: Any, stream: Any) -> None:
        def timed() -> None:
            work()
            if isinstance(work, Mark):
                self.passed_ms[work] = self.now_ms
            else:
                self.now_ms += 1

        super().queue(timed, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        super().elapsed_ms(start, end)
        return self.passed_ms[end.mark] - self.passed_ms[start.mark]


def test_stages_of_a_sub_batch_are_timed_in_order(exported: Bundle) -> None:
    """The time of a stage is that of its own work: a phase is a copy to cut and, beside what is kept, one to merge."""
    device = ClockedDevice()
    with opener(device, exported)(Schedule(2, 3)) as executor:
        held = device.leaked
        one, three = (stage_times_ms(executor, frames(1)[0], phases) for phases in (PHASES[:1], PHASES))
        assert list(one) == list(three) == ["prepare", "cut", "trunk", "merge"]
        assert three["cut"] == 3 * one["cut"] == 3
        assert three["merge"] - one["merge"] == 2
        assert min(*one.values(), *three.values()) > 0
        assert (one["prepare"], one["trunk"]) == (three["prepare"], three["trunk"])
        assert device.leaked == held
    assert device.leaked == 0


@pytest.mark.parametrize(("schedule", "sub_batches"), [(Schedule(2, 3), 6), (Schedule(0), 1)], ids=str)
def test_the_trunk_alone_is_timed_for_a_whole_frame(exported: Bundle, schedule: Schedule, sub_batches: int) -> None:
    """A run of it takes as long on this device for any number of phases."""
    device = ClockedDevice()
    with session_on(device, exported, schedule) as session:
        assert isinstance(session.executor, DeviceExecutor)
        held, image = device.leaked, frames(1)[0]
        wanted = session.predict(image)
        groups = session.grid.sub_batches(schedule.sub_batch)
        once = stage_times_ms(session.executor, image, groups[0])["trunk"]
        assert trunk_time_ms(session.executor, image, groups) == sub_batches * once > 0
        assert device.leaked == held
        # Nothing of it is left to be in the way of what comes after.
        np.testing.assert_array_equal(deque(session.predict_all([image] * 3), maxlen=1)[0], wanted)
    assert device.leaked == 0


def test_frames_against_the_trunk_need_a_schedule_and_a_device(exported: Bundle) -> None:
    subject, bench = cpu_subject(exported), Bench(None, repeats=1)
    rows: list[Row] = []
    job = frames_job(subject, bench, rows)
    assert job.measure(job.row).reason == "no schedule was measured"
    rows += [subject.row(PARITY, Schedule(2)).ended("passed", latency_ms=3.0)]
    rows += [subject.row(PARITY, Schedule(3)).ended("failed", latency_ms=1.0)]
    assert fastest(rows, subject) == Schedule(2)
    assert "known on a device with marks in its work alone" in job.measure(job.row).reason


def test_the_rate_of_matrix_products_is_positive() -> None:
    assert matrix_rate(Precision.FP32, 64, "cpu", repeats=1) > 0


def test_what_the_rearrangement_takes_by_hand() -> None:
    """8 ms with reshapes, 5 ms in the best form: 3 of 8 are rearrangement. A backend without all forms has no share."""

    def row(what: str, lowering: str, latency_ms: float, bundle: str = "") -> Row:
        schedule = f"levels 2, sub-batch 4, {lowering}"
        return Row(PARITY, what, bundle, "fp16", schedule, "passed", figures={"latency_ms": latency_ms})

    rows = [row("a", "reshape", 8.0), row("a", "strided", 6.0), row("a", "dilated", 5.0), row("b", "reshape", 9.0)]
    # Another bundle's are not compared with these.
    rows.append(row("a", "dilated", 1.0, "other"))
    share = {"backend": "a", "bundle": "", "precision": "fp16", "schedule": "levels 2, sub-batch 4, reshape"}
    assert rearrangement(rows) == [{"share": 0.375, **share}]
    assert "- a fp16 levels 2, sub-batch 4, reshape: 37.5%\n" in page(document(rows))


# Copies between CPU and GPU.


def node(name: str, operator: str, shape: list[int], *, cat: str = "Node") -> dict[str, Any]:
    """An event of the profiler."""
    return {"cat": cat, "name": name, "args": {"op_name": operator, "output_type_shape": [{"float": shape}]}}


def test_copies_are_named() -> None:
    events = [
        node("model_run", "", [], cat="Session"),
        node("Memcpy_token_3_kernel_time", "MemcpyToHost", [1, 3, 64]),
        node("Memcpy_token_3_fence_before", "MemcpyToHost", [1, 3, 64]),
        node("/conv1/Conv_kernel_time", "Conv", [1, 8, 16, 24]),
    ]
    nodes = nodes_of([*events, *events])
    assert len(nodes) == 2
    assert copies(nodes) == ["Memcpy_token_3 (MemcpyToHost, 768 bytes)"]


@pytest.mark.parametrize("levels", [2, 3])
def test_a_trunk_on_the_cpu_copies_nothing(exported: Bundle, levels: int) -> None:
    nodes = profiled_nodes(exported, exported.manifest.trunk(levels), Precision.FP32, Provider.CPU)
    assert any(found["args"]["op_name"] == "Conv" for found in nodes)
    assert copies(nodes) == []


# PyTorch beside it.


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_in_pytorch_gives_the_labels_of_the_network(exported: Bundle, form: Form, frame: np.ndarray) -> None:
    torch.manual_seed(0)
    network = network_from_arch("smp-resnet18", width=8).eval()
    normalize = Normalize(Normalization())
    with torch.no_grad():
        expected = network(normalize(torch.from_numpy(frame))[None])[0].argmax(0).numpy()
    labels = Labelling(exported, form, Precision.FP32, "cpu", compiled=False)(frame)
    assert (labels.dtype, labels.shape) == (np.uint8, (64, 96))
    assert len(np.unique(expected)) > 1
    assert (labels == expected).mean() > 0.999


def test_a_network_that_cannot_be_built_anew_is_not_run(exported: Bundle) -> None:
    network = msgspec.structs.replace(exported.manifest.network, source="tests.networks:UnevenNetwork", width=None)
    own = replace(exported, manifest=msgspec.structs.replace(exported.manifest, network=network))

    def timed() -> dict[str, Any]:
        Labelling(own, WHOLE, Precision.FP32, "cpu", compiled=False)
        return {}

    row = in_pytorch(Row("pytorch", "PyTorch eager"), "cpu", timed)
    assert (row.status, row.reason) == ("not run", "nothing says how to build a tests.networks:UnevenNetwork anew")


def test_what_pytorch_refuses_is_not_run() -> None:
    def refused() -> dict[str, Any]:
        raise RuntimeError("there is no compiler\nand this is a long story")

    row = in_pytorch(Row("pytorch", "torch.compile"), "cpu", refused)
    assert (row.status, row.reason) == ("not run", "there is no compiler")


def test_a_step_of_training_learns() -> None:
    step = training_step("cpu", crop=64, width=8)
    losses = [step() for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(np.log(19), abs=1)


# Machines without an index.


def fat_binary(*entries: tuple[int, bytes]) -> bytes:
    """Entries of (architecture, code), as CUDA's compiler lays them out."""
    body = b""
    for architecture, code in entries:
        header = struct.pack("<HHIQ", 2, 1, 64, len(code)) + bytes(12) + struct.pack("<I", architecture)
        body += header.ljust(64, b"\1") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_a_library_keeps_one_architecture(tmp_path: Path) -> None:
    magic = struct.pack("<I", 0xBA55ED50)
    parts = [b"head", magic, b"not a binary", fat_binary((80, b"a" * 24), (90, b"b" * 8), (90, b"c" * 16)), b"between"]
    parts += [fat_binary((75, b"d" * 8)), b"tail", magic]
    library, pruned = tmp_path / "library.so", tmp_path / "pruned.so"
    library.write_bytes(b"".join(parts))
    script = [sys.executable, str(ROOT / "benchmarks" / "air_gapped" / "prune_fatbins.py"), str(library), str(pruned)]
    subprocess.run([*script, "90"], check=True, capture_output=True)
    assert pruned.read_bytes() == b"".join(parts).replace(b"a" * 24, bytes(24)).replace(b"d" * 8, bytes(8))
    refused = subprocess.run([*script, "89"], check=False, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (1, "the library has no code for 89; it has 75, 80, 90\n")


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("xz") is None, reason="not run: needs bash and xz")
def test_what_was_packed_is_found(tmp_path: Path) -> None:
    """What ``pack.sh`` writes, by hand: a package and the library that travels alone."""
    package = tmp_path / "site" / "onnxruntime" / "capi"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("found = 'as packed'\n")
    packed = tmp_path / "packed"
    packed.mkdir()
    shutil.copy(ROOT / "benchmarks" / "air_gapped" / "unpack.sh", packed)
    subprocess.run(["tar", "cJf", packed / "packages.tar.xz", "-C", tmp_path / "site", "."], check=True)
    (tmp_path / "cuda.so").write_bytes(b"kernels")
    with (packed / "cuda.so.xz").open("wb") as stream:
        subprocess.run(["xz", "-c", tmp_path / "cuda.so"], check=True, stdout=stream)
    target = tmp_path / "with a space"
    commands = f"set -eu; . packed/unpack.sh '{target}'; python3 -c 'import onnxruntime; print(onnxruntime.found)'"
    result = subprocess.run(["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "as packed\n"), result.stderr
    library = target / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    assert library.read_bytes() == b"kernels"
    usage = subprocess.run(
        ["bash", ROOT / "benchmarks" / "air_gapped" / "pack.sh", "-h"], capture_output=True, text=True, check=True
    )
    assert "-a ARCHITECTURE" in usage.stdout
