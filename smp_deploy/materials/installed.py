"""The bill of materials of what is installed: smp-deploy, and the distributions that its requirements lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from engines.bundle.records.statements import package_url
from engines.errors import MachineError, MissingDependency
from smp_deploy import __version__
from smp_deploy.materials.cyclonedx import (
    Bom,
    Component,
    Composition,
    License,
    LicenseChoice,
    bom_of,
    bounded_version,
)

_PRODUCT = "smp-deploy"

# Words of `License` and of classifiers that leave no doubt. "BSD License" is several licences.
_SPDX = {
    "mit": "MIT",
    "mit license": "MIT",
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
_LONGEST_NAME = 64


def bom_of_installation() -> Bom:
    """The bill of this environment: what smp-deploy requires, with its extras as far as they are installed.

    Other distributions of the environment are not listed. Where a requirement is not installed, other than those of
    smp-deploy's own extras, the bill says that the dependencies of whoever needs it are incomplete.

    Raises:
        MissingDependency: the package ``packaging`` is not installed, which reads requirements.
        MachineError: smp-deploy is not installed, or a distribution with a requirement that is none.
        InputError: ``SOURCE_DATE_EPOCH`` is no time.
    """
    installed: dict[str, Distribution] = {}
    for found in distributions():
        # An installation that broke leaves folders without a name. The first on the path is the one that is imported.
        if package_url(_field(found, "Name")):
            installed.setdefault(_canonical(_field(found, "Name")), found)
    if _PRODUCT not in installed:
        raise MachineError(f"{_PRODUCT} is not installed in this environment, so nothing says what it requires")
    needs, incomplete = _closure(installed)
    refs = {name: package_url(name, _field(installed[name], "Version")) for name in needs}
    missing = [Composition(aggregate="incomplete", dependencies=sorted(refs[name] for name in incomplete))]
    return bom_of(
        _component(installed[_PRODUCT], "application"),
        (_component(installed[name], "library") for name in needs if name != _PRODUCT),
        {refs[name]: [refs[needed] for needed in held] for name, held in needs.items()},
        missing if incomplete else (),
        tool_version=__version__,
    )


def _closure(installed: dict[str, Distribution]) -> tuple[dict[str, set[str]], set[str]]:
    """What each distribution that smp-deploy leads to needs of the installed ones; and who needs others too."""
    needs: dict[str, set[str]] = {}
    incomplete: set[str] = set()
    extras = frozenset(installed[_PRODUCT].metadata.get_all("Provides-Extra") or ())
    waiting, seen = [(_PRODUCT, extras)], {(_PRODUCT, extras)}
    while waiting:
        name, wanted = waiting.pop()
        held = needs.setdefault(name, set())
        for required, further, optional in _requirements(installed[name], wanted):
            if required not in installed:
                incomplete |= set() if optional and name == _PRODUCT else {name}
                continue
            if required != name:
                held.add(required)
            if (required, further) not in seen:
                seen.add((required, further))
                waiting.append((required, further))
    return needs, incomplete


def _requirements(distribution: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str], bool]]:
    """What a distribution with some of its extras requires here: the name, its extras, whether an extra asks for it."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError as error:
        raise MissingDependency("packaging", "sbom") from error
    for text in distribution.requires or ():
        try:
            required = Requirement(text)
        except InvalidRequirement as error:
            raise MachineError(
                f"{_field(distribution, 'Name')} is installed with a requirement {text!r}: {error}"
            ) from error
        marker = required.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if marker is None or always or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield _canonical(required.name), frozenset(required.extras), not always


def _component(distribution: Distribution, kind: str) -> Component:
    name, version = _field(distribution, "Name"), _field(distribution, "Version")
    purl = package_url(name, version)
    return Component(
        type=kind,
        name=name,
        bom_ref=purl,
        version=bounded_version(version),
        description=_field(distribution, "Summary"),
        licenses=_licenses(distribution),
        purl=purl,
    )


def _licenses(distribution: Distribution) -> list[LicenseChoice]:
    """As the distribution declares: its SPDX expression, else a short ``License``, else its classifiers."""
    if expression := _field(distribution, "License-Expression"):
        return [LicenseChoice(expression=expression, acknowledgement="declared")]
    classifiers = [text for text in distribution.metadata.get_all("Classifier") or () if text.startswith("License ::")]
    stated = _field(distribution, "License").strip()
    # Some put the whole text there.
    short = [stated] if stated and "\n" not in stated and len(stated) <= _LONGEST_NAME else []
    named = [text.rpartition("::")[2].strip() for text in short or classifiers]
    return [LicenseChoice(license=_license(name)) for name in dict.fromkeys(named)]


def _field(distribution: Distribution, name: str) -> str:
    """A field of a distribution's metadata; ``""`` where it has none."""
    return str((distribution.metadata.get_all(name) or [""])[0])


def _license(name: str) -> License:
    known = _SPDX.get(name.lower())
    return License(id=known or "", name="" if known else name, acknowledgement="declared")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
