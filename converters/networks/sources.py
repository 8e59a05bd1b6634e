"""Where networks come from: a known architecture by its name, or a user's own factory by its import path."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from converters.analysis.received import check_shapes_known
from converters.networks.figure7 import DilatedNetwork, MaxPoolNetwork, SplitNetwork
from converters.networks.resnet import BACKBONES
from converters.networks.segmentation import SMP, FCN8s, FCN32s, SegmentationNetwork
from engines.errors import NetworkError

_FAMILIES: dict[str, type[SMP] | type[FCN32s] | type[FCN8s]] = {"smp": SMP, "fcn32s": FCN32s, "fcn8s": FCN8s}

ARCHITECTURES = tuple(f"{family}-{backbone}" for family in _FAMILIES for backbone in BACKBONES)
"""Names of the segmentation networks, for ``arch=``."""

_MOST_CLASSES, _MOST_CHANNELS = 65536, 4096
"""Beyond these a slip of the finger is likelier than a network, and its weights fit no memory."""

FIGURE7: dict[str, Callable[[], nn.Module]] = {
    "figure7-maxpool": MaxPoolNetwork,
    "figure7-dilated": DilatedNetwork,
    "figure7-split": SplitNetwork,
}
"""The networks of Figure 7, for operation counts."""


def network_from_arch(arch: str, *, classes: int = 19, width: int = 64) -> SegmentationNetwork:
    """A network with fresh parameters, in training mode.

    Args:
        arch: a name of :data:`ARCHITECTURES`, ``smp-resnet18`` for SMP-18.
        classes: channels of the logits.
        width: channels of the stem, 64 in the paper.

    Raises :class:`NetworkError` for an unknown name, or classes or channels that no network has.
    """
    family, _, backbone = arch.partition("-")
    if family not in _FAMILIES or backbone not in BACKBONES:
        raise NetworkError(f"unknown architecture {arch!r}; known are {', '.join(ARCHITECTURES)}")
    if not (1 <= classes <= _MOST_CLASSES and 1 <= width <= _MOST_CHANNELS):
        raise NetworkError(
            f"a network has 1 to {_MOST_CLASSES} classes and 1 to {_MOST_CHANNELS} channels in its stem; received "
            f"classes={classes}, width={width}"
        )
    return _FAMILIES[family](BACKBONES[backbone], classes=classes, width=width)


def network_from_source(source: str, *, classes: int, width: int) -> SegmentationNetwork:
    """The network that a manifest names, where it is a known architecture.

    Nothing else that a manifest says is acted upon: the factory that it names is code, and a bundle names none.

    Raises :class:`NetworkError` for a factory, and for the class of a network that was exported from memory.
    """
    if source in ARCHITECTURES:
        return network_from_arch(source, classes=classes, width=width)
    by_hand = "hand the network over, as in converters.validate(bundle, network=network)"
    if ":" in source:
        raise NetworkError(f"the bundle names the factory {source!r}, and what a bundle names is not run: {by_hand}")
    raise NetworkError(
        f"the bundle is of a {source} that was exported from Python, and nothing says how to build one anew: {by_hand}"
    )


def network_from_factory(path: str) -> nn.Module:
    """A user's network, from ``package.module:factory`` called without arguments.

    This runs code, so ``path`` is what the user says, never what a file says. The working directory, where a user's own
    module lies, is searched too, and last: nothing in it takes the place of a module that is installed, and one that
    such a module hides is refused. The working directory is the same afterwards. Raises :class:`NetworkError` when the
    path does not name a callable that returns an ``nn.Module`` of known shapes.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise NetworkError(f"a model is named as package.module:factory; received {path!r}")
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.append(str(here))
    with same_directory():
        return _made(path, module_name, attribute, here)


def _made(path: str, module_name: str, attribute: str, here: Path) -> nn.Module:
    try:
        module = importlib.import_module(module_name)
        _check_not_hidden(module, here)
        factory = getattr(module, attribute)
    except AttributeError as error:
        raise NetworkError(f"the module {module_name!r} has no {attribute!r}") from error
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:
        # Importing a module runs it, so anything may be raised; a script without a guard even ends the process.
        raise NetworkError(f"cannot import {module_name!r} for the model {path!r}: {_said(error)}") from error
    try:
        network = factory() if callable(factory) else None
    except (Exception, SystemExit) as error:
        raise NetworkError(f"the factory {path!r} failed: {_said(error)}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{path!r} must be a callable that returns a torch.nn.Module; it gave {network!r}")
    check_shapes_known(network)
    return network


def _check_not_hidden(module: ModuleType, here: Path) -> None:
    """Raise :class:`NetworkError` for a module from elsewhere where the working directory has one of its name."""
    top = module.__name__.partition(".")[0]
    own = importlib.machinery.PathFinder.find_spec(top, [str(here)])
    found = getattr(sys.modules[top], "__spec__", None)
    # A folder without an __init__.py counts where there is nothing else.
    if own is None or own.origin is None or found is None or found.origin is None:
        return
    if not (Path(found.origin).exists() and Path(found.origin).samefile(own.origin)):
        place = "Python itself" if found.origin in ("built-in", "frozen") else found.origin
        raise NetworkError(f"{own.origin} is hidden by the module {top!r} of {place}; give your file another name")


@contextmanager
def same_directory() -> Iterator[None]:
    """Inside, code of a user's may change the working directory; afterwards it is what it was."""
    here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
