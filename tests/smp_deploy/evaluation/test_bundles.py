"""A bundle is judged like the network that it was exported from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from engines import Precision, Schedule, Session
from engines.errors import InputError
from smp_deploy.cli.app import app
from smp_deploy.datasets import open_dataset
from smp_deploy.datasets.cityscapes import LABEL_IDS
from smp_deploy.evaluation import NetworkPredictor, document_from_evaluation, evaluate
from smp_deploy.evaluation.predictors import BundlePredictor
from tests.smp_deploy.datasets import trees

SIZE = (64, 96)


@pytest.fixture
def root(tmp_path):
    """Two frames of the bundle's size, in Cityscapes' layout."""
    for number in range(2):
        name = f"lindau_{number:06d}_000019"
        trees.write_image(tmp_path / "leftImg8bit/val/lindau" / f"{name}_leftImg8bit.png", number, SIZE)
        trees.write_labels(tmp_path / "gtFine/val/lindau" / f"{name}_gtFine_labelIds.png", [*LABEL_IDS, 0], SIZE)
    return tmp_path


def test_a_session_scores_what_its_network_scores(exported, small_network, root):
    dataset = open_dataset("cityscapes", root, "val")
    with Session.open(exported.path, schedule=Schedule(2, 4)) as session:
        have = evaluate(session, dataset).confusion
    want = evaluate(NetworkPredictor(small_network.eval()), dataset).confusion
    moved = np.abs(have.counts - want.counts).sum() / 2
    assert moved <= 1e-3 * want.counts.sum()
    assert have.mean_iou == pytest.approx(want.mean_iou, abs=1e-4)


def test_a_part_of_the_phases_scores_what_its_network_scores(exported, small_network, root):
    dataset = open_dataset("cityscapes", root, "val")
    with Session.open(exported.path) as session:
        have = evaluate(BundlePredictor(session, 3), dataset).confusion
        with pytest.raises(InputError, match="has 16 phases; 17 of them"):
            BundlePredictor(session, 17)
    want = evaluate(NetworkPredictor(small_network.eval(), phases=3), dataset).confusion
    assert np.abs(have.counts - want.counts).sum() / 2 <= 1e-3 * want.counts.sum()


def test_the_command_takes_a_bundle(exported, root):
    arguments = [str(exported.path), "--dataset", "cityscapes", "--root", str(root), "--phases", "1", "--json"]
    result = CliRunner().invoke(app, ["evaluate", *arguments], standalone_mode=False)
    assert result.exception is None
    document = json.loads(result.stdout)
    assert document["frames"] == 2
    assert document["schedule"] == {"levels": 2, "sub_batch": 1, "lowering": "reshape"}
    shown = CliRunner().invoke(app, ["evaluate", *arguments[:-1], "--levels", "3"], standalone_mode=False)
    assert "2 frames of cityscapes val, levels 3, sub-batch 1, reshape, " in " ".join(shown.stdout.split())


def test_what_is_no_bundle_has_no_schedule(small_network, root):
    found = evaluate(NetworkPredictor(small_network.eval(), phases=1), open_dataset("cityscapes", root, "val"))
    assert found.schedule is None
    assert document_from_evaluation(found)["schedule"] is None


def test_classes_must_be_the_datasets(exported):
    with pytest.raises(InputError, match=r"has the classes .* labels of one cannot be judged by the other"):
        evaluate(exported, "scenes")


def test_a_bundle_is_judged_by_name_and_the_result_is_there_before_it_is_written(exported, root, tmp_path):
    output, seen = tmp_path / "found", []

    def on_result(found):
        seen.append((found, sorted(path.name for path in output.iterdir())))

    found = evaluate(
        exported.path, "cityscapes", root=root, limit=1, extremes=1, phases=1, output=output, on_result=on_result
    )
    assert seen == [(found, [])]
    assert found.frames == 1
    assert json.loads((output / "evaluation.json").read_text())["mean_iou"] == found.confusion.mean_iou


def test_an_argument_that_means_nothing_is_refused(exported):
    with pytest.raises(InputError, match=r"threads= is for a checkpoint; .* is none"):
        evaluate(exported, "scenes", threads=1)
    with pytest.raises(InputError, match=r"precision= is for a bundle or a checkpoint; object is none"):
        evaluate(object(), "scenes", precision=Precision.FP16)
