"""A session, and an engine's build, under a policy: nothing unsigned is given to a runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engines import Bundle, Precision, Schedule, Session, build_engine
from engines.errors import BundleError, UntrustedBundle
from engines.trust import Role, sign_bundle, verify_bundle
from tests.converters.verification.faults import sealed
from tests.engines.bundle.test_races import tuning
from tests.engines.test_proof import with_engine
from tests.signers import key_file, new_key, public_file

SUPPLIER, VEHICLE = new_key(), new_key()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The supplier signs bundles, the vehicle what it adds; versions only grow."""
    key_file(tmp_path / "supplier.pem", SUPPLIER)
    key_file(tmp_path / "vehicle.pem", VEHICLE)
    public_file(tmp_path / "supplier.pub", SUPPLIER)
    public_file(tmp_path / "vehicle.pub", VEHICLE)
    signers = [
        {"type": "key", "name": "supplier", "roles": ["bundle"], "key": "supplier.pub"},
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
        sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET)
    with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    with pytest.raises(BundleError, match=r"target\.sig is not there: the target is not signed"):
        Session.open(bundle, trust=policy)
    # The supplier may not, and his signature of the export is no worse for what was added.
    sign_bundle(bundle, tmp_path / "supplier.pem", role=Role.TARGET)
    with pytest.raises(UntrustedBundle, match=r"target\.sig was made by another key than vehicle"):
        Session.open(bundle, trust=policy)
    sign_bundle(bundle, tmp_path / "vehicle.pem", role=Role.TARGET)
    Session.open(bundle, trust=policy).close()
    Bundle.open(bundle).with_tuning(tuning("another device"))
    with pytest.raises(
        UntrustedBundle, match=r"target\.sig is not of these files; altered after signing: 'target\.json'"
    ):
        Session.open(bundle, trust=policy)


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
