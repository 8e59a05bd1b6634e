"""A bundle that is right, and copies of it to be spoilt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn

from converters.exporting import export
from engines import Bundle, Lowering
from tests.conftest import made_once
from tests.converters.three_levels import SIZE, three_levels


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """Three levels."""
    return three_levels()


@pytest.fixture(scope="session")
def good(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its bundle, walked over one of the levels, in two lowerings."""

    def make(target: Path) -> None:
        export(
            network,
            target,
            size=SIZE,
            source="tests.converters.three_levels:three_levels",
            levels=(1,),
            lowerings=(Lowering.RESHAPE, Lowering.STRIDED),
        )

    return Bundle.open(made_once(tmp_path_factory, "three-levels", make))


@pytest.fixture
def spoilt(good: Bundle, tmp_path: Path) -> Path:
    """A copy of the good bundle."""
    return Path(shutil.copytree(good.path, tmp_path / "bundle"))
