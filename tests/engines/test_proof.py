"""A backend against the stored outputs, without PyTorch and onnx."""

from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines import Bundle, OutputKind, Precision, Session
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU, OnnxRuntimeCpu
from engines.backends.onnxruntime.cuda import OnnxRuntimeCuda
from engines.backends.tensorrt.records import held_engine
from engines.bundle.contents import record_of
from engines.bundle.records import (
    BuildRecord,
    Kind,
    Quantity,
    Status,
    Tolerance,
    Validation,
    record_from_json,
    verdict_of,
)
from engines.errors import BackendError, InputError, OutputError
from engines.executors.base import Executor
from engines.parity.comparison import share_of_ties
from engines.parity.tolerances import TOLERANCES, tolerance_of
from engines.proof import backend_checks, prove, provenance_checks
from engines.schedules.schedule import Schedule
from tests.engines.executors.host_device import HostDevice
from tests.engines.executors.host_engine import opener
from tests.records import build_record


def test_onnxruntime_proves_itself(exported: Bundle) -> None:
    (check,) = backend_checks(exported, ONNXRUNTIME_CPU, Precision.FP32, [Schedule(2, 4)])
    assert check.status is Status.PASSED
    assert check.tolerance == TOLERANCES[Precision.FP32].label_agreement
    assert check.hop == ("PyTorch", "onnxruntime, fp32")
    assert check.graph == "trunk.onnx"
    assert "sub-batch 4" in check.subject


def test_the_record_has_the_versions_of_every_runtime_that_is_installed(exported: Bundle) -> None:
    installed = {held.name.replace("_", "-"): held.version for held in distributions()}
    here = prove(exported, "onnxruntime", keep=False).tools.here
    runtimes = {"onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"}
    named = {"smp-deploy", "numpy", "torch", "onnx", *runtimes}
    assert here == {name: installed[name] for name in named & installed.keys()}
    assert here.keys() & runtimes


def test_what_rounds_nothing_proves_nothing_of_fp16(exported: Bundle) -> None:
    """ONNX Runtime computes fp16 graphs in fp32 on a CPU."""
    validation = prove(exported, "onnxruntime", Precision.FP16, keep=False)
    (check,) = validation.checks
    assert (check.status, check.value, check.graph) == (Status.NOT_RUN, None, "trunk.fp16.onnx")
    assert "rounds nothing" in check.detail
    assert "validation of the whole bundle" in check.detail
    assert validation.verdict is Status.NOT_RUN
    assert len(validation.not_proven) == 1


def right_record(bundle: Bundle, precision: Precision) -> BuildRecord:
    """Of an engine that was built from the bundle's files."""
    manifest = bundle.manifest
    graph = manifest.trunk().graphs[precision.graph]
    return build_record(
        precision=precision,
        graph=graph,
        graph_sha256=manifest.files[graph].sha256,
        prepare_sha256=manifest.files[manifest.prepare].sha256,
        weights_sha256=manifest.files[manifest.weights].sha256,
        plan_sha256=record_of(b"plan").sha256,
        prepare_plan_sha256=record_of(b"prepare").sha256,
    )


def with_engine(bundle: Bundle, backend: str, precision: Precision, schedule: Schedule) -> Bundle:
    record = right_record(bundle, precision)
    return bundle.with_engine(backend, precision, schedule, plan=b"plan", prepare=b"prepare", record=record)


def test_the_engine_of_another_backend_proves_nothing(bundle: Path) -> None:
    """Where an engine comes from is no result, least of all of another runtime."""
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    validation = prove(opened, "onnxruntime", Precision.FP16, keep=False)
    assert [(check.kind, check.status) for check in validation.checks] == [(Kind.HOP, Status.NOT_RUN)]
    assert validation.verdict is Status.NOT_RUN


