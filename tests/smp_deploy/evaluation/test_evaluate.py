from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from engines.errors import InputError, LayoutError, OutputError
from smp_deploy.datasets import Scenes
from smp_deploy.evaluation import (
    ConfusionMatrix,
    document_from_evaluation,
    evaluate,
    judged,
    per_cent,
    table_from_evaluation,
    write_extremes,
    write_reports,
)

DATASET = Scenes("val", size=(48, 64), count=6)


class _Corrupted:
    """The truth, with an errors' share that grows with the frame's number: the last frame is the worst."""

    def __init__(self) -> None:
        self._frames = [DATASET.load(index) for index in range(len(DATASET))]

    def predict(self, image: np.ndarray) -> np.ndarray:
        index = next(i for i, example in enumerate(self._frames) if np.array_equal(example.image, image))
        labels = self._frames[index].labels.copy()
        wrong = np.random.default_rng(index).random(labels.shape) < 0.1 * index
        labels[wrong] = (labels[wrong] + 1) % 9
        return labels


@pytest.fixture(scope="module")
def found():
    return evaluate(_Corrupted(), DATASET, extremes=2)


def test_figures_are_those_of_all_frames_together(found):
    matrix, predictor = ConfusionMatrix(DATASET.info), _Corrupted()
    for index in range(len(DATASET)):
        example = DATASET.load(index)
        matrix.add(predictor.predict(example.image), example.labels)
    np.testing.assert_array_equal(found.confusion.counts, matrix.counts)
    assert found.frames == 6


def test_best_and_worst_frames(found):
    assert [score.index for score in found.best] == [0, 1]
    assert [score.index for score in found.worst] == [5, 4]
    assert found.best[0].mean_iou == 1


def test_progress_and_limit():
    seen = []
    found = evaluate(_Corrupted(), DATASET, limit=3, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.frames == 3


def test_reports_hold_every_figure(found, tmp_path):
    write_reports(found, tmp_path)
    document = json.loads((tmp_path / "evaluation.json").read_text())
    assert document == json.loads(json.dumps(document_from_evaluation(found)))
    assert document["mean_iou"] == pytest.approx(found.confusion.mean_iou)
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(DATASET.info.classes)
    assert float(rows[3]["iou"]) == pytest.approx(found.confusion.class_ious[3])
    with (tmp_path / "confusion.csv").open() as file:
        matrix = [[int(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]]
    np.testing.assert_array_equal(matrix, found.confusion.counts)


def test_names_of_classes_are_no_formulas(found, tmp_path):
    info = replace(found.info, classes=("=1+1", "@SUM(A1)", *found.info.classes[2:]))
    write_reports(replace(found, info=info), tmp_path)
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows][:2] == ["'=1+1", "'@SUM(A1)"]
    assert float(rows[0]["iou"]) == pytest.approx(found.confusion.class_ious[0])
    with (tmp_path / "confusion.csv").open() as file:
        head, first, *_ = csv.reader(file)
    assert (head[1], head[2], first[0]) == ("'=1+1", "'@SUM(A1)", "'=1+1")


def test_the_table_marks_thin_classes_and_ends_with_the_means(found):
    rows = table_from_evaluation(found)
    assert [row[0] for row in rows[5:]] == ["pole *", "sign *", "car", "pedestrian *", "mean", "thin objects (*)"]
    assert rows[-2][1] == f"{100 * found.confusion.mean_iou:.1f}"
    assert per_cent(float("nan")) == "-"


def test_pictures_of_best_and_worst(found, tmp_path):
    paths = write_extremes(found, _Corrupted(), DATASET, tmp_path)
    assert [path.name for path in paths] == [
        "best-1-val-00000.png",
        "best-2-val-00001.png",
        "worst-1-val-00005.png",
        "worst-2-val-00004.png",
    ]
    with Image.open(paths[0]) as picture:
        assert picture.size == (4 * 64, 48)


def test_errors_are_red_in_the_last_panel():
    example = DATASET.load(0)
    prediction = example.labels.copy()
    prediction[10, 20] = (prediction[10, 20] + 1) % 9
    panels = np.asarray(judged(example, prediction, DATASET.info)).reshape(48, 4, 64, 3)
    red = (panels[:, 3] == (255, 40, 40)).all(-1)
    assert np.argwhere(red).tolist() == [[10, 20]]
    np.testing.assert_array_equal(panels[:, 0], example.image)


def test_a_prediction_of_the_wrong_size_names_the_frame():
    class _Small:
        def predict(self, image: np.ndarray) -> np.ndarray:
            return np.zeros((10, 10), np.uint8)

    with pytest.raises(LayoutError, match=r"val-00000: a prediction of shape \(10, 10\)"):
        evaluate(_Small(), DATASET)


def test_nothing_to_evaluate():
    with pytest.raises(InputError, match="there is no frame"):
        evaluate(_Corrupted(), Scenes("val", size=(48, 64), count=0))
    with pytest.raises(InputError, match="received a limit of 0"):
        evaluate(_Corrupted(), DATASET, limit=0)


class _Perfect:
    def predict(self, image: np.ndarray) -> np.ndarray:
        return np.zeros(image.shape[:2], np.uint8)


@pytest.mark.parametrize("name", ["classes.csv", "confusion.csv"])
def test_files_that_are_of_no_evaluation_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"{name} is there without an evaluation\.json, so it is of no evaluation"):
        evaluate(_Perfect(), DATASET, limit=1, output=tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("name", ["evaluation.json", "classes.csv", "best-1-val-00000.png"])
def test_files_that_come_during_an_evaluation_are_not_replaced(tmp_path, name):
    def come(done, total):
        (tmp_path / name).write_text("mine")

    with pytest.raises(OutputError, match=rf"{name} is there already, and is not replaced"):
        evaluate(_Perfect(), DATASET, limit=1, extremes=1, output=tmp_path, on_progress=come)
    assert (tmp_path / name).read_text() == "mine"


def test_an_earlier_evaluation_is_replaced(tmp_path):
    for limit in (1, 2):
        evaluate(_Perfect(), DATASET, limit=limit, extremes=1, output=tmp_path)
        assert json.loads((tmp_path / "evaluation.json").read_text())["frames"] == limit
