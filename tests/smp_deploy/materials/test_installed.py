"""The bill of what is installed: made environments with known answers, and this one."""

from __future__ import annotations

from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest

from engines.errors import MachineError
from smp_deploy.materials.cyclonedx import builtins_from_bom
from smp_deploy.materials.installed import bom_of_installation
from tests.conftest import Cli, document
from tests.smp_deploy.materials.test_bundles import check_schema


def install(site: Path, name: str, *lines: str, version: str = "1.0") -> None:
    """A distribution's metadata, as an installer leaves it."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    text = "\n".join(("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines))
    (folder / "METADATA").write_text(text + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of its own, where packages can be found by their metadata alone."""
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return tmp_path


def bill() -> dict[str, Any]:
    return builtins_from_bom(bom_of_installation())


def test_only_what_the_requirements_lead_to_is_listed(site: Path) -> None:
    install(
        site,
        "smp-deploy",
        "License-Expression: Apache-2.0",
        "Provides-Extra: run",
        "Provides-Extra: train",
        "Requires-Dist: Base_Package>=1",
        'Requires-Dist: elsewhere; sys_platform == "nowhere"',
        'Requires-Dist: runtime[gpu]; extra == "run"',
        'Requires-Dist: trainer; extra == "train"',
    )
    install(site, "base.package", "License: MIT", 'Requires-Dist: tested; extra == "dev"', version="1.0+local")
    install(site, "runtime", 'Requires-Dist: driver; extra == "gpu"', "Requires-Dist: base-package")
    for name in ("driver", "tested", "elsewhere", "stranger"):
        install(site, name)
    found = bill()
    check_schema(found)
    base = "pkg:pypi/base-package@1.0%2Blocal"
    assert [part["bom-ref"] for part in found["components"]] == [
        base,
        "pkg:pypi/driver@1.0",
        "pkg:pypi/runtime@1.0",
    ]
    assert found["dependencies"] == [
        {"ref": "pkg:pypi/smp-deploy@1.0", "dependsOn": [base, "pkg:pypi/runtime@1.0"]},
        {"ref": base},
        {"ref": "pkg:pypi/driver@1.0"},
        {"ref": "pkg:pypi/runtime@1.0", "dependsOn": [base, "pkg:pypi/driver@1.0"]},
    ]
    # The trainer is an extra's and may be absent.
    assert "compositions" not in found


def test_a_requirement_that_is_not_there_is_said(site: Path) -> None:
    install(site, "smp-deploy", "Requires-Dist: present", "Requires-Dist: absent")
    install(site, "present", "Requires-Dist: absent-too")
    assert bill()["compositions"] == [
        {"aggregate": "incomplete", "dependencies": ["pkg:pypi/present@1.0", "pkg:pypi/smp-deploy@1.0"]}
    ]


@pytest.mark.parametrize(
    ("lines", "licenses"),
    [
        (
            ["License-Expression: MIT OR Apache-2.0", "License: other"],
            [{"expression": "MIT OR Apache-2.0", "acknowledgement": "declared"}],
        ),
        (["License: BSD-3-Clause"], [{"license": {"id": "BSD-3-Clause", "acknowledgement": "declared"}}]),
        (["License: My own"], [{"license": {"name": "My own", "acknowledgement": "declared"}}]),
        (
            ["License: A text", "        of two lines", "Classifier: License :: OSI Approved :: MIT License"],
            [{"license": {"id": "MIT", "acknowledgement": "declared"}}],
        ),
        (
            ["Classifier: License :: OSI Approved :: BSD License"],
            [{"license": {"name": "BSD License", "acknowledgement": "declared"}}],
        ),
    ],
)
def test_licences_are_those_declared(site: Path, lines: list[str], licenses: list[dict[str, Any]]) -> None:
    install(site, "smp-deploy", *lines)
    found = bill()
    check_schema(found)
    assert found["metadata"]["component"]["licenses"] == licenses


def test_what_a_broken_installation_left_is_not_listed(site: Path) -> None:
    install(site, "smp-deploy", "Requires-Dist: whole")
    install(site, "whole")
    (site / "~hole-1.0.dist-info").mkdir()
    assert [part["name"] for part in bill()["components"]] == ["whole"]


def test_what_cannot_be_read_is_one_message(site: Path) -> None:
    with pytest.raises(MachineError, match=r"^smp-deploy is not installed in this environment, so nothing says what"):
        bill()
    install(site, "smp-deploy", "Requires-Dist: odd")
    install(site, "odd", "Requires-Dist: ??")
    with pytest.raises(MachineError, match=r"^odd is installed with a requirement '\?\?': "):
        bill()


def test_no_licence_is_invented(site: Path) -> None:
    install(site, "smp-deploy")
    assert "licenses" not in bill()["metadata"]["component"]


def test_the_command_prints_the_bill_of_this_environment(cli: Cli) -> None:
    found = document(cli("doctor", "--sbom"))
    check_schema(found)
    held = {part["name"].lower(): part for part in found["components"]}
    assert {"numpy", "msgspec", "pillow", "psutil", "rich", "typer"} <= held.keys()
    assert held["numpy"]["version"] == version("numpy")
    # Tools of the checks are here, and no requirement of smp-deploy's.
    assert requires("pytest") is not None
    assert held.keys().isdisjoint({"pytest", "mypy", "ruff"})