def test_only_the_engine_that_is_proven_is_looked_at(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for precision, schedule in (
        (Precision.FP32, Schedule(2)),
        (Precision.FP16, Schedule(2)),
        (Precision.FP32, Schedule(2, 4)),
    ):
        opened = with_engine(opened, "onnxruntime", precision, schedule)
    validation = prove(opened, "onnxruntime", schedule=Schedule(2, 4), keep=False)
    (provenance,) = [check for check in validation.checks if check.kind is Kind.PROVENANCE]
    assert (provenance.status, provenance.subject) == (Status.PASSED, opened.engines[2].engine)
    # By itself it makes no verdict.
    assert verdict_of([provenance]) is Status.NOT_RUN
    assert verdict_of(validation.checks) is Status.PASSED


def test_the_record_names_the_graph_that_ran_and_its_tolerances(bundle: Path) -> None:
    """A backend may compute another graph in a precision, as OpenVINO does in bf16."""

    class Hinted(OnnxRuntimeCpu):
        precisions = frozenset({Precision.BF16})

        def refusal(self, precision: Precision) -> str | None:
            return None

        def graph_precision(self, precision: Precision) -> Precision:
            return Precision.FP32

        def _open(self, bundle: Bundle, precision: Precision, *named: object) -> Executor:
            return super()._open(bundle, Precision.FP32, *named)  # type: ignore[arg-type]

    validation = prove(bundle, Hinted(), Precision.BF16, keep=False)
    (check,) = validation.checks
    assert (check.graph, check.precision) == ("trunk.onnx", Precision.BF16)
    assert validation.tolerances[Precision.BF16] == TOLERANCES[Precision.BF16]
    assert check.tolerance == TOLERANCES[Precision.BF16].label_agreement


@pytest.mark.parametrize("method", ["predict", "close"])
def test_what_breaks_in_the_open_session_is_a_failure(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The session was there and its work began: an illegal memory access is no lack of a GPU."""

    def broken(*_: object, **__: object) -> None:
        raise BackendError("an illegal memory access was encountered")

    monkeypatch.setattr(Session, method, broken)
    checks = list(backend_checks(exported, ONNXRUNTIME_CPU, Precision.FP32, [Schedule(2)]))
    assert checks[-1].status is Status.FAILED
    assert checks[-1].value is None
    assert "an illegal memory access" in checks[-1].detail


def test_what_breaks_in_the_first_run_of_an_opening_is_a_failure(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines were loaded and ran: no lack of a GPU."""

    def opened(backend: object, bundle: Bundle, precision: object, schedule: Schedule, *named: object) -> object:
        return opener(HostDevice(), bundle, broken=True)(schedule)

    monkeypatch.setattr(OnnxRuntimeCpu, "_open", opened)
    validation = prove(exported, "onnxruntime", schedule=Schedule(2, 100), keep=False)
    (check,) = validation.checks
    assert (check.status, check.value, validation.verdict) == (Status.FAILED, None, Status.FAILED)
    assert "an illegal memory access" in check.detail
    assert "sub-batch 16" in check.subject


DEAD = {
    "zeros": lambda shape: np.zeros(shape, np.float32),
    "ones": lambda shape: np.ones(shape, np.float32),
}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.parametrize("kind", list(OutputKind))
@pytest.mark.parametrize("dead", DEAD)
def test_an_output_that_is_dead_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, kind: OutputKind, dead: str
) -> None:
    """Whatever the bundle gives: also in int8, whose logits are hardly held to anything."""
    from tests.converters.verification.faults import sealed

    opened = sealed(bundle, outputs=kind)
    open_session = Session.open
    monkeypatch.setattr(Session, "open", lambda *arguments, **_: open_session(*arguments))

    def predict(session: Session, image: NDArray[np.uint8]) -> NDArray[np.generic]:
        classes = len(opened.manifest.classes)
        shape = image.shape[:2] if kind is OutputKind.LABELS else (classes, *image.shape[:2])
        return DEAD[dead](shape).astype(np.uint8 if kind is OutputKind.LABELS else np.float32)

    monkeypatch.setattr(Session, "predict", predict)
    checks = list(backend_checks(opened, ONNXRUNTIME_CPU, precision, [Schedule(2)]))
    wanted = {
        OutputKind.LABELS: [],
        OutputKind.LOGITS: [Quantity.LOGIT_ERROR],
        OutputKind.PROBABILITIES: [Quantity.PROBABILITY_ERROR],
    }
    assert [check.quantity for check in checks] == [*wanted[kind], Quantity.LABEL_AGREEMENT]
    assert all(check.failed for check in checks)


@pytest.mark.parametrize(("off_by", "status"), [(0.0, Status.FAILED), (1e-6, Status.FAILED), (7e-4, Status.PASSED)])
def test_single_precision_does_not_pass_for_tf32(bundle: Path, off_by: float, status: Status) -> None:
    """On a GPU without the units, or where the setting is ignored, results are those of fp32: too near PyTorch's."""
    from tests.converters.verification.faults import sealed

    opened = sealed(bundle, outputs=OutputKind.LOGITS)
    whole = np.zeros((len(opened.manifest.classes), *opened.manifest.input.size), np.float32)
    for case in opened.manifest.reference:
        (row, column), (h, w) = case.phase, case.window
        whole[:, row::h, column::w] = opened.reference_arrays(case)[1] * (1 + off_by)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntimeCpu, "precisions", frozenset(Precision))
        patch.setattr(Session, "predict", lambda session, image: whole)
        checks = list(backend_checks(opened, ONNXRUNTIME_CPU, Precision.TF32, [Schedule(2)]))
    quantities = [Quantity.LOGIT_ERROR, Quantity.LABEL_AGREEMENT, Quantity.ROUNDING]
    assert [check.quantity for check in checks] == quantities * len(opened.manifest.reference)
    assert {check.status for check in checks[2::3]} == {status}
    assert {check.tolerance for check in checks[2::3]} == {1e-5}
    assert all(check.status is Status.PASSED for check in checks if check.quantity is not Quantity.ROUNDING)


