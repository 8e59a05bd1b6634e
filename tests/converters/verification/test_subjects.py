"""Bundles that are right though they look unusual: many classes, no layer at the input, engines for other machines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
from torch import nn

from converters.exporting import export
from converters.pooling import MergePool2d, SplitPool2d
from converters.verification import Findings, Frame, Subject, checks_of, engine_hops, locating, reference_frames
from converters.verification import subject as subjects
from converters.verification.chain import whole_checks
from converters.verification.layers import _sample
from converters.verification.layouts import layout_checks
from converters.verification.precision_search import searched_precision
from converters.verification.runs import TrunkRun
from converters.verification.small_frames import small_frame_checks
from converters.verification.subject import refusal
from converters.verification.validate import validate
from engines import Bundle, OutputKind, Precision, Schedule, Session
from engines.backends.onnxruntime.cpu import OnnxRuntimeCpu
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.records import Check, Kind, Status
from engines.devices.gpus import Gpu
from engines.errors import BackendError, OutOfMemory, WorkFailed
from engines.schedules.phases import PhaseGrid
from tests.converters.verification.faults import sealed
from tests.networks import with_statistics
from tests.records import build_record

SIZE = (16, 24)


class Begins(nn.Module):
    """What stands before the first convolution is the network's own: a batch norm, or a split."""

    def __init__(self, first: nn.Module, classes: int) -> None:
        super().__init__()
        self.first, self.conv = first, nn.Conv2d(3, classes, 3, padding=1)
        self.split = first if isinstance(first, SplitPool2d) else SplitPool2d(2)
        self.merge = MergePool2d(self.split)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.first(x))
        return self.merge(x if self.split is self.first else self.split(x))


def exported(path: Path, network: nn.Module, outputs: OutputKind = OutputKind.LABELS) -> Bundle:
    return export(network, path / "own", size=SIZE, outputs=outputs)


def made(subject: Subject) -> tuple[list[Check], Findings]:
    """All checks, and what they have seen."""
    checks, making = [], checks_of(subject)
    while True:
        try:
            checks.append(next(making))
        except StopIteration as end:
            return checks, end.value


@pytest.mark.parametrize("first", [lambda: nn.BatchNorm2d(3), lambda: SplitPool2d(2)], ids=["norm", "split"])
def test_what_a_network_does_to_its_input_is_no_fault(tmp_path: Path, first) -> None:  # type: ignore[no-untyped-def]
    bundle = exported(tmp_path, with_statistics(lambda: Begins(first(), 5), seed=0))
    checks = list(checks_of(Subject(bundle, reference_frames(bundle))))
    assert [check for check in checks if check.failed] == []
    assert [check.status for check in checks if "normalised by" in check.name] == [Status.PASSED] * 2


def test_more_classes_than_a_byte_counts(tmp_path: Path) -> None:
    network = with_statistics(lambda: Begins(nn.Conv2d(3, 3, 1), 300), seed=0)
    with torch.no_grad():
        # Most pixels belong to the last classes, which no byte can name.
        network.conv.bias[280:] += 2
    bundle = exported(tmp_path, network, OutputKind.LOGITS)
    subject = Subject(bundle, reference_frames(bundle))
    checks, findings = made(subject)
    assert [check for check in checks if check.failed] == []
    agreement = findings.agreements[Precision.FP16]
    assert agreement.confusion.sum() == agreement.pixels > 0
    assert agreement.confusion[280:].sum() > agreement.pixels / 2
    frames = [frame.image for frame in subject.frames]
    assert searched_precision(bundle, Precision.FP16, frames).before.passed


