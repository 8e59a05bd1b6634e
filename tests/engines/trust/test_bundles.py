"""Bundles, signed and verified; and what that takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from engines import Precision, Schedule
from engines.bundle.bundle import Bundle
from engines.bundle.contents import record_of_file
from engines.errors import BundleError, InputError, OutputError, UntrustedBundle
from engines.trust import Role, sign_bundle, verify_bundle
from engines.trust.keys import key_sha256
from tests.conftest import ROOT
from tests.engines.test_proof import with_engine
from tests.signers import Owner, certificate_file, key_file, new_key, public_file

KEY = new_key()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return key_file(tmp_path / "release.pem", KEY)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return public_file(tmp_path / "release.pub", KEY)


def test_a_signed_bundle_is_verified(bundle: Path, private: Path, public: Path) -> None:
    assert sign_bundle(bundle, private) == bundle / "model.sig"
    assert verify_bundle(bundle, key=public).name == str(public)
    assert verify_bundle(Bundle.open(bundle), key=public).name == str(public)
    # Reports are made later, and it may be called otherwise.
    (bundle / "reports").mkdir()
    (bundle / "reports" / "validation.json").write_text("{}")
    moved = Path(shutil.move(bundle, bundle.with_name("moved")))
    assert verify_bundle(moved, key=public).name == str(public)


def renewed(bundle: Path, *names: str) -> None:
    """Make the manifest say of these files what they are."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in names:
        record = record_of_file(bundle / name)
        manifest["files"][name] = {"sha256": record.sha256, "size": record.size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_another_manifest_is_refused(bundle: Path, private: Path, public: Path) -> None:
    sign_bundle(bundle, private)
    with (bundle / "weights.bin").open("r+b") as stream:
        stream.write(b"\x00\x01\x02\x03")
    with pytest.raises(BundleError, match=r"weights\.bin is not the file that was exported"):
        verify_bundle(bundle, key=public)
    renewed(bundle, "weights.bin")
    message = f"{bundle}/model.sig is not of this manifest.json: it was altered, or the signature is another bundle's"
    with pytest.raises(UntrustedBundle, match=f"^{re.escape(message)}$"):
        verify_bundle(bundle, key=public)


def test_what_is_no_signature_is_refused(bundle: Path, private: Path, public: Path) -> None:
    with pytest.raises(BundleError, match=r"^.*/model\.sig is not there: the bundle is not signed$"):
        verify_bundle(bundle, key=public)
    signature = bundle / "model.sig"
    shutil.move(sign_bundle(bundle, private), bundle.parent / "elsewhere.sig")
    signature.symlink_to(bundle.parent / "elsewhere.sig")
    with pytest.raises(BundleError, match=r"model\.sig is a link; a bundle has none$"):
        verify_bundle(bundle, key=public)
    # Signing anew replaces the link, whatever it led to, where that is asked for.
    message = f"^{re.escape(str(signature))} is not a signature of this key: give replace=True to put one in its place$"
    with pytest.raises(InputError, match=message):
        sign_bundle(bundle, private)
    sign_bundle(bundle, private, replace=True)
    assert not signature.is_symlink()
    assert verify_bundle(bundle, key=public).name == str(public)
    with signature.open("wb") as stream:
        stream.truncate((4 << 20) + 1)
    with pytest.raises(BundleError, match=r"model\.sig is larger than 4 MiB, the most that is read of such a file$"):
        verify_bundle(bundle, key=public)


def test_a_manifest_that_was_exchanged_is_not_signed(bundle: Path, private: Path) -> None:
    opened = Bundle.open(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["tools"]["other"] = "1"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"was exported anew meanwhile; do it again$"):
        sign_bundle(opened, private)


def test_a_signature_that_cannot_be_written_is_an_error(bundle: Path, private: Path) -> None:
    (bundle / "model.sig").mkdir()
    with pytest.raises(OutputError, match=r"^cannot write .*/model\.sig: Is a directory$"):
        sign_bundle(bundle, private, replace=True)


def test_the_signature_of_another_key_is_not_replaced_in_silence(bundle: Path, private: Path, tmp_path: Path) -> None:
    theirs = key_file(tmp_path / "supplier.pem", new_key())
    held = sign_bundle(bundle, theirs).read_bytes()
    message = (
        f"^{re.escape(str(bundle))}/model.sig is not a signature of this key: give replace=True to put one in its "
    )
    with pytest.raises(InputError, match=message):
        sign_bundle(bundle, private)
    # Nor because it says that it is one of this key.
    file = json.loads(held)
    public = KEY.public_key()
    file["verificationMaterial"]["publicKey"]["hint"] = key_sha256(public)
    (bundle / "model.sig").write_text(json.dumps(file))
    with pytest.raises(InputError, match=message):
        sign_bundle(bundle, private)
    (bundle / "model.sig").write_bytes(held)
    sign_bundle(bundle, theirs)
    sign_bundle(bundle, private, replace=True)
    sign_bundle(bundle, private)


def test_a_signature_that_the_policy_would_not_take_is_not_written(
    bundle: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    other = key_file(tmp_path / "other.pem", new_key())
    with pytest.raises(UntrustedBundle, match=r"model\.sig was made by another key than supplier$"):
        sign_bundle(bundle, other, trust=write_policy(public))
    with pytest.raises(UntrustedBundle, match=r"nobody who may sign a bundle of the product 'smp-resnet18'$"):
        sign_bundle(bundle, private, trust=write_policy(public, "another"))
    assert not (bundle / "model.sig").exists()
    sign_bundle(bundle, private, trust=write_policy(public))


def test_one_file_of_certificates_is_one(bundle: Path, tmp_path: Path) -> None:
    today = datetime.now(timezone.utc)
    times = {"start": today - timedelta(days=1), "end": today + timedelta(days=1)}
    root = Owner.root(**times)
    team = Owner.leaf(root, **times)
    key, own, above = (
        key_file(tmp_path / "team.pem", team.key),
        certificate_file(tmp_path / "team.crt", team),
        certificate_file(tmp_path / "root.crt", root),
    )
    sign_bundle(bundle, key, certificate=own, certificate_chain=str(above))
    for chain in (above, str(above), [above]):
        assert verify_bundle(bundle, certificate_chain=chain).certificate == "CN=Model release,O=Example"


def test_a_key_alone_vouches_for_all_that_a_session_reads(
    bundle: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    sign_bundle(bundle, private)
    with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    hint = "target.json lists what was added on a target, and trust= names a policy of who may sign it"
    message = f"^{re.escape(str(bundle))}/target.sig is not there: the target is not signed; {re.escape(hint)}$"
    with pytest.raises(BundleError, match=message):
        verify_bundle(bundle, key=public)
    vehicle = new_key()
    policy = json.loads(write_policy(public).read_text())
    roles = {"roles": ["target"], "key": public_file(tmp_path / "vehicle.pub", vehicle).name}
    policy["signers"] += [{"type": "key", "name": "vehicle", **roles}]
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    words = {"role": Role.TARGET, "trust": tmp_path / "policy.json"}
    sign_bundle(bundle, key_file(tmp_path / "vehicle.pem", vehicle), **words)
    message = f"^{re.escape(f'{bundle}/target.sig was made by another key than {public}; {hint}')}$"
    with pytest.raises(UntrustedBundle, match=message):
        verify_bundle(bundle, key=public)
    assert verify_bundle(bundle, trust=tmp_path / "policy.json").name == "supplier"
    policy["signers"][1]["key"] = public.name
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    sign_bundle(bundle, private, **words, replace=True)
    assert verify_bundle(bundle, key=public).name == str(public)


def write_policy(public: Path, product: str = "smp-resnet18") -> Path:
    rule = {"type": "key", "name": "supplier", "roles": ["bundle"], "products": [product], "key": public.name}
    policy = public.with_name("policy.json")
    policy.write_text(json.dumps({"policy_version": 1, "signers": [rule], "versions": "versions.json"}))
    return policy


def test_a_policy_verifies_bundles(bundle: Path, private: Path, public: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, private)
    policy = write_policy(public)
    assert verify_bundle(bundle, trust=policy).name == "supplier"
    held = {"versions_format": 1, "signers": {"supplier": {"smp-resnet18": 1}}}
    (tmp_path / "versions.json").write_text(json.dumps(held))
    message = (
        f"{bundle}/model.sig is of version 0 of 'smp-resnet18', and {tmp_path}/versions.json remembers version 1: "
        "an older one is not taken"
    )
    for remember in (False, True):
        with pytest.raises(UntrustedBundle, match=f"^{re.escape(message)}$"):
            verify_bundle(bundle, trust=policy, remember=remember)


def test_a_version_that_cannot_be_remembered_is_an_error(tmp_path: Path) -> None:
    from engines.trust import Release
    from engines.trust.versions import Versions

    (tmp_path / "versions.json").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"^.*/versions\.json is a device, where a file is needed$"):
        Versions(tmp_path / "versions.json").remember("supplier", Release("x", 1), "model.sig")


def test_arguments_that_do_not_go_together_are_refused(bundle: Path, private: Path, public: Path) -> None:
    for words in ({}, {"key": public, "trust": public}, {"key": public, "certificate_chain": [public]}):
        message = r"^one of key=, certificate_chain= and trust= says whose signature is taken; give one$"
        with pytest.raises(InputError, match=message):
            verify_bundle(bundle, **words)
    with pytest.raises(InputError, match=r"^remember= needs the file of versions that trust= names$"):
        verify_bundle(bundle, key=public, remember=True)
    with pytest.raises(
        InputError, match=r"^certificate_chain= leads from the owner's certificate to a root: give cert"
    ):
        sign_bundle(bundle, private, certificate_chain=[public])


def test_verifying_imports_cryptography_and_nothing_else(bundle: Path, private: Path, public: Path) -> None:
    sign_bundle(bundle, private)
    script = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        "from engines.trust import verify_bundle\n"
        "assert 'cryptography' not in sys.modules\n"
        "verify_bundle(sys.argv[1], key=sys.argv[2])\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(json.dumps(sorted(loaded)))\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        [*command, str(bundle), str(public)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    # The first two are parts of cryptography; msgspec takes typing_extensions where they happen to be there.
    loaded = [name for name in json.loads(result.stdout) if name != "typing_extensions"]
    assert loaded == ["_cffi_backend", "_openssl", "cryptography", "engines", "msgspec", "numpy"]


def test_without_cryptography_the_extra_is_named(bundle: Path) -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from engines.errors import MissingDependency\n"
        "from engines.trust import Policy, sign_bundle, verify_bundle\n"
        "def policy():\n"
        '    open(\'policy.json\', \'w\').write(\'{"policy_version": 1, "signers": [{"type": "key", "name": "a", \'\n'
        '        \'"roles": ["bundle"], "products": ["p"], "key": "k"}]}\')\n'
        "    Policy.open('policy.json')\n"
        "for call in (lambda: sign_bundle('b', 'k'), lambda: verify_bundle('b', key='k'),\n"
        "             lambda: verify_bundle('b', certificate_chain=['k']), policy):\n"
        "    try:\n        call()\n"
        "    except MissingDependency as error:\n        print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=bundle.parent,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "cryptography is not installed; install it with: pip install 'smp-deploy[sign]'\n" * 4