def test_labels_do_not_tell_tf32_from_fp32(exported: Bundle) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntimeCpu, "precisions", frozenset(Precision))
        labels, used = backend_checks(exported, ONNXRUNTIME_CPU, Precision.TF32, [Schedule(2)])
    assert (labels.status, used.status) == (Status.PASSED, Status.NOT_RUN)
    assert "this bundle does not give them" in used.detail


def test_a_reference_of_one_class_proves_nothing_of_labels(bundle: Path) -> None:
    """A dead output would agree with it everywhere."""
    from tests.converters.verification.faults import sealed

    (case,) = Bundle.open(bundle).manifest.reference
    logits = np.load(bundle / case.logits)
    opened = sealed(bundle, reference=[case])
    labels = np.zeros(opened.manifest.input.size, np.uint8)
    logits[:] = 0
    logits[0] = 1
    np.save(bundle / case.logits, logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "predict", lambda session, image: labels)
        (check,) = backend_checks(sealed(bundle), ONNXRUNTIME_CPU, Precision.FP32, [Schedule(2)])
    assert check.status is Status.NOT_RUN
    assert "one class has 100.000% of PyTorch's labels here" in check.detail


def test_the_record_of_a_proof_is_kept_beside_the_bundles_own(bundle: Path) -> None:
    told: list[object] = []
    validation = prove(bundle, "onnxruntime", Precision.FP32, on_check=told.append, tolerances={"label_agreement": 0.5})
    path = bundle / "reports" / "validation-onnxruntime-fp32-l2-b1-reshape.json"
    assert record_from_json(path.read_bytes(), Validation, path) == validation
    assert validation.verdict is Status.PASSED
    assert validation.counts == {Status.PASSED: 1, Status.FAILED: 0, Status.NOT_RUN: 0}
    assert told == validation.checks
    assert [check.tolerance for check in validation.checks] == [0.5]
    assert validation.overrides == {"label_agreement": 0.5}


def test_a_record_that_cannot_be_kept_is_said_before_the_work(bundle: Path) -> None:
    (bundle / "reports").write_text("in the way")
    told: list[object] = []
    with pytest.raises(OutputError, match=r"cannot write to .*reports: it is a link or no folder"):
        prove(bundle, "onnxruntime", Precision.FP32, on_check=told.append)
    assert told == []


def test_wrong_outputs_fail_and_are_located(bundle) -> None:  # type: ignore[no-untyped-def]
    from tests.converters.verification.faults import sealed

    opened = Bundle.open(bundle)
    (case,) = opened.manifest.reference
    logits = np.load(bundle / case.logits)
    np.save(bundle / case.logits, np.roll(logits, -1, 2))
    (check,) = backend_checks(sealed(bundle), ONNXRUNTIME_CPU, Precision.FP32, [Schedule(2)])
    assert check.status is Status.FAILED
    assert check.location == "onnxruntime: labels are shifted by (0, 1) (rows, columns)"


def test_tolerances_can_be_replaced_one_by_one(exported: Bundle) -> None:
    (check,) = backend_checks(
        exported, ONNXRUNTIME_CPU, Precision.FP32, [Schedule(2)], overrides={"label_agreement": 0.5}
    )
    assert check.tolerance == 0.5
    assert tolerance_of(Precision.FP32, {"logits": 0.25}).label_agreement == TOLERANCES[Precision.FP32].label_agreement
    assert Tolerance(logits=1e-5, label_agreement=1, ties=0, absolute=0.5).of_logits(10) == pytest.approx(0.05 + 1e-5)


def test_what_cannot_be_compared_is_an_error(exported: Bundle) -> None:
    with pytest.raises(InputError, match="unknown backend 'abacus'"):
        prove(exported, "abacus", keep=False)


