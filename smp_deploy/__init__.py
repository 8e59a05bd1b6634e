"""The product: public API, command line, demo and machine report."""

from importlib.metadata import version as _version

__version__ = _version("smp-deploy")

__all__ = ["__version__"]
