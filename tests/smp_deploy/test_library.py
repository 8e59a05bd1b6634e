"""``import smp_deploy``: instant, and every public name is where it says."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import smp_deploy


def test_the_import_is_instant() -> None:
    script = "import json, sys, smp_deploy; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(result.stdout)
    assert "smp_deploy" in loaded
    heavy = {"torch", "numpy", "onnxruntime", "rich", "msgspec", "typer", "engines", "converters"}
    assert not heavy & set(loaded)


def test_all_is_sorted_and_is_what_there_is() -> None:
    assert smp_deploy.__all__ == sorted(smp_deploy.__all__)
    assert set(smp_deploy.__all__) == {*smp_deploy._HOMES, "__version__"}
    assert set(smp_deploy.__all__) <= set(dir(smp_deploy))


@pytest.mark.parametrize("name", sorted(set(smp_deploy.__all__) - {"__version__"}))
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(smp_deploy, name)
    assert value is getattr(import_module(smp_deploy._HOMES[name]), name)
    assert value.__name__ == name
    assert value.__doc__


@pytest.mark.parametrize(
    ("call", "extra"),
    [
        ("smp_deploy.train", "train"),
        ("smp_deploy.TrainingConfig", "train"),
        ("smp_deploy.Optimizer", "train"),
        ("smp_deploy.export", "export"),
    ],
)
def test_without_torch_the_extra_is_named(call: str, extra: str) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import smp_deploy\n"
        f"try:\n    {call}\n"
        "except smp_deploy.MissingDependency as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == f"torch is not installed; install it with: pip install 'smp-deploy[{extra}]'\n"


def test_what_needs_no_torch_is_there_without_it() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from smp_deploy import BuildListener, BuildOptions, HardwareCompatibility, MemoryPool, Session, build_engine\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'smp_deploy' has no attribute 'exprot'"):
        _ = smp_deploy.exprot
    assert not hasattr(smp_deploy, "exprot")


def test_the_version_is_the_installed_one() -> None:
    assert smp_deploy.__version__ == version("smp-deploy")


def test_a_source_tree_that_nobody_installed_can_be_imported() -> None:
    root = str(Path(smp_deploy.__file__).resolve().parents[1])
    # Without site-packages there is no metadata to be found.
    script = f"import sys; sys.path.insert(0, {root!r}); import smp_deploy; print(smp_deploy.__version__)"
    result = subprocess.run([sys.executable, "-S", "-I", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "0+unknown\n"
