"""Records to test with."""

from __future__ import annotations

from typing import Any

import msgspec

from engines import Bundle
from engines.bundle.records import BuildDevice, BuildRecord, Fingerprint, Validation
from engines.schedules.schedule import Precision
from smp_deploy.reports.pages import page_of
from smp_deploy.reports.verdicts import judged


def build_record(**changes: Any) -> BuildRecord:
    """The record of a build of other files, unless ``changes`` name the hashes of a bundle's."""
    record = BuildRecord(
        smp_deploy="0.1.0",
        python="3.11.7",
        backend="tensorrt-rtx",
        version="1.7.1",
        target="this-machine",
        device=BuildDevice(architecture="x86_64", soc=None, gpu=None, compute_capability=None),
        precision=Precision.FP16,
        sub_batch=1,
        flags={},
        graph="trunk.fp16.onnx",
        graph_sha256="1" * 64,
        prepare="prepare.onnx",
        prepare_sha256="2" * 64,
        weights_sha256="0" * 64,
        strongly_typed=True,
        convolutions={"HALF": 5},
        effective_precision="not read: there is no GPU",
        input_shape=(1, 3, 24, 32),
        timing_cache=False,
        plan_bytes=4,
        plan_sha256="3" * 64,
        prepare_plan_bytes=7,
        prepare_plan_sha256="4" * 64,
        build_s=1.5,
        tactics=None,
        fingerprint=Fingerprint(
            trunk="not read: there is no GPU",
            prepare="not read: there is no GPU",
            outputs="not run: there is no GPU",
        ),
    )
    return msgspec.structs.replace(record, **changes)


def page(bundle: Bundle, record: Validation) -> str:
    """The page of a record alone."""
    return page_of(bundle, record, judged(bundle, record, {}))
