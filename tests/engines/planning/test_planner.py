"""The planner: peaks by hand, budgets at their edge, and what a larger budget may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Bundle, Lowering, OutputKind, Precision, Schedule, choose_schedule
from engines.backends import BACKENDS, backend_named
from engines.bundle.manifest import Manifest
from engines.errors import BackendError, InputError
from engines.planning.planner import Plan, plan_from_manifest

MIB = 2**20


def plan(manifest: Manifest, memory_bytes: int | None = None, *, backend: str = "onnxruntime", **options) -> Plan:
    """Of a manifest alone, in fp32 unless said."""
    precision = options.pop("precision", Precision.FP32)
    return plan_from_manifest(manifest, backend_named(backend), precision, memory_bytes=memory_bytes, **options)


def with_trunk(manifest: Manifest, **changes: object) -> Manifest:
    """The manifest with its first trunk alone, changed."""
    return msgspec.structs.replace(manifest, trunks=[msgspec.structs.replace(manifest.trunks[0], **changes)])


def test_a_peak_by_hand(exported: Bundle) -> None:
    window = 79_596  # of level 2: 67x99 pixels of three fp32 planes, 4 * 3 * 67 * 99
    trunk = {
        "packed_bytes": {Precision.FP32: 1_430},
        "arena_bytes": {Precision.FP32: 2_000},
        "live_bytes": {Precision.FP32: window + 1_000},
    }
    manifest = with_trunk(exported.manifest, **trunk)
    # SMP-18 of width 8: stem 1192, stages 2368, 8352, 33 088 and 131 712, head 64 * 19 + 19.
    assert manifest.network.parameters == 177_947
    weights = 711_788
    frame, labels = 18_432, 6_144  # 64x96 pixels of three bytes and of one
    planes = 85_680  # the frame with a border of 3: 4 * 3 * 70 * 102
    at_work = 23_068_672  # 22 MiB for sessions and code
    common = at_work + weights + frame + planes + labels
    assert common == 23_890_716
    planned = plan(manifest)
    first, second = planned.candidates[:2]
    assert first.schedule == Schedule(2, 1, Lowering.RESHAPE)
    assert first.peak_bytes == 23_971_742  # common + window + 1430
    assert second.peak_bytes == 24_052_768  # common + 2 * (window + 1430)
    # The process: 64 MiB.
    assert planned.needed_bytes(first) == 23_971_742 + 67_108_864
    # On a GPU: two frames and their labels, the predictions of two sub-batches and of the one at work, planes, windows.
    buffers = 2 * frame + 2 * labels + 3 * 384 + planes + window
    assert buffers == 215_580
    # What is alive counts 1.3 times; that of prepare.onnx, twice the planes, lies in the same block.
    (first,) = (c for c in plan(manifest, backend="tensorrt").candidates if c.schedule.sub_batch == 1)
    assert first.peak_bytes == buffers + weights + 1_300 == 928_668
    # ONNX Runtime: 20 MiB for handles, two arenas, the trunk's 1.3 times where splits are rearranged.
    (first,) = (c for c in plan(manifest, backend="onnxruntime-cuda").candidates if c.schedule.sub_batch == 1)
    assert first.peak_bytes == buffers + weights + 20_971_520 + 2 * planes + 2_600 == 22_072_848
    # OpenVINO: 50 MiB at work, 1.8 times the weights.
    (first,) = (c for c in plan(manifest, backend="openvino").candidates if c.schedule.sub_batch == 1)
    assert first.peak_bytes == 52_428_800 + 1_281_218 + frame + planes + labels + window + 1_300 == 53_901_170
    # A sub-batch alone, where only the difference between schedules counts.
    eight = Schedule(2, 8, Lowering.RESHAPE)
    for name, bytes_of_eight in (("onnxruntime", 648_208), ("tensorrt", 647_168)):
        assert backend_named(name).memory.sub_batch_bytes(manifest, eight, Precision.FP32) == bytes_of_eight


def test_a_peak_of_other_results_and_of_opening_by_hand(exported: Bundle) -> None:
    manifest = exported.manifest

    def first_peak(changed: Manifest) -> int:
        return plan(changed).candidates[0].peak_bytes

    # Nineteen floats for a pixel, in place of a byte.
    logits = msgspec.structs.replace(manifest, outputs=OutputKind.LOGITS)
    assert first_peak(logits) - first_peak(manifest) == 466_944 - 6_144
    # A padded result is cropped into an array of its own, as large; the frame has 744 pixels of three bytes less.
    frame = msgspec.structs.replace(manifest.input, size=(60, 90))
    assert first_peak(msgspec.structs.replace(manifest, input=frame)) - first_peak(manifest) == 6_144 - 2_232
    # 400 MiB of weights: while they are opened, 1.65 times as much and 12 MiB, which is more than at work.
    network = msgspec.structs.replace(manifest.network, parameters=104_857_600)
    assert first_peak(msgspec.structs.replace(manifest, network=network)) == 672 * MIB


def test_candidates_are_every_trunk_with_powers_of_two(exported: Bundle) -> None:
    found = {str(candidate.schedule) for candidate in plan(exported.manifest).candidates}
    # Levels 0 and 1 let 1 and up to 4 phases go together, the six trunks of levels 2 to 5 up to 16.
    assert len(found) == 1 + 3 + 6 * 5
    uneven = with_trunk(exported.manifest, cut_window=(4, 3), levels=2)
    assert [candidate.schedule.sub_batch for candidate in plan(uneven).candidates] == [1, 2, 4, 8, 12]


@given(budgets=st.tuples(st.integers(0, 2**27), st.integers(0, 2**27)))
def test_more_memory_never_chooses_more_compute(exported: Bundle, budgets: tuple[int, int]) -> None:
    planned = plan(exported.manifest)
    smallest = planned.process_bytes + min(candidate.peak_bytes for candidate in planned.candidates)
    less, more = (plan(exported.manifest, smallest + budget).choice for budget in sorted(budgets))
    assert less is not None
    assert more is not None
    assert more.compute <= less.compute


@pytest.mark.parametrize("backend", [backend.name for backend in BACKENDS])
def test_the_smallest_budget_fits_and_one_byte_less_does_not(exported: Bundle, backend: str) -> None:
    planned = plan(exported.manifest, backend=backend)
    smallest = planned.process_bytes + min(candidate.peak_bytes for candidate in planned.candidates)
    choice = plan(exported.manifest, smallest, backend=backend).choice
    assert choice is not None
    assert planned.process_bytes + choice.peak_bytes == smallest
    with pytest.raises(InputError, match=rf"smallest budget that would is [\d.]+ [KM]iB \({smallest} bytes\)"):
        plan(exported.manifest, smallest - 1, backend=backend)


def test_a_measured_time_decides_among_equal_compute(exported: Bundle) -> None:
    assert plan(exported.manifest, 2**30).choice.schedule == Schedule(2, 1, Lowering.RESHAPE)  # type: ignore[union-attr]
    fastest = Schedule(2, 4, Lowering.DILATED)
    times = {fastest: 1.0, Schedule(2, 1, Lowering.RESHAPE): 2.0, Schedule(5, 1): 0.1}
    planned = plan(exported.manifest, 2**30, seconds=times.get)
    assert planned.choice is not None
    assert planned.choice.schedule == fastest
    assert "the fastest measured on this device (1 s)" in planned.reason


def test_tensors_that_tensorrt_cannot_hold_do_not_fit(exported: Bundle) -> None:
    large = with_trunk(exported.manifest, largest_tensor=2**28)
    planned = plan(large, backend="tensorrt")
    assert [c.schedule.sub_batch for c in planned.candidates if planned.fits(c)] == [1, 2, 4, 8]
    assert all(plan(large).fits(candidate) for candidate in plan(large).candidates)
    with pytest.raises(InputError, match=r"every schedule of the bundle has a tensor of more elements"):
        plan(with_trunk(exported.manifest, largest_tensor=2**31 + 1), 2**40, backend="tensorrt")


def test_bf16_is_planned_where_it_runs(exported: Bundle) -> None:
    trunk = exported.manifest.trunks[0]
    half = with_trunk(
        exported.manifest,
        graphs=trunk.graphs | {Precision.BF16: "trunk.bf16.onnx"},
        live_bytes=trunk.live_bytes | {Precision.BF16: trunk.live_bytes[Precision.FP16]},
    )
    with pytest.raises(BackendError, match="ONNX Runtime has no bf16 convolution on the CPU"):
        plan(half, precision=Precision.BF16)
    bf16, fp16 = (plan(half, precision=p, backend="tensorrt").candidates for p in (Precision.BF16, Precision.FP16))
    assert [c.peak_bytes for c in bf16] == [c.peak_bytes for c in fp16]


def test_what_is_unknown_is_refused(exported: Bundle) -> None:
    with pytest.raises(InputError, match="unknown backend 'abacus'; known are onnxruntime, "):
        plan(exported.manifest, backend="abacus")
    graphs = {Precision.FP32: exported.manifest.trunks[0].graphs[Precision.FP32]}
    with pytest.raises(InputError, match="no fp16 trunk"):
        plan(with_trunk(exported.manifest, graphs=graphs), precision=Precision.FP16)


def test_a_gpu_gets_the_smallest_sub_batch_that_fills_it(exported: Bundle) -> None:
    """Operations of a phase by hand; 5e11 in a sub-batch fill it."""

    def chosen(operations: int, **options: Any) -> Schedule:
        manifest = exported.manifest
        trunks = [
            msgspec.structs.replace(trunk, operations=operations) for trunk in manifest.trunks if trunk.levels == 2
        ]
        bundle = replace(exported, manifest=msgspec.structs.replace(manifest, trunks=trunks))
        return choose_schedule(bundle, "onnxruntime-cuda", "fp16", **options).schedule

    assert chosen(5 * 10**11) == Schedule(2, 1, Lowering.DILATED)
    assert chosen(5 * 10**11 - 1) == Schedule(2, 2, Lowering.DILATED)
    assert chosen(10**11) == Schedule(2, 8, Lowering.DILATED)
    assert chosen(10**6) == Schedule(2, 16, Lowering.DILATED)
    # A budget is there to be used.
    assert chosen(5 * 10**11, memory="1GiB") == Schedule(2, 16, Lowering.DILATED)
    # What is named is taken, and a CPU has its own rule.
    assert chosen(10**6, levels=2) == Schedule(2, 1)
    assert choose_schedule(exported).schedule == Schedule(2, 1)
