"""CycloneDX 1.6: the parts of the standard that our bills of materials use.

https://cyclonedx.org/docs/1.6/json has the fields; the standard's own JSON schema judges every document in the tests.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import msgspec

from engines.bundle.records.statements import package_url
from engines.errors import InputError

_LONGEST_VERSION = 1024


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Every part of a document; what is empty is left out."""


class Hash(_Part, frozen=True, kw_only=True):
    """Of a file."""

    alg: str
    content: str


class Property(_Part, frozen=True, kw_only=True):
    """What the standard has no field for; names begin with ``smp-deploy:``."""

    name: str
    value: str


class License(_Part, frozen=True, kw_only=True):
    """By its SPDX identifier, or by its name where that is unknown."""

    id: str = ""
    name: str = ""
    acknowledgement: str = ""


class LicenseChoice(_Part, frozen=True, kw_only=True):
    """A licence, or an SPDX expression, which then stands alone."""

    license: License | None = None
    expression: str = ""
    acknowledgement: str = ""


class Data(_Part, frozen=True, kw_only=True):
    """What a component of type ``data`` is."""

    type: str
    name: str


class Reference(_Part, frozen=True, kw_only=True):
    """To a component of the same document."""

    ref: str


class Format(_Part, frozen=True, kw_only=True):
    """Of an input or output."""

    format: str


class ModelParameters(_Part, frozen=True, kw_only=True):
    """What a network is and takes."""

    task: str
    architecture_family: str
    model_architecture: str
    datasets: list[Reference] = []
    inputs: list[Format] = []
    outputs: list[Format] = []


class ModelCard(_Part, frozen=True, kw_only=True):
    """What is known of a network."""

    model_parameters: ModelParameters
    properties: list[Property] = []


class Component(_Part, frozen=True, kw_only=True):
    """One thing of the bill."""

    type: str
    name: str
    bom_ref: str = msgspec.field(name="bom-ref")
    version: str = ""
    description: str = ""
    scope: str = ""
    """``"excluded"`` for what is needed to make or judge the product, and is not part of it."""
    hashes: list[Hash] = []
    licenses: list[LicenseChoice] = []
    purl: str = ""
    model_card: ModelCard | None = None
    data: list[Data] = []
    properties: list[Property] = []


class Dependency(_Part, frozen=True, kw_only=True):
    """What a component needs, by references."""

    ref: str
    depends_on: list[str] = []


class Composition(_Part, frozen=True, kw_only=True):
    """How much is known of the dependencies of components."""

    aggregate: str
    dependencies: list[str]


class Tools(_Part, frozen=True, kw_only=True):
    """What wrote the document."""

    components: list[Component]


class Metadata(_Part, frozen=True, kw_only=True):
    """What the document is of, by what, and when."""

    timestamp: str = ""
    tools: Tools
    component: Component


class Bom(_Part, frozen=True, kw_only=True):
    """A bill of materials."""

    bom_format: str
    spec_version: str
    serial_number: str = ""
    version: int
    metadata: Metadata
    components: list[Component]
    dependencies: list[Dependency]
    compositions: list[Composition] = []


def bom_of(
    component: Component,
    components: Iterable[Component],
    depends_on: Mapping[str, Iterable[str]],
    compositions: Iterable[Composition] = (),
    *,
    tool_version: str,
) -> Bom:
    """The bill of ``component``: its order, its serial number and so its bytes follow from the content alone.

    ``depends_on`` has the references of what a component needs, by its own. The time is that of ``SOURCE_DATE_EPOCH``,
    if the environment has it, else none is given: the time of a call says nothing of what is listed.

    Raises :class:`InputError` where ``SOURCE_DATE_EPOCH`` is no time.
    """
    tool = Component(
        type="application",
        name="smp-deploy",
        bom_ref="tool of this document",
        version=tool_version,
        purl=package_url("smp-deploy", tool_version),
    )
    held = sorted(components, key=lambda part: part.bom_ref)
    refs = [component.bom_ref, *(part.bom_ref for part in held)]
    bom = Bom(
        bom_format="CycloneDX",
        spec_version="1.6",
        version=1,
        metadata=Metadata(timestamp=_source_date(), tools=Tools(components=[tool]), component=component),
        components=held,
        dependencies=[Dependency(ref=ref, depends_on=sorted(set(depends_on.get(ref, ())))) for ref in refs],
        compositions=list(compositions),
    )
    content = hashlib.sha256(msgspec.json.encode(bom)).hexdigest()
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{package_url('smp-deploy')}#bom/{content}")
    return msgspec.structs.replace(bom, serial_number=serial.urn)


def builtins_from_bom(bom: Bom) -> dict[str, Any]:
    """The JSON document, as dictionaries, lists and text."""
    return dict(msgspec.to_builtins(bom))


def sha256(digest: str) -> list[Hash]:
    """The hashes of a file whose SHA-256 is known."""
    return [Hash(alg="SHA-256", content=digest)]


def properties(values: Mapping[str, object]) -> list[Property]:
    """Those that are not ``None``, sorted by name."""
    known = ((name, value) for name, value in sorted(values.items()) if value is not None)
    return [Property(name=f"smp-deploy:{name}", value=str(value)) for name, value in known]


def bounded_version(text: str) -> str:
    """A version, no longer than the standard has it."""
    return text[:_LONGEST_VERSION]


def _source_date() -> str:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return ""
    try:
        if not (text.isascii() and text.isdigit()):
            raise ValueError
        return datetime.fromtimestamp(int(text), timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH is a whole number of seconds since 1970; received {text!r}") from error
