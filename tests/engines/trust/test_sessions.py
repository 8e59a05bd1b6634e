"""A session, and an engine's build, under a policy: nothing unsigned is given to a runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from engines import Bundle, Precision, Schedule, Session, build_engine
from engines.bundle.contents import record_of
from engines.errors import BundleError, InputError, UntrustedBundle
from engines.trust import Role, sign_bundle, verify_bundle
from engines.trust.bundles import check_trust
from tests.converters.verification.faults import sealed
from tests.engines.bundle.test_races import tuning
from tests.engines.test_proof import with_engine
from tests.signers import key_file, new_key, public_file

SUPPLIER, VEHICLE = new_key(), new_key()
PRODUCTS = ["smp-resnet18", "another"]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The supplier signs bundles, the vehicle what it adds; versions only grow."""
    key_file(tmp_path / "supplier.pem", SUPPLIER)
    key_file(tmp_path / "vehicle.pem", VEHICLE)
    public_file(tmp_path / "supplier.pub", SUPPLIER)
    public_file(tmp_path / "vehicle.pub", VEHICLE)
    signers = [
        {"type": "key", "name": "supplier", "roles": ["bundle"], "products": PRODUCTS, "key": "supplier.pub"},
        {"type": "key", "name": "vehicle", "roles": ["target"], "key": "vehicle.pub"},
    ]
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"policy_version": 1, "signers": signers, "versions": "versions.json"}))
    return path


def test_what_is_signed_runs(bundle: Path, policy: Path, frame: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.sig is not there: the bundle is not signed"):
        Session.open(bundle, trust=policy)
    sign_bundle(bundle, tmp_path / "supplier.pem")
    with Session.open(bundle) as session:
        right = session.predict(frame)
    with Session.open(bundle, trust=policy) as session:
        np.testing.assert_array_equal(session.predict(frame), right)


def test_hashes_that_were_renewed_do_not_help(bundle: Path, policy: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, tmp_path / "supplier.pem")
    (-np.fromfile(bundle / "weights.bin", np.float32)).tofile(bundle / "weights.bin")
    sealed(bundle)
    Session.open(bundle).close()
    with pytest.raises(UntrustedBundle, match=r"is not of this manifest\.json: it was altered"):
        Session.open(bundle, trust=policy)
    with pytest.raises(UntrustedBundle, match=r"is not of this manifest\.json: it was altered"):
        build_engine(bundle, "tensorrt-rtx", trust=policy)


def test_two_graphs_that_change_places_are_noticed(bundle: Path, policy: Path, tmp_path: Path) -> None:
    """Both are listed and whole; the manifest alone says which is which."""
    sign_bundle(bundle, tmp_path / "supplier.pem")
    manifest = json.loads((bundle / "manifest.json").read_text())
    graphs = manifest["trunks"][0]["graphs"]
    graphs["fp32"], graphs["fp16"] = graphs["fp16"], graphs["fp32"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UntrustedBundle):
        Session.open(bundle, trust=policy)


def test_what_is_added_on_the_target_is_signed_there(bundle: Path, policy: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, tmp_path / "supplier.pem")
    with pytest.raises(BundleError, match=r"has no target\.json: nothing was added on a target"):
        sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET, trust=policy)
    with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    with pytest.raises(BundleError, match=r"target\.sig is not there: the target is not signed"):
        Session.open(bundle, trust=policy)
    # The supplier may not, and his signature of the export is no worse for what was added.
    with pytest.raises(UntrustedBundle, match=r"target\.sig was made by another key than vehicle"):
        sign_bundle(bundle, tmp_path / "supplier.pem", role=Role.TARGET, trust=policy)
    assert not (bundle / "target.sig").exists()
    sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET, trust=policy)
    Session.open(bundle, trust=policy).close()
    Bundle.open(bundle).with_tuning(tuning("another device"))
    with pytest.raises(
        UntrustedBundle, match=r"target\.sig is not of these files; altered after signing: 'target\.json'"
    ):
        Session.open(bundle, trust=policy)


def test_nothing_is_vouched_for_beside_an_export_that_nobody_signed(bundle: Path, policy: Path, tmp_path: Path) -> None:
    with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    with pytest.raises(
        InputError, match=r"^what was added on a target is signed where a policy takes the export: give"
    ):
        sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET)
    with pytest.raises(BundleError, match=r"model\.sig is not there: the bundle is not signed$"):
        sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET, trust=policy)
    assert not (bundle / "target.sig").exists()


@pytest.mark.parametrize("place", ["engine", "prepare"])
def test_an_engine_that_is_not_of_its_build_is_not_vouched_for(
    bundle: Path, policy: Path, tmp_path: Path, place: str
) -> None:
    sign_bundle(bundle, tmp_path / "supplier.pem")
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    engine = opened.engines[0]
    (bundle / getattr(engine, place)).write_bytes(b"another")
    target = json.loads((bundle / "target.json").read_text())
    record = record_of(b"another")
    target["files"][getattr(engine, place)] = {"sha256": record.sha256, "size": record.size}
    (bundle / "target.json").write_text(json.dumps(target))
    other = {"engine": "plan", "prepare": "plan of prepare"}[place]
    message = f"{bundle}/{engine.engine} is not what {engine.record} says: other {other}; build it again"
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET, trust=policy)


def test_what_others_plant_after_the_check_is_not_added_to(bundle: Path, policy: Path, tmp_path: Path) -> None:
    """A build takes minutes; what lies in the bundle at its end is signed under the name of the target."""
    sign_bundle(bundle, tmp_path / "supplier.pem")
    opened = Bundle.open(bundle)
    check_trust(opened, policy)
    with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    planted = (bundle / "target.json").read_bytes()
    message = (
        f"{bundle}/target.json is not the one that was verified: others have written it since; nothing was added to it"
    )
    for add in (
        lambda: with_engine(opened, "tensorrt", Precision.FP32, Schedule(2)),
        lambda: opened.with_tuning(tuning("a device")),
    ):
        with pytest.raises(UntrustedBundle, match=f"^{re.escape(message)}$"):
            add()
    assert (bundle / "target.json").read_bytes() == planted
    # Of what was not verified nobody vouches; then nothing is lost that others add.
    (bundle / "target.json").unlink()
    added = with_engine(opened, "tensorrt", Precision.FP32, Schedule(2)).with_tuning(tuning("a device"))
    assert [held.precision for held in Bundle.open(bundle).engines] == [Precision.FP32]
    sign_bundle(added, tmp_path / "vehicle.pem", role=Role.TARGET, trust=policy)
    assert check_trust(Bundle.open(bundle), policy).keys() == {Role.BUNDLE, Role.TARGET}


def test_an_older_version_is_refused(bundle: Path, policy: Path, tmp_path: Path) -> None:
    def released(version: int) -> None:
        sealed(bundle, version=version)
        sign_bundle(bundle, tmp_path / "supplier.pem")

    for version in (2, 1):
        # Until one is remembered, any is taken.
        released(version)
        Session.open(bundle, trust=policy).close()
    released(2)
    verify_bundle(bundle, trust=policy, remember=True)
    Session.open(bundle, trust=policy).close()
    released(1)
    with pytest.raises(UntrustedBundle, match="version 1"):
        Session.open(bundle, trust=policy)
    # Of another product the same version is none older.
    sealed(bundle, version=1, product="another")
    sign_bundle(bundle, tmp_path / "supplier.pem")
    Session.open(bundle, trust=policy).close()
