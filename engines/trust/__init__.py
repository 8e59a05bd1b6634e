"""Trust: who made a bundle, in the format of OpenSSF Model Signing, and who may.

``statements`` says what is signed, ``envelopes`` how it lies in a file, ``keys`` and ``certificates`` who signed it,
``policy`` who may, ``versions`` which versions were seen. ``cryptography`` is imported where a key is read, and nothing
else is.
"""

from engines.trust.authorities import Authority, Role, Signer
from engines.trust.bundles import sign_bundle, signed_set, verify_bundle
from engines.trust.policy import Policy
from engines.trust.verifying import Release, SignedSet, verified, verify

__all__ = [
    "Authority",
    "Policy",
    "Release",
    "Role",
    "SignedSet",
    "Signer",
    "sign_bundle",
    "signed_set",
    "verified",
    "verify",
    "verify_bundle",
]
