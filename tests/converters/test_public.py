"""What ``converters`` makes public: lazily, sorted, and with a word on what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import converters
from converters.densifying import DensifyReport, densify
from converters.exporting import export
from converters.networks import network_from_arch, network_from_source
from converters.one_file.packing import pack
from converters.pooling import MergePool2d, SplitPool2d, merge, split
from converters.reproductions import reproduce
from converters.verification import Frame
from converters.verification.validate import validate
from engines.errors import NetworkError


def test_names_are_sorted_and_lead_to_what_they_name() -> None:
    assert converters.__all__ == sorted(converters.__all__)
    assert set(converters.__all__) <= set(dir(converters))
    found = {name: getattr(converters, name) for name in converters.__all__}
    assert found == {
        "DensifyReport": DensifyReport,
        "Frame": Frame,
        "MergePool2d": MergePool2d,
        "SplitPool2d": SplitPool2d,
        "densify": densify,
        "export": export,
        "merge": merge,
        "network_from_arch": network_from_arch,
        "pack": pack,
        "reproduce": reproduce,
        "split": split,
        "validate": validate,
    }
    with pytest.raises(AttributeError, match="no attribute 'exports'"):
        converters.exports  # noqa: B018 - the access is what is tested


def in_a_new_process(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout


def test_importing_the_package_imports_no_torch() -> None:
    assert in_a_new_process("import sys, converters; print('torch' in sys.modules, 'numpy' in sys.modules)") == (
        "False False\n"
    )


def test_without_torch_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import converters\n"
        "from engines.errors import MissingDependency\n"
        "try:\n    converters.export\n"
        "except MissingDependency as error:\n    print(error)\n"
    )
    assert in_a_new_process(script) == ("torch is not installed; install it with: pip install 'smp-deploy[export]'\n")


def test_a_network_that_was_in_memory_alone_cannot_be_built_anew() -> None:
    with pytest.raises(NetworkError, match=r"a my\.nets\.Net that was exported from Python, .* network=network"):
        network_from_source("my.nets.Net", classes=3, width=8)


def test_a_factory_that_a_bundle_names_is_not_imported() -> None:
    with pytest.raises(NetworkError, match=r"names the factory 'tests\.absent:f', and what a bundle names is not run"):
        network_from_source("tests.absent:f", classes=3, width=8)
