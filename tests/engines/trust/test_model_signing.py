"""Both ways with ``model_signing`` 1.1.1: its signatures are verified here, and ours there.

``recorded/`` is what its command line wrote for the folder ``recorded/model``: ``sign key`` with a key of each curve,
and ``sign certificate`` with a chain of three. Where the command is installed, it also signs and verifies anew:
``make model-signing`` puts it into an environment of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engines.bundle.bundle import Bundle
from engines.errors import UntrustedBundle
from engines.trust import Authority, Role, SignedSet, sign_bundle, verify, verify_bundle
from engines.trust.certificates import TrustedRoots
from engines.trust.keys import TrustedKey
from tests.signers import Owner, certificate_file, key_file, new_key, public_file

RECORDED = Path(__file__).parent / "recorded"
NOW = datetime(2027, 1, 1, tzinfo=timezone.utc)


def recorded(name: str, **changed: bytes) -> SignedSet:
    model = RECORDED / "model"
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    files |= {"weights.bin": changed.get("weights", files["weights.bin"])}
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    path = RECORDED / f"{name}.sig"
    return SignedSet(Role.BUNDLE, digests, path.read_bytes(), path.name)


def authority(name: str) -> Authority:
    if name == "certificate":
        return TrustedRoots.open([RECORDED / "root.crt"])
    return TrustedKey.open(RECORDED / f"{name}.pub")


@pytest.mark.parametrize("name", ["p256", "p384", "p521", "certificate"])
def test_its_recorded_signatures_are_verified(name: str) -> None:
    signer = verify(recorded(name), [authority(name)], NOW)
    assert signer.certificate == ("CN=Model release,O=Example" if name == "certificate" else None)
    message = f"^{name}\\.sig is not of these files; altered after signing: 'weights\\.bin'$"
    with pytest.raises(UntrustedBundle, match=message):
        verify(recorded(name, weights=b"other"), [authority(name)], NOW)


def test_its_recorded_certificate_expires_here() -> None:
    late = datetime(2036, 12, 31, tzinfo=timezone.utc)
    message = "certificate.sig rests on the certificate of 'CN=Model release,O=Example', which expired on 2036-11-24"
    with pytest.raises(UntrustedBundle, match=f"^{re.escape(message)}$"):
        verify(recorded("certificate"), [authority("certificate")], late)


ModelSigning = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def model_signing() -> ModelSigning:
    """Its command line."""
    command = os.environ.get("MODEL_SIGNING") or shutil.which("model_signing")
    if command is None:
        pytest.skip("not run: model_signing is not installed; `make model-signing` installs it and runs this")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([command, *map(str, words)], capture_output=True, text=True, check=False)

    return run


def test_it_verifies_our_key_and_we_its(model_signing: ModelSigning, bundle: Path, tmp_path: Path) -> None:
    key = new_key()
    private, public = key_file(tmp_path / "k.pem", key), public_file(tmp_path / "k.pub", key)
    signature = sign_bundle(bundle, private)
    words = ("verify", "key", bundle, "--signature", signature, "--public_key", public)
    result = model_signing(*words)
    assert (result.returncode, result.stdout) == (0, "Verification succeeded\n"), result.stderr
    # What is made later, is left out.
    for name in ("reports/validation.json", "engines/a.engine", "target.json", "target.sig"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("{}")
    assert model_signing(*words).returncode == 0
    (bundle / "added.bin").write_text("x")
    assert "Extra files found in model 'bundle': added.bin" in model_signing(*words).stderr
    (bundle / "added.bin").unlink()

    words = ("sign", "key", bundle, "--private_key", private, "--signature", signature)
    with_paths = (*words, *(f"--ignore-paths={bundle / name}" for name in ("reports", "engines", "target.json")))
    assert model_signing(*with_paths, f"--ignore-paths={bundle / 'target.sig'}").returncode == 0
    assert verify_bundle(bundle, key=public).name == str(public)
    assert model_signing(*words).returncode == 0
    message = r"model\.sig is not of these files; signed, but not in the bundle: 'engines/a\.engine', 'reports/valida"
    with pytest.raises(UntrustedBundle, match=message):
        verify_bundle(bundle, key=public)


def test_it_verifies_our_certificate_and_we_its(model_signing: ModelSigning, bundle: Path, tmp_path: Path) -> None:
    # Certificates are judged by the time of the day here.
    times = {"start": datetime(2026, 1, 1, tzinfo=timezone.utc), "end": datetime(2046, 1, 1, tzinfo=timezone.utc)}
    root = Owner.root(**times)
    leaf = Owner.leaf(root, **times)
    private = key_file(tmp_path / "k.pem", leaf.key)
    own, chain = certificate_file(tmp_path / "leaf.crt", leaf), certificate_file(tmp_path / "root.crt", root)
    signature = sign_bundle(bundle, private, certificate=own, certificate_chain=[chain])
    result = model_signing("verify", "certificate", bundle, "--signature", signature, "--certificate_chain", chain)
    assert (result.returncode, result.stdout) == (0, "Verification succeeded\n"), result.stderr
    words = ("--private_key", private, "--signing_certificate", own, "--certificate_chain", chain)
    assert model_signing("sign", "certificate", bundle, "--signature", signature, *words).returncode == 0
    assert verify_bundle(Bundle.open(bundle), certificate_chain=[chain]).certificate == "CN=Model release,O=Example"
