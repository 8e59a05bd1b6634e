"""``sign`` and ``verify``: what they print, and their exit codes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from engines import Bundle, Precision, Schedule
from tests.conftest import Cli, document
from tests.engines.bundle.test_races import tuning
from tests.engines.test_proof import with_engine
from tests.signers import key_file, new_key, public_file

KEY = new_key()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return key_file(tmp_path / "release.pem", KEY)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return public_file(tmp_path / "release.pub", KEY)


def write_policy(public: Path, **target: str) -> Path:
    supplier = {"name": "supplier", "roles": ["bundle"], "products": ["smp-resnet18"], "key": public.name}
    signers = [supplier, {"name": "vehicle", "roles": ["target"], **target}][: 1 + bool(target)]
    policy = {"policy_version": 1, "signers": [{"type": "key", **held} for held in signers]}
    path = public.with_name("policy.json")
    path.write_text(json.dumps(policy | {"versions": "versions.json"}))
    return path


def test_what_was_added_on_a_target_is_listed_when_it_is_signed(
    cli: Cli, bundle: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    assert cli("sign", bundle, "--key", private).returncode == 0
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2)).with_tuning(tuning("a device"))
    vehicle = new_key()
    key = key_file(tmp_path / "vehicle.pem", vehicle)
    policy = write_policy(public, key=public_file(tmp_path / "vehicle.pub", vehicle).name)
    words = ("sign", bundle, "--target", "--key", key)
    message = "smp-deploy: what was added on a target is signed where a policy takes the export: give --trust\n"
    assert (cli(*words).returncode, cli(*words).stderr) == (2, message)
    said = cli(*words, "--trust", policy, env={**os.environ, "COLUMNS": "200"})
    assert said.returncode == 0, said.stderr
    (engine,) = opened.engines
    lines = [line.split() for line in said.stdout.splitlines()]
    row = [engine.engine, "tensorrt", "fp16", *str(Schedule(2)).split(), opened.target.files[engine.engine].sha256[:16]]
    assert row in lines
    assert ["a", "device;", "r", "1", "onnxruntime", "fp32", *str(Schedule(2)).split(), "1.0"] in lines
    assert said.stdout.endswith(f"wrote {bundle}/target.sig\n")
    assert document(cli(*words, "--trust", policy, "--json"))["files"] == opened.target_digests
    assert cli("verify", bundle, "--trust", policy).returncode == 0
    result = cli("verify", bundle, "--key", public)
    assert result.returncode == 1
    assert result.stderr == (
        f"smp-deploy: {bundle}/target.sig was made by another key than {public}; target.json lists what was added on a "
        "target, and --trust names a policy of who may sign it\n"
    )


def test_another_signature_is_replaced_by_force_alone(
    cli: Cli, bundle: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    assert cli("sign", bundle, "--key", key_file(tmp_path / "other.pem", new_key())).returncode == 0
    result = cli("sign", bundle, "--key", private)
    message = f"smp-deploy: {bundle}/model.sig is not a signature of this key: give --force to put one in its place\n"
    assert (result.returncode, result.stderr) == (2, message)
    assert cli("verify", bundle, "--key", public).returncode == 1
    assert cli("sign", bundle, "--key", private, "--force").returncode == 0
    assert cli("verify", bundle, "--key", public).returncode == 0


def test_a_bundle_is_signed_and_verified(cli: Cli, bundle: Path, private: Path, public: Path) -> None:
    result = cli("sign", bundle, "--key", private)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"wrote {bundle}/model.sig\n", "")
    signer = {
        "name": str(public),
        "key_sha256": hashlib.sha256(public.read_bytes()).hexdigest(),
        "certificate": None,
    }
    assert document(cli("verify", bundle, "--key", public, "--json")) == {"bundle": str(bundle), "signer": signer}
    said = cli("verify", bundle, "--key", public).stdout
    assert "verified" in said
    assert signer["key_sha256"] in said
    assert document(cli("sign", bundle, "--key", private, "--json")) == {
        "bundle": str(bundle),
        "signature": str(bundle / "model.sig"),
    }


def test_what_is_not_as_it_was_signed_is_a_failed_check(
    cli: Cli, bundle: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    assert cli("sign", bundle, "--key", private).returncode == 0
    other = public_file(tmp_path / "other.pub", new_key())
    result = cli("verify", bundle, "--key", other)
    message = f"smp-deploy: {bundle}/model.sig was made by another key than {other}\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = cli("verify", bundle, "--key", public)
    assert result.returncode == 1
    assert result.stderr == (
        f"smp-deploy: {bundle}/model.sig is not of this manifest.json: it was altered, or the signature is another "
        "bundle's\n"
    )


def test_an_older_version_is_a_failed_check(
    cli: Cli, bundle: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    assert cli("sign", bundle, "--key", private).returncode == 0
    policy = write_policy(public)
    assert cli("verify", bundle, "--trust", policy, "--remember").returncode == 0
    versions = tmp_path / "versions.json"
    versions.write_text(json.dumps({"versions_format": 1, "signers": {"supplier": {"smp-resnet18": 7}}}))
    result = cli("verify", bundle, "--trust", policy)
    assert result.returncode == 1
    assert result.stderr == (
        f"smp-deploy: {bundle}/model.sig is of version 0 of 'smp-resnet18', and {versions} remembers version 7: an "
        "older one is not taken\n"
    )


def test_what_is_absent_or_malformed_is_bad_input(cli: Cli, bundle: Path, private: Path, public: Path) -> None:
    signature = bundle / "model.sig"
    for words, message in (
        (("verify", bundle, "--key", public), f"{signature} is not there: the bundle is not signed"),
        (("verify", bundle), "one of --key, --certificate-chain and --trust says whose signature is taken; give one"),
        (("verify", bundle, "--key", public, "--remember"), "--remember needs the file of versions that --trust names"),
        (("verify", bundle, "--key", private), f"{private} cannot be used: it is no public key in PEM"),
        (("verify", bundle, "--key", "absent.pub"), "absent.pub: No such file or directory"),
        (
            ("verify", bundle, "--trust", public),
            f"{public} cannot be used: it is not JSON: Expecting value: line 1 column 1 (char 0)",
        ),
        (
            ("sign", bundle, "--key", private, "--certificate-chain", public),
            "--certificate-chain leads from the owner's certificate to a root: give --certificate, too",
        ),
        (("sign", bundle.parent, "--key", private), f"{bundle.parent} is not a bundle: it has no manifest.json"),
    ):
        result = cli(*words)
        assert (result.returncode, result.stdout, result.stderr) == (2, "", f"smp-deploy: {message}\n")
    signature.write_text("{}")
    result = cli("verify", bundle, "--key", public)
    message = f"smp-deploy: {signature} cannot be used: Object missing required field `mediaType`\n"
    assert (result.returncode, result.stderr) == (2, message)


def test_the_pass_phrase_of_a_key_is_in_the_environment(cli: Cli, bundle: Path, public: Path, tmp_path: Path) -> None:
    key = key_file(tmp_path / "locked.pem", KEY, b"open sesame")
    result = cli("sign", bundle, "--key", key)
    message = f"smp-deploy: {key} is encrypted; give its pass phrase in SMP_DEPLOY_PASS_PHRASE\n"
    assert (result.returncode, result.stderr) == (2, message)
    assert (
        cli("sign", bundle, "--key", key, env={**os.environ, "SMP_DEPLOY_PASS_PHRASE": "open sesame"}).returncode == 0
    )
    assert cli("verify", bundle, "--key", public).returncode == 0
