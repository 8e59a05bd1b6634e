"""debug-precision on networks with one layer that half precision cannot hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.exporting import export
from converters.pooling import MergePool2d, SplitPool2d
from converters.reference import noise_frame
from converters.verification.precision_search import searched_precision
from engines import Bundle, Precision, Session
from engines.errors import BackendError, BundleError, InputError
from engines.schedules.schedule import Schedule

SIZE = (32, 48)
FRAMES = (noise_frame(SIZE, 0), noise_frame(SIZE, 1))


class Chain(nn.Module):
    """Four convolutions with a split between them; ``kind`` says which layer is ill-scaled and how."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.split = SplitPool2d(2)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
        self.relu, self.merge = nn.ReLU(), MergePool2d(self.split)
        with torch.no_grad():
            if kind == "cancelling":
                # Channels 0 and 1 are equal, and their large weights cancel: 64.3 is 64.3125 in half precision.
                self.first.weight[1], self.first.bias[1] = self.first.weight[0], self.first.bias[0]
                self.second.weight[:, 0] += 64
                self.second.weight[:, 1] -= 64
            elif kind == "overflowing":
                self.second.weight *= 3e6
                self.second.bias *= 3e6
                self.third.weight /= 3e6

    def forward(self, x: Tensor) -> Tensor:
        x = self.split(self.relu(self.first(x)))
        x = self.relu(self.third(self.relu(self.second(x))))
        return self.merge(self.head(x))


def bundle_of(kind: str, path: Path, **options: object) -> Bundle:
    settings = {"precisions": ("fp16",), "lowerings": ("reshape",), "outputs": "logits", **options}
    return export(Chain(kind).eval(), path, size=SIZE, **settings)  # type: ignore[arg-type]


def errors(bundle: Bundle, precision: Precision) -> list[float]:
    """An independent measurement: sessions on all phases, fp32 against the precision."""
    with Session.open(bundle) as full, Session.open(bundle, precision=precision) as low:
        results = [(full.predict(frame), low.predict(frame)) for frame in FRAMES]
    return [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in results]


def test_the_ill_scaled_layer_is_proposed_and_the_mixed_bundle_passes(tmp_path: Path) -> None:
    bundle = bundle_of("cancelling", tmp_path / "one")
    search = searched_precision(bundle, Precision.FP16, FRAMES)
    assert search.ranked[0].module == "second"
    assert search.ranked[0].figures.error > 10 * search.ranked[1].figures.error
    assert not search.before.passed
    assert search.proposal == ("second",)
    assert search.overflow is None
    assert search.after is not None
    assert search.after.passed
    mixed = bundle_of("cancelling", tmp_path / "two", keep_fp32={Precision.FP16: ("second",)})
    assert max(errors(bundle, Precision.FP16)) > 1e-2
    assert max(errors(mixed, Precision.FP16)) <= 1e-2
    # Asked again, the mixed bundle needs nothing more.
    again = searched_precision(mixed, Precision.FP16, FRAMES)
    assert (again.kept_before, again.proposal) == (("second",), ())
    assert again.before == search.after


def test_an_overflow_is_named_where_it_starts(tmp_path: Path) -> None:
    bundle = bundle_of("overflowing", tmp_path / "one")
    search = searched_precision(bundle, Precision.FP16, FRAMES)
    assert search.overflow == "second/Conv"
    assert search.before.error == float("inf")
    # The values between the two are too large, so both stay in fp32, and the ReLU between them with them.
    assert set(search.proposal or ()) == {"second", "third"}
    assert search.ranked[0].module == "second"
    assert search.ranked[0].largest > 65504
    mixed = bundle_of("overflowing", tmp_path / "two", keep_fp32={Precision.FP16: search.proposal})
    assert max(errors(mixed, Precision.FP16)) <= 1e-2


def test_a_good_network_needs_nothing(tmp_path: Path) -> None:
    search = searched_precision(bundle_of("good", tmp_path / "one"), Precision.FP16, FRAMES)
    assert search.before.passed
    assert search.proposal == ()
    assert {entry.module for entry in search.ranked} == {"first", "second", "third", "head"}
    assert all(0 < entry.figures.error < 1e-2 for entry in search.ranked)


def test_int8_is_the_same_in_every_schedule_and_searched_with_the_ranges_of_the_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(
        "good",
        tmp_path / "one",
        precisions=("int8",),
        calibration_frames=FRAMES,
        levels=(0, 1),
        lowerings=("reshape", "strided"),
    )
    results = []
    for trunk in bundle.manifest.trunks:
        for sub_batch in (1, 3):
            schedule = Schedule(trunk.levels, sub_batch, trunk.lowering)
            with Session.open(bundle, precision=Precision.INT8, schedule=schedule) as session:
                results.append(session.predict(FRAMES[0]))
    for result in results:
        # Bit for bit: quantized convolutions are exact in single precision.
        np.testing.assert_array_equal(result, results[0])
    search = searched_precision(bundle, Precision.INT8, FRAMES)
    # One phase is a part of the frame, so its error is no larger than the frame's and of its order.
    assert 0.2 * max(errors(bundle, Precision.INT8)) < search.before.error <= max(errors(bundle, Precision.INT8)) * 1.01
    assert len(search.ranked) == 4


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    bundle = bundle_of("good", tmp_path / "one", precisions=())
    with pytest.raises(InputError, match="fp32 is what the other precisions are compared with"):
        searched_precision(bundle, Precision.FP32, FRAMES)
    with pytest.raises(BackendError, match="no bf16 convolution on the CPU"):
        searched_precision(bundle, Precision.BF16, FRAMES)
    with pytest.raises(BundleError, match=r'without calibration; .* precisions=\("int8",\) and calibration_frames=$'):
        searched_precision(bundle, Precision.INT8, FRAMES)
