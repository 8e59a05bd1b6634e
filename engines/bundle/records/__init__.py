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
from engines.bundle.records.build import BuildDevice, BuildRecord
from engines.bundle.records.checks import Check, Kind, Quantity, Status, Tolerance
from engines.bundle.records.codec import Figure, builtins_from_record, json_from_record, record_from_json
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
    ToolVersions,
    ValidatedNetwork,
    Validation,
    counts_of,
    validation_name,
    verdict_of,
)

__all__ = [
    "ARRAYS",
    "OVERLAY_ARRAYS",
    "VALIDATION",
    "VALIDATION_VERSION",
    "BenchLength",
    "BenchMachine",
    "BenchRecord",
    "BuildDevice",
    "BuildRecord",
    "Check",
    "ClassChange",
    "ClassFigures",
    "DeviceMemory",
    "Figure",
    "Kind",
    "LabelFigures",
    "Latency",
    "LayerFigures",
    "OverlayName",
    "PeakMemory",
    "Platform",
    "Quantity",
    "Rearrangement",
    "Status",
    "Throughput",
    "Tolerance",
    "ToolVersions",
    "ValidatedNetwork",
    "Validation",
    "builtins_from_record",
    "counts_of",
    "json_from_record",
    "record_from_json",
    "validation_name",
    "verdict_of",
]