class OnHostDevice(OnnxRuntimeCuda):
    """ONNX Runtime's CPU under the device executor, as a GPU's backend. One schedule may be wrong."""

    name = "host-device"

    def __init__(self, wrong: Schedule | None = None) -> None:
        self.device_of_host = HostDevice()
        self.wrong = wrong

    def schedules(self, bundle: Bundle, precision: Precision) -> list[Schedule]:
        """A few: all take minutes here."""
        return [Schedule(2, 4), Schedule(2, 16), Schedule(0), Schedule(3, 5)]

    def device_title(self, device: object) -> str:
        return "the host device"

    def runtime(self) -> str:
        return "none"

    def _open(self, bundle: Bundle, precision: Precision, schedule: Schedule, *named: object) -> Executor:
        executor = opener(self.device_of_host, bundle)(schedule)
        if schedule == self.wrong:
            result = executor.result

            def every_other_column(slot: int) -> NDArray[np.uint8]:
                labels = result(slot)
                labels[:, 1::2] = 0
                return labels

            executor.result = every_other_column  # type: ignore[method-assign]
        return executor


def test_a_gpu_is_proven_in_every_schedule_and_phase(exported: Bundle) -> None:
    backend = OnHostDevice()
    checks = prove(exported, backend, keep=False).checks
    assert [check.status for check in checks] == [Status.PASSED] * 7
    hops = [check.hop for check in checks]
    assert hops.count(("PyTorch", "host-device, fp32")) == 4
    first = "host-device, fp32, levels 2, sub-batch 4, reshape"
    assert hops[2::2] == [(first, str(schedule)) for schedule in backend.schedules(exported, Precision.FP32)[1:]]
    # What is named is what is proven.
    (check,) = prove(exported, backend, schedule=Schedule(2, 2), keep=False).checks
    assert "sub-batch 2" in check.subject


def test_a_schedule_that_is_wrong_differs_from_the_others(exported: Bundle) -> None:
    """Here PyTorch's outputs are of all phases and see it, too; those of a large network are of one."""
    validation = prove(exported, OnHostDevice(Schedule(0)), keep=False)
    of_pytorch, of_others = (check for check in validation.checks if check.failed)
    assert of_pytorch.hop == ("PyTorch", "host-device, fp32")
    assert of_others.hop == ("host-device, fp32, levels 2, sub-batch 4, reshape", "levels 0, sub-batch 1, reshape")
    assert of_others.value is not None
    assert of_others.value < 0.6
    # Twice what each may be off, and near ties.
    assert 0.99 < of_others.tolerance <= 0.9998
    assert validation.verdict is Status.FAILED


def test_a_schedule_that_does_not_open_was_not_run(exported: Bundle) -> None:
    """An engine of another GPU, say. The others are proven all the same; where none opens, it is an error."""

    class Partly(OnHostDevice):
        opens: tuple[int, ...] = (0,)

        def _open(self, bundle: Bundle, precision: Precision, schedule: Schedule, *named: object) -> Executor:
            if schedule.levels not in self.opens:
                raise BackendError("it was built on another GPU")
            return super()._open(bundle, precision, schedule, *named)

    backend = Partly()
    checks = prove(exported, backend, keep=False).checks
    assert [check.status for check in checks] == [Status.PASSED, *[Status.NOT_RUN] * 3]
    assert {check.detail for check in checks[1:]} == {"it was built on another GPU"}
    backend.opens = ()
    with pytest.raises(BackendError, match="it was built on another GPU"):
        prove(exported, backend, keep=False)


def test_an_engine_in_tf32_is_of_the_graph_in_fp32(bundle: Path) -> None:
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.TF32, Schedule(2))
    (engine,) = Bundle.open(bundle).engines
    assert engine.precision is Precision.TF32
    (check,) = provenance_checks(opened, [engine])
    assert check.status is Status.PASSED


def test_near_ties_are_counted_by_hand() -> None:
    """Three pixels whose best two of three logits are 0.1, 1 and 4 apart; the largest, about their mean, is 4."""
    logits = np.array([[[0.0, 0.0, 6.0]], [[0.1, 1.0, 2.0]], [[-0.1, -1.0, -2.0]]], np.float32)
    assert np.abs(logits - logits.mean(0)).max() == 4
    assert share_of_ties(logits, 0.02) == pytest.approx(1 / 3)
    assert share_of_ties(logits, 0.2) == pytest.approx(2 / 3)
    assert share_of_ties(logits, 0.0) == 0
    assert share_of_ties(logits[:1], 0.2) == 0


def test_an_engine_does_not_vouch_for_itself(bundle: Path) -> None:
    """Other bytes take its place, and their hash is renewed: the record is of another engine."""
    from tests.converters.verification.faults import sealed

    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    (engine,) = opened.engines
    identity = {"graph_sha256": opened.files["trunk.fp16.onnx"].sha256}
    held = held_engine(opened, identity)
    assert held is not None
    assert held[0] == engine
    (bundle / engine.engine).write_bytes(b"evil")
    again = sealed(bundle)
    assert held_engine(again, identity) is None
    (check,) = provenance_checks(again, again.engines)
    assert check.failed
    assert check.location == f"{engine.engine}: built from other plan"
