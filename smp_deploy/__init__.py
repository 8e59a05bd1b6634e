"""The command line and what only it needs. In Python use ``engines`` on a vehicle and ``converters`` at a desk."""

from importlib.metadata import version as _version

__version__ = _version("smp-deploy")

__all__ = ["__version__"]
