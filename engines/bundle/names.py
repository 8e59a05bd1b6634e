"""Names of a bundle's files: of letters, digits and ``._-``, with ``/`` between their parts.

One spelling for each file, the same on every file system and in every reader: no part begins with a dot, so none
leaves its folder, is hidden or stands for nothing. What a file is for says how its name ends, since some runtimes
choose a parser by that.

The patterns mean the same to Python and in a JSON Schema: to Python alone, ``$`` also stands before a last line break.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

MANIFEST_NAME = "manifest.json"
TARGET_NAME = "target.json"
SIGNATURE_NAME, TARGET_SIGNATURE_NAME = "model.sig", "target.sig"
"""Signatures of either, and of the files that it lists. The first is what ``model_signing`` calls its own."""
REPORTS = "reports"
"""The directory of records, pages and pictures. No manifest lists what lies there: it may be replaced at any time."""
ENGINES = "engines"
"""The directory of what ``target.json`` lists."""

RESERVED = frozenset((MANIFEST_NAME, TARGET_NAME, SIGNATURE_NAME, TARGET_SIGNATURE_NAME, REPORTS, ENGINES))
"""First parts of names that ``manifest.json`` may not list, however they are capitalized."""

_LONGEST = 255
_PART = "[A-Za-z0-9_-][A-Za-z0-9._-]*"
_PATH = f"^({_PART}/)*{_PART}"
_END = r"(?!\n)$"

Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
FileName: TypeAlias = Annotated[str, msgspec.Meta(pattern=_PATH + _END, max_length=_LONGEST)]
GraphName: TypeAlias = Annotated[str, msgspec.Meta(pattern=_PATH + r"\.onnx" + _END, max_length=_LONGEST)]
WeightsName: TypeAlias = Annotated[str, msgspec.Meta(pattern=_PATH + r"\.bin" + _END, max_length=_LONGEST)]
ArrayName: TypeAlias = Annotated[str, msgspec.Meta(pattern=_PATH + r"\.npy" + _END, max_length=_LONGEST)]
AddedName: TypeAlias = Annotated[str, msgspec.Meta(pattern=f"^{ENGINES}/{_PART}{_END}", max_length=_LONGEST)]
PlanName: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"^{ENGINES}/{_PART}\.engine{_END}", max_length=_LONGEST)]
BuildRecordName: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=rf"^{ENGINES}/{_PART}\.json{_END}", max_length=_LONGEST)
]
