"""How a command opens its BUNDLE: whole, as a policy says it must be signed, and with every file read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engines.bundle.bundle import Bundle

_Used = TypeVar("_Used")


def opened_bundle(path: Path, trust: Path | None) -> Bundle:
    """The bundle, signed as the policy says where there is one, and every file of it verified.

    Raises :class:`engines.errors.BundleError`, and :class:`engines.errors.UntrustedBundle`.
    """

    def verified(bundle: Bundle) -> Bundle:
        bundle.verify()
        return bundle

    return used_bundle(verified, path, trust)


def used_bundle(use: Callable[[Bundle], _Used], path: Path, trust: Path | None) -> _Used:
    """What ``use`` gives of the bundle, signed as the policy says where there is one.

    Each file is verified as it is read; ``use`` calls :meth:`Bundle.verify` for the others, when it has read what it
    needs: so the weights are hashed once. A bundle that is replaced meanwhile is used anew, so what cannot be done
    twice is no part of ``use``.
    """

    def trusted(bundle: Bundle) -> _Used:
        if trust is not None:
            from engines.trust.bundles import check_trust

            check_trust(bundle, trust)
        return use(bundle)

    return Bundle.read_and(trusted, path)
