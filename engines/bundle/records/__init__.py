"""Records: what lies in a bundle's ``reports/`` and ``engines/``. Each has one definition, for writing and reading.

The types are the schema. No hash protects what lies in ``reports/``, so a record is checked whenever it is read: by its
types, and by what the fields say of each other.
"""

from engines.bundle.records.bench import (
    BenchLength,
    BenchMachine,
    BenchRecord,
    DeviceMemory,
    Latency,
    PeakMemory,
    Rearrangement,
    Throughput,
)
from engines.bundle.records.build import BuildDevice, BuildRecord, build_record_from_file
from engines.bundle.records.checks import Check, Kind, Quantity, Status, Tolerance
from engines.bundle.records.codec import Figure, builtins_from_record, json_from_record, record_from_json
from engines.bundle.records.differences import BuildComparison, Difference, compared_builds, field_differences
from engines.bundle.records.fingerprint import (
    MOST_TACTICS,
    EngineLayer,
    EngineLayers,
    Fingerprint,
    OutputDigest,
    Tactic,
    Tactics,
    layers_sha256,
)
from engines.bundle.records.validation import (
    ARRAYS,
    OVERLAY_ARRAYS,
    VALIDATION,
    VALIDATION_VERSION,
    ClassChange,
    ClassFigures,
    LabelFigures,
    LayerFigures,
    OverlayName,
    Platform,
    Proven,
    ToolVersions,
    ValidatedNetwork,
    Validation,
    counts_of,
    verdict_of,
)

__all__ = [
    "ARRAYS",
    "MOST_TACTICS",
    "OVERLAY_ARRAYS",
    "VALIDATION",
    "VALIDATION_VERSION",
    "BenchLength",
    "BenchMachine",
    "BenchRecord",
    "BuildComparison",
    "BuildDevice",
    "BuildRecord",
    "Check",
    "ClassChange",
    "ClassFigures",
    "DeviceMemory",
    "Difference",
    "EngineLayer",
    "EngineLayers",
    "Figure",
    "Fingerprint",
    "Kind",
    "LabelFigures",
    "Latency",
    "LayerFigures",
    "OutputDigest",
    "OverlayName",
    "PeakMemory",
    "Platform",
    "Proven",
    "Quantity",
    "Rearrangement",
    "Status",
    "Tactic",
    "Tactics",
    "Throughput",
    "Tolerance",
    "ToolVersions",
    "ValidatedNetwork",
    "Validation",
    "build_record_from_file",
    "builtins_from_record",
    "compared_builds",
    "counts_of",
    "field_differences",
    "json_from_record",
    "layers_sha256",
    "record_from_json",
    "verdict_of",
]