def test_an_engine_for_another_machine_ends_no_validation(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(bundle).with_engine(
        "tensorrt", Precision.FP16, Schedule(2), plan=b"plan", prepare=b"prepare", record=build_record()
    )
    monkeypatch.setattr(engine_hops, "gpus", lambda: [Gpu("a GPU", "9.0")])
    checks = list(engine_hops.engine_checks(Subject(opened, reference_frames(opened))))
    (last,) = [check for check in checks if check.name == "fp16 graph -> engine"]
    assert last.status is Status.NOT_RUN
    assert "tensorrt" in last.detail


def test_an_engine_that_loads_and_breaks_is_a_failure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An illegal memory access in the middle of a comparison is no lack of a GPU."""
    opened = Bundle.open(bundle).with_engine(
        "tensorrt", Precision.FP16, Schedule(2), plan=b"plan", prepare=b"prepare", record=build_record()
    )
    monkeypatch.setattr(engine_hops, "gpus", lambda: [Gpu("a GPU", "9.0")])
    running = Session.open(opened)

    def predict(*_: object) -> None:
        raise BackendError("an illegal memory access was encountered")

    monkeypatch.setattr(Session, "open", lambda *_, **__: running)
    monkeypatch.setattr(Session, "predict", predict)
    checks = list(engine_hops.engine_checks(Subject(opened, reference_frames(opened))))
    (last,) = [check for check in checks if check.kind is Kind.HOP]
    assert (last.status, last.value) == (Status.FAILED, None)
    assert "an illegal memory access" in last.detail


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WorkFailed("an illegal memory access was encountered"), Status.FAILED),
        (OutOfMemory("the GPU has no room"), Status.NOT_RUN),
        (BackendError("the engine does not load"), Status.NOT_RUN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_the_opening_of_an_engine(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: BackendError, status: Status
) -> None:
    """Its first run is a part of the opening, and what breaks there is no lack of a GPU."""
    opened = Bundle.open(bundle).with_engine(
        "tensorrt", Precision.FP16, Schedule(2), plan=b"plan", prepare=b"prepare", record=build_record()
    )
    monkeypatch.setattr(engine_hops, "gpus", lambda: [Gpu("a GPU", "9.0")])

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Session, "open", refuse)
    checks = list(engine_hops.engine_checks(Subject(opened, reference_frames(opened))))
    (last,) = [check for check in checks if check.kind is Kind.HOP]
    assert (last.status, last.value) == (status, None)
    assert str(error) in last.detail


@pytest.mark.parametrize("broken", ["cut", "inner_offsets", "place"])
def test_the_layout_check_sees_what_a_session_uses(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    subject = Subject(Bundle.open(bundle), [])
    assert [check.status for check in layout_checks(subject)] == [Status.PASSED] * 6
    right = getattr(PhaseGrid, broken)

    def wrong(grid: PhaseGrid, values: object, *rest: object) -> object:
        if broken == "place":
            (phases, into) = rest
            return right(grid, values, [(c, r) for r, c in phases], into)
        if broken == "cut":
            return right(grid, values, [(0, 0) for _ in rest[0]])
        return right(grid, values)[::-1, ::-1]

    monkeypatch.setattr(PhaseGrid, broken, wrong)
    assert [check for check in layout_checks(subject) if check.failed]


def test_a_layer_behind_a_window_with_a_side_of_one_has_its_place() -> None:
    windows = [(3, 2), (2, 2), (1, 4)]
    assert _sample((96, 12, 4, 3), (24, 48), windows, (0, 1), 1) is not None


def test_labels_of_a_frame_are_given_by_name() -> None:
    image, labels = np.zeros((*SIZE, 3), np.uint8), np.ones(SIZE, np.uint8)
    with pytest.raises(TypeError, match="positional arguments"):
        Frame("road", image, labels)  # type: ignore[call-arg,misc]
    assert Frame("road", image, truth=labels).truth is labels


def test_levels_named_twice_are_one_trunk(tmp_path: Path) -> None:
    network = with_statistics(lambda: Begins(nn.Conv2d(3, 3, 1), 4), seed=0)
    bundle = export(network, tmp_path / "own", size=SIZE, levels=(1, 1), lowerings=("reshape", "reshape"))
    assert len(bundle.manifest.trunks) == 1


BROKEN = BackendError("ONNX Runtime failed in the graph")


def small_bundle(path: Path) -> Bundle:
    """Of two trunks in fp32 and fp16."""
    network = with_statistics(lambda: Begins(nn.Conv2d(3, 3, 1), 4), seed=0)
    return export(network, path / "own", size=SIZE, levels=(0, 1), lowerings="reshape")


@pytest.mark.parametrize("method", ["__enter__", "at", "together"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16], ids=lambda precision: precision.value)
def test_a_precision_that_breaks_fails_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, method: str
) -> None:
    right = getattr(TrunkRun, method)

    def wrong(run: TrunkRun, *arguments: object) -> object:
        if run.precision is precision:
            raise BROKEN
        return right(run, *arguments)

    monkeypatch.setattr(TrunkRun, method, wrong)
    bundle, told = small_bundle(tmp_path), []
    validation = validate(bundle, on_check=told.append)
    assert validation.checks == told
    assert (bundle.path / "reports" / "validation.json").is_file()
    broken = [check for check in told if check.failed]
    assert broken
    assert {(check.value, check.detail) for check in broken} == {(None, f"broke: {BROKEN}")}
    runs = [check for check in told if check.graph and check.kind in (Kind.LAYOUT, Kind.SUB_BATCH)]
    of_it = {check.kind for check in runs if check.precision is precision and check.failed}
    # What computes phases alone is what small frames do not need; there it is the sub-batch that breaks.
    assert of_it == ({Kind.LAYOUT} if method == "at" else {Kind.LAYOUT, Kind.SUB_BATCH})
    others = [check for check in runs if check.precision is not precision]
    assert {check.status for check in others} == {Status.PASSED}
    assert Kind.MAGNITUDE in {check.kind for check in broken}
    assert Kind.LABELS in {check.kind for check in broken}


def test_a_runtime_that_breaks_everywhere_ends_no_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_bundle(tmp_path)

    def broken(*_: object) -> None:
        raise BROKEN

    monkeypatch.setattr(OnnxRuntimeRunner, "_infer", broken)
    validation = validate(bundle)
    failed = {check.kind for check in validation.checks if check.failed}
    assert failed >= {Kind.INPUT, Kind.HOP, Kind.LAYOUT, Kind.MAGNITUDE, Kind.LABELS, Kind.SUB_BATCH}
    # What needs no runtime keeps its answer.
    passed = [check for check in validation.checks if check.status is Status.PASSED]
    assert {check.kind for check in passed} == {Kind.LAYOUT, Kind.PRECISION}


def test_memory_that_runs_out_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(bundle := small_bundle(tmp_path), reference_frames(bundle))

    def broken(*_: object) -> None:
        raise OutOfMemory("the memory does not suffice")

    monkeypatch.setattr(TrunkRun, "together", broken)
    statuses = {check.status for check in small_frame_checks(subject) if check.graph != bundle.manifest.model}
    # Its operators are run one by one, which needs no sub-batch.
    assert statuses == {Status.NOT_RUN, Status.PASSED}
    assert not [check for check in small_frame_checks(subject) if check.failed]


def test_a_fault_is_a_failure_also_where_its_place_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle(tmp_path)
    (frame,) = reference_frames(bundle)
    assert frame.logits is not None
    wrong = Frame(frame.name, frame.image, case=frame.case, logits=frame.logits + 1)

    def broken(*_: object) -> None:
        raise BROKEN

    monkeypatch.setattr(locating, "layers_of_trunk", broken)
    hops = [check for check in whole_checks(Subject(bundle, [wrong]), BROKEN) if check.hop == ("PyTorch", "model.onnx")]
    assert [(check.status, check.location) for check in hops] == [
        (Status.FAILED, f"model.onnx: not located ({BROKEN})")
    ]


def test_where_nothing_is_rounded_only_fp16_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_bundle(tmp_path)
    monkeypatch.setattr(subjects, "rounding_refusal", lambda: "nothing is rounded")
    checks = list(checks_of(Subject(bundle, reference_frames(bundle))))
    kinds = (Kind.HOP, Kind.MAGNITUDE, Kind.LABELS)
    absent = [check for check in checks if check.kind in kinds and check.detail == "nothing is rounded"]
    assert {(check.kind, check.precision, check.status) for check in absent} == {
        (kind, Precision.FP16, Status.NOT_RUN) for kind in kinds
    }
    assert [check for check in checks if check.failed] == []
    passed = {check.kind for check in checks if check.precision is Precision.FP32 and check.status is Status.PASSED}
    assert passed >= {Kind.HOP, Kind.MAGNITUDE, Kind.SUB_BATCH, Kind.INPUT}


def test_a_network_in_training_mode_is_compared_and_left_as_it_is(tmp_path: Path) -> None:
    """The example of docs/own-network.md."""
    split = SplitPool2d(2)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), split, nn.ReLU(), nn.Conv2d(8, 2, 1), MergePool2d(split)
    )
    bundle = export(network, tmp_path / "live", size=(96, 128), classes=["road", "other"], precisions=("fp16",))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert validate(bundle, network=network, keep=False).verdict is Status.PASSED
    assert all(module.training for module in network.modules())
    after = network.state_dict()
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []


def test_a_precision_that_is_refused_says_why_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is."""
    monkeypatch.setattr(OnnxRuntimeCpu, "precisions", frozenset({Precision.FP32, Precision.FP16}))
    assert "does not compute in int8" in str(refusal(Precision.INT8))
    assert "bf16" in str(refusal(Precision.BF16))
    assert refusal(Precision.FP16) is refusal(Precision.FP32) is None


def test_a_whole_graph_that_memory_cannot_hold_is_not_run(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    model = onnx.load(bundle / opened.manifest.model, load_external_data=False)
    for axis, side in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 2**20, 2**20, 3), strict=True):
        axis.dim_value = side
    onnx.save(model, bundle / opened.manifest.model)
    opened = sealed(bundle)
    checks = list(whole_checks(Subject(opened, reference_frames(opened)), {}))
    assert [check.status for check in checks] == [Status.NOT_RUN] * 2
    # Eight times a tensor of 3 * 2**40 numbers of 4 bytes.
    assert checks[0].detail.startswith(f"needs about {8 * 3 * 2**40 * 4 // 2**30} GiB of memory, ")
    said = float(checks[0].detail.removesuffix(" GiB are free").rpartition(" ")[2])
    assert 0 <= said <= psutil.virtual_memory().total / 2**30 + 1
