"""Policies: who may sign what; and versions, which only grow."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest

from engines.errors import InputError, OutputError, UntrustedBundle
from engines.trust import Policy, Release, Role, SignedSet, verified
from engines.trust.signing import SigningKey
from engines.trust.versions import Versions
from tests.signers import SOON, Owner, certificate_file, new_key, public_file

MANIFEST, ENGINE = (hashlib.sha256(text).hexdigest() for text in (b"{}", b"engine"))
SUPPLIER, TARGET = new_key(), new_key()
BY_SUPPLIER, BY_VEHICLE = SigningKey(SUPPLIER), SigningKey(TARGET)
ROOT = Owner.root()
LEAF = Owner.leaf(ROOT)
PRODUCTS = ["smp-resnet18", "fcn8s-resnet18"]


def write(folder: Path, **changes: object) -> Path:
    """A policy: a supplier's key and a root for bundles, a vehicle's key for what is made on it."""
    public_file(folder / "supplier.pub", SUPPLIER)
    public_file(folder / "vehicle.pub", TARGET)
    certificate_file(folder / "root.crt", ROOT)
    document = {
        "policy_version": 1,
        "signers": [
            {"type": "key", "name": "supplier", "roles": ["bundle"], "products": PRODUCTS, "key": "supplier.pub"},
            {
                "type": "certificate",
                "name": "release team",
                "roles": ["bundle"],
                "products": PRODUCTS,
                "roots": "root.crt",
                "subject": "CN=Model release,O=Example",
            },
            {"type": "key", "name": "vehicle", "roles": ["target"], "key": "vehicle.pub"},
        ],
        "versions": "versions.json",
        **changes,
    }
    path = folder / "policy.json"
    path.write_text(json.dumps(document))
    return path


def bundle(signing: SigningKey = BY_SUPPLIER) -> SignedSet:
    digests = {"manifest.json": MANIFEST}
    return SignedSet(Role.BUNDLE, digests, signing.signature("road", digests), "road/model.sig")


def target(signing: SigningKey = BY_VEHICLE) -> SignedSet:
    digests = {"manifest.json": MANIFEST, "target.json": ENGINE, "engines/a.engine": ENGINE}
    return SignedSet(Role.TARGET, digests, signing.signature("road", digests), "road/target.sig")


FIRST = Release("smp-resnet18", 1)


def test_each_signs_what_they_may(tmp_path: Path) -> None:
    policy = Policy.open(write(tmp_path))
    signers = verified([bundle(), target()], policy, FIRST, now=SOON)
    assert {role: signer.name for role, signer in signers.items()} == {Role.BUNDLE: "supplier", Role.TARGET: "vehicle"}
    by_certificate = verified([bundle(SigningKey(LEAF.key, (LEAF.certificate,)))], policy, FIRST, now=SOON)
    assert by_certificate[Role.BUNDLE].name == "release team"


def test_nobody_signs_what_they_may_not(tmp_path: Path) -> None:
    policy = Policy.open(write(tmp_path, signers=json.loads(write(tmp_path).read_text())["signers"][::2]))
    with pytest.raises(UntrustedBundle, match=r"^road/model\.sig was made by another key than supplier$"):
        verified([bundle(SigningKey(TARGET))], policy, FIRST)
    with pytest.raises(UntrustedBundle, match=r"^road/target\.sig was made by another key than vehicle$"):
        verified([bundle(), target(SigningKey(SUPPLIER))], policy, FIRST)
    # Nor does the signature of a target's files stand for one of the bundle, whoever made both.
    held = target(SigningKey(SUPPLIER))
    moved = SignedSet(Role.BUNDLE, {"manifest.json": MANIFEST}, held.signature, "road/model.sig")
    with pytest.raises(UntrustedBundle, match=r"model\.sig is not of these files; signed, but not in the bundle: 'eng"):
        verified([moved], policy, FIRST)


def test_sets_are_of_one_bundle(tmp_path: Path) -> None:
    policy = Policy.open(write(tmp_path))
    with pytest.raises(ValueError, match=r"^a bundle, and no role twice; received \['target'\]$"):
        verified([target()], policy, FIRST)
    with pytest.raises(ValueError, match=r"^a bundle, and no role twice; received \['bundle', 'bundle'\]$"):
        verified([bundle(), bundle()], policy, FIRST)
    digests = {"manifest.json": ENGINE}
    other = SignedSet(Role.TARGET, digests, BY_VEHICLE.signature("road", digests), "road/target.sig")
    with pytest.raises(ValueError, match=r"^the sets are of several bundles: their manifests differ$"):
        verified([bundle(), other], policy, FIRST)


def test_an_older_version_is_refused(tmp_path: Path) -> None:
    policy = Policy.open(write(tmp_path))
    for version in (1, 3, 3):
        verified([bundle()], policy, Release("smp-resnet18", version), remember=True)
    message = (
        f"road/model.sig is of version 2 of 'smp-resnet18', and {tmp_path / 'versions.json'} remembers version 3: "
        "an older one is not taken"
    )
    with pytest.raises(UntrustedBundle, match=f"^{re.escape(message)}$"):
        verified([bundle()], policy, Release("smp-resnet18", 2))
    # Another product, and another signer's of the same name, have their own counts.
    verified([bundle()], policy, Release("fcn8s-resnet18", 1), remember=True)
    verified([bundle(SigningKey(LEAF.key, (LEAF.certificate,)))], policy, FIRST, now=SOON, remember=True)
    assert json.loads((tmp_path / "versions.json").read_text()) == {
        "versions_format": 1,
        "signers": {"supplier": {"smp-resnet18": 3, "fcn8s-resnet18": 1}, "release team": {"smp-resnet18": 1}},
    }


def test_a_bundle_of_a_product_that_is_not_named_is_refused(tmp_path: Path) -> None:
    """A version is one of a product: an old bundle under another name would be none older."""
    policy = Policy.open(write(tmp_path))
    verified([bundle()], policy, Release("smp-resnet18", 5), remember=True)
    message = "road/model.sig is of no use: the policy names nobody who may sign a bundle of the product 'smp-resnet50'"
    with pytest.raises(UntrustedBundle, match=f"^{re.escape(message)}$"):
        verified([bundle()], policy, Release("smp-resnet50", 0))
    # Each signs what they are named for, and no more.
    write(tmp_path, signers=[key_rule(), key_rule(name="other", products=["other"], key="vehicle.pub")])
    policy = Policy.open(tmp_path / "policy.json")
    assert verified([bundle(BY_VEHICLE)], policy, Release("other", 1))[Role.BUNDLE].name == "other"
    with pytest.raises(UntrustedBundle, match=r"^road/model\.sig was made by another key than other$"):
        verified([bundle()], policy, Release("other", 1))


def test_a_place_for_versions_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A partition that is not mounted must not look like a vehicle that has not seen a version yet."""
    policy = Policy.open(write(tmp_path, versions="mounted/versions.json"))
    message = (
        f"^{re.escape(str(tmp_path))}/mounted/versions.json cannot be used: it lies in a folder that is not there$"
    )
    for remember in (False, True):
        with pytest.raises(InputError, match=message):
            verified([bundle()], policy, FIRST, remember=remember)
    (tmp_path / "mounted").mkdir()
    verified([bundle()], policy, FIRST)
    (tmp_path / "mounted" / "versions.json").symlink_to("elsewhere.json")
    with pytest.raises(InputError, match=r"versions\.json cannot be used: it leads to a file that is not there$"):
        verified([bundle()], policy, FIRST)


def test_who_waits_for_the_versions_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read a folder may lock it, for ever."""
    monkeypatch.setattr("engines.bundle.gate.LONGEST_WAIT_S", 0.05)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    message = f"^another process is at work in {re.escape(str(tmp_path))}; wait for its end$"
    with pytest.raises(OutputError, match=message):
        Versions(tmp_path / "versions.json").remember("supplier", FIRST, "model.sig")
    os.close(folder)
    Versions(tmp_path / "versions.json").remember("supplier", FIRST, "model.sig")


def test_what_is_refused_is_not_remembered(tmp_path: Path) -> None:
    policy = Policy.open(write(tmp_path))
    with pytest.raises(UntrustedBundle):
        verified([bundle(SigningKey(new_key()))], policy, FIRST, remember=True)
    with pytest.raises(UntrustedBundle):
        verified([bundle(), target(SigningKey(SUPPLIER))], policy, FIRST, remember=True)
    assert not (tmp_path / "versions.json").exists()


def test_versions_can_be_read_only(tmp_path: Path) -> None:
    policy = Policy.open(write(tmp_path))
    verified([bundle()], policy, Release("smp-resnet18", 3), remember=True)
    before = (tmp_path / "versions.json").read_bytes()
    # Only who asks for it writes.
    verified([bundle()], policy, Release("smp-resnet18", 4))
    with pytest.raises(UntrustedBundle, match="is of version 2 of 'smp-resnet18'"):
        verified([bundle()], policy, Release("smp-resnet18", 2))
    assert (tmp_path / "versions.json").read_bytes() == before


def _accept(path: Path, product: int) -> None:
    for version in range(1, 11):
        Versions(path).remember("supplier", Release(f"{product}", version), "model.sig")


def test_no_count_is_lost_when_many_processes_remember(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    processes = [multiprocessing.get_context("fork").Process(target=_accept, args=(path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert json.loads(path.read_text())["signers"] == {"supplier": {f"{n}": 10 for n in range(4)}}
    assert [held.name for held in tmp_path.iterdir()] == ["versions.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"versions_format": 2}', "Invalid enum value 2 - at `$.versions_format`"),
        ('{"signers": {"supplier": {"x": -1}}}', "Expected `int` >= 0 - at `$.signers[...][...]`"),
        ('{"signers": {}, "signers": {}}', "it is not JSON: the key 'signers' stands twice"),
    ],
)
def test_a_damaged_file_of_versions_accepts_nothing(tmp_path: Path, content: str, reason: str) -> None:
    policy = Policy.open(write(tmp_path))
    (tmp_path / "versions.json").write_text(content)
    message = f"^{re.escape(f'{tmp_path}/versions.json cannot be used: {reason}')}$"
    for remember in (False, True):
        with pytest.raises(InputError, match=message):
            verified([bundle()], policy, FIRST, remember=remember)


def key_rule(**changes: object) -> dict[str, Any]:
    rule = {"type": "key", "name": "supplier", "roles": ["bundle"], "products": PRODUCTS, "key": "supplier.pub"}
    return {**rule, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy_version": 2}, "Invalid enum value 2 - at `$.policy_version`"),
        ({"signers": []}, "Expected `array` of length >= 1 - at `$.signers`"),
        ({"version": "x"}, "Object contains unknown field `version`"),
        ({"signers": [key_rule(type="password")]}, "Invalid value 'password' - at `$.signers[0].type`"),
        ({"signers": [key_rule(roles=["all"])]}, "Invalid enum value 'all' - at `$.signers[0].roles[0]`"),
        ({"signers": [key_rule(roles=[])]}, "Expected `array` of length >= 1 - at `$.signers[0].roles`"),
        ({"signers": [key_rule(subject="CN=X")]}, "Object contains unknown field `subject` - at `$.signers[0]`"),
        ({"signers": [key_rule(sha256="0" * 63)]}, "Expected `str` matching regex '\\\\A[0-9a-f]{64}\\\\Z' - at "
         "`$.signers[0].sha256`"),
        ({"signers": [key_rule(products=[])]}, "'supplier' may sign bundles: products has to say of which, as the "
         "bundles name them - at `$.signers[0]`"),
        ({"signers": [key_rule(roles=["target"])]}, "'supplier' signs no bundles, so products means nothing - at "
         "`$.signers[0]`"),
        ({"signers": [key_rule(key="a\0b")]}, "Expected `str` matching regex '\\\\A[^\\\\x00]+\\\\Z' - at "
         "`$.signers[0].key`"),
        ({"versions": "v\0.json"}, "Expected `str` matching regex '\\\\A[^\\\\x00]+\\\\Z' - at `$.versions`"),
        ({"signers": [key_rule(name="\ud800")]}, "it is not JSON: the escape \\ud800 stands for half of a character"),
    ],
)  # fmt: skip
def test_a_policy_that_says_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(InputError, match=f"^{re.escape(f'{path} cannot be used: {reason}')}$"):
        Policy.open(path)


def test_a_policy_names_a_key_that_it_pins_and_people_that_it_means(tmp_path: Path) -> None:
    other = key_rule(sha256="0" * 64)
    with pytest.raises(InputError, match=r"supplier\.pub is another key: its SHA-256 is [0-9a-f]{64}, not 0{64}$"):
        Policy.open(write(tmp_path, signers=[other]))
    anybody = {"type": "certificate", "name": "all", "roles": ["bundle"], "products": PRODUCTS, "roots": "root.crt"}
    message = r"^.*policy\.json names the roots 'root\.crt' for 'all' without a subject, alternative_name or sha256$"
    with pytest.raises(InputError, match=message):
        Policy.open(write(tmp_path, signers=[anybody]))
    message = r"^.*policy\.json cannot be used: 'Model release' is no subject of a certificate \(RFC 4514\)$"
    with pytest.raises(InputError, match=message):
        Policy.open(write(tmp_path, signers=[anybody | {"subject": "Model release"}]))
    with pytest.raises(FileNotFoundError, match=r"absent\.pub"):
        Policy.open(write(tmp_path, signers=[key_rule(key="absent.pub")]))
