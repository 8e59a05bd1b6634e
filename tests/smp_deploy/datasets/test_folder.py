from __future__ import annotations

import json
import os

import numpy as np
import pytest

from engines.errors import DatasetError, FrameError, InputError
from smp_deploy.datasets import open_dataset
from smp_deploy.datasets.folder import distinct_colours
from smp_deploy.evaluation import evaluate
from smp_deploy.images import frame_from_file
from tests.smp_deploy import raw_pictures as raw

from . import trees


def _folder(root, document=None):
    (root / "classes.json").write_text(json.dumps(document or {"classes": ["road", "pole"], "thin": ["pole"]}))
    for name in ("a.png", "b.jpg"):
        trees.write_image(root / "val" / "images" / name)
        trees.write_labels(root / "val" / "labels" / f"{name[0]}.png", [0, 1, 255])
    return root


def test_images_of_several_kinds_meet_their_labels(tmp_path):
    dataset = open_dataset("folder", _folder(tmp_path), "val")
    assert [dataset.load(index).name for index in range(len(dataset))] == ["a", "b"]
    assert dataset.info.thin == (1,)
    assert dataset.info.ignore_id == 255
    np.testing.assert_array_equal(np.unique(dataset.load(1).labels), [0, 1, 255])


def test_colours_are_made_where_none_are_given():
    assert len(set(distinct_colours(40))) == 40


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"names": ["road"]}, r'expected {"classes": \[names\]}'),
        (
            {"classes": ["road"], "color": []},
            "unknown key 'color'; known are classes, colours, ignore, ignore_colours, thin",
        ),
        ({"classes": ["road"], "colours": [[1, 2]]}, r"'colours' lists \[red, green, blue\]"),
        ({"classes": ["road"], "colours": [[1, 2, 256]]}, r"'colours' lie in \[0, 255\]"),
        ({"classes": ["road", "pole"], "colours": [[1, 2, 3]]}, "2 classes need 2 colours; received 1"),
        (
            {"classes": ["road"], "colours": "kitti"},
            r"'colours' is a list, or the name of a palette of as many classes: \"cityscapes\" with 19, "
            r"\"camvid\" with 11, \"voc\" with 21; received \"kitti\" for 1$",
        ),
        ({"classes": ["road"], "colours": "voc"}, 'received "voc" for 1$'),
        ({"classes": ["road"], "colours": [[1, 2, 3]], "ignore_colours": [1]}, r"'ignore_colours' lists \[red, green"),
        ({"classes": ["road"], "ignore_colours": [[1, 2, 3]]}, "'ignore_colours' go with 'colours'"),
        ({"classes": ["road", "road"]}, "class names differ"),
        ({"classes": ["road"], "ignore": 0}, "lies outside the class numbers"),
        ({"classes": ["road"], "ignore": "none"}, "'ignore' is a label"),
        ({"classes": ["road"], "thin": ["pole"]}, "'thin' lists names of 'classes'"),
        ({"classes": []}, "1 to 255 classes"),
    ],
)
def test_a_wrong_class_file_is_answered_with_what_is_wrong(tmp_path, document, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset("folder", _folder(tmp_path, document), "val")


def test_a_class_name_has_nothing_hidden(tmp_path):
    message = r"classes\.json, class 1: a name has no control .*; received po\\u202ele$"
    with pytest.raises(InputError, match=message):
        open_dataset("folder", _folder(tmp_path, {"classes": ["road", "po\u202ele"]}), "val")


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 5000], ids=["deep", "digits"])
def test_a_class_file_that_cannot_be_parsed(tmp_path, value):
    root = _folder(tmp_path)
    (root / "classes.json").write_text(f'{{"classes": ["road"], "ignore": {value}}}')
    with pytest.raises(DatasetError, match=r"classes\.json: not valid JSON"):
        open_dataset("folder", root, "val")


def test_a_class_file_that_is_missing_or_no_json(tmp_path):
    root = _folder(tmp_path)
    (root / "classes.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        open_dataset("folder", root, "val")
    (root / "classes.json").unlink()
    with pytest.raises(DatasetError, match=r"classes\.json is missing"):
        open_dataset("folder", root, "val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_class_file_with_a_mark_of_byte_order(tmp_path, encoding):
    root = _folder(tmp_path)
    (root / "classes.json").write_bytes('{"classes": ["route", "pôle"]}'.encode(encoding))
    assert open_dataset("folder", root, "val").info.classes == ("route", "pôle")


class Bright:
    """Labels what is bright with 1."""

    def predict(self, image):
        return (image[..., 0] > 127).astype(np.uint8)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_frame_and_its_upright_labels(tmp_path, turn):
    """The labels are those of the frame as people see it: whoever ignores the turn judges other pixels."""
    labels = np.zeros((6, 9), np.uint8)
    labels[:2, :7] = 1
    frame = np.where(labels[..., None] == 1, 200, 50).astype(np.uint8).repeat(3, 2)
    # What a camera stores for it: the inverse of each turn.
    stored = {
        1: frame, 2: frame[:, ::-1], 3: frame[::-1, ::-1], 4: frame[::-1], 5: frame.transpose(1, 0, 2),
        6: np.rot90(frame, 1), 7: frame[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(frame, -1),
    }[turn]  # fmt: skip
    (tmp_path / "classes.json").write_text('{"classes": ["road", "pole"]}')
    for part in ("images", "labels"):
        (tmp_path / "val" / part).mkdir(parents=True)
    exif = raw.chunk(b"eXIf", raw.orientation(turn))
    (tmp_path / "val/images/a.png").write_bytes(raw.png(stored, 8, raw.RGB, exif))
    (tmp_path / "val/labels/a.png").write_bytes(raw.png(labels, 8))
    dataset = open_dataset("folder", tmp_path, "val")
    np.testing.assert_array_equal(dataset.load(0).image, frame_from_file(tmp_path / "val/images/a.png"))
    found = evaluate(Bright(), dataset)
    assert (found.best[0].mean_iou, found.best[0].name) == (1.0, "a")


def test_labels_of_a_frame_that_lies_on_its_side(tmp_path):
    """Drawn for the pixels as they are stored: nothing says so but the size."""
    root = _folder(tmp_path)
    path = root / "val/images/a.png"
    exif = raw.chunk(b"eXIf", raw.orientation(6))
    path.write_bytes(raw.png(np.zeros((*trees.SIZE, 3), np.int64), 8, raw.RGB, exif))
    with pytest.raises(
        DatasetError,
        match=r"a\.png is 32x64 \(height x width\), but its frame .*a\.png is 64x32; both are turned as their own EXIF "
        r"says, and labels are drawn for the frame as it is then$",
    ):
        open_dataset("folder", root, "val").load(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw.png(np.zeros((32, 64, 3), np.int64), 16, raw.RGB), "has 16 bits a channel"),
        (raw.png(np.zeros((32, 64, 4), np.int64), 8, raw.RGB_ALPHA), "has transparent pixels"),
        (raw.pnm(np.zeros((32, 64, 3), np.int64), 1023), "has 10 bits a channel"),
    ],
)
def test_frames_of_a_dataset_are_refused_as_any_other(tmp_path, content, message):
    root = _folder(tmp_path)
    (root / "val/images/a.png").write_bytes(content)
    with pytest.raises(FrameError, match=rf"a\.png {message}"):
        open_dataset("folder", root, "val").load(0)


def test_every_kind_of_picture_is_a_frame(tmp_path):
    root = _folder(tmp_path)
    for name in ("c.webp", "d.tif", "e.bmp", "f.ppm", "g.jpeg"):
        trees.write_image(root / "val" / "images" / name)
        trees.write_labels(root / "val" / "labels" / f"{name[0]}.png", [0, 1, 255])
    dataset = open_dataset("folder", root, "val")
    assert [dataset.load(index).name for index in range(len(dataset))] == list("abcdefg")


def test_two_images_cannot_share_a_label_file(tmp_path):
    root = _folder(tmp_path)
    trees.write_image(root / "val" / "images" / "a.jpg")
    with pytest.raises(DatasetError, match="several images named 'a'"):
        open_dataset("folder", root, "val")


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="test/images is missing"):
        open_dataset("folder", _folder(tmp_path), "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "lists and objects are nested more than 64 deep"),
        ('{"classes": ' + "[" * 100 + "]" * 100 + "}", "lists and objects are nested more than 64 deep"),
        ('{"classes": ["a"], "classes": ["b"]}', "the key 'classes' stands twice"),
        ('{"classes": ["a"], "ignore": ' + "9" * 5000 + "}", "not valid JSON"),
        (" " * 2_000_000, "is larger than 1 MiB"),
    ],
)
def test_a_class_file_that_takes_more_than_it_may(content, message, tmp_path):
    root = _folder(tmp_path)
    (root / "classes.json").write_text(content)
    with pytest.raises(DatasetError, match=rf"classes\.json.*{message}"):
        open_dataset("folder", root, "val")


def test_a_class_file_is_a_regular_file(tmp_path):
    root = _folder(tmp_path)
    for name, target in {"zero": "/dev/zero", "loop": "classes.json"}.items():
        (root / "classes.json").unlink()
        (root / "classes.json").symlink_to(target)
        said = {"zero": "is a device, where a file is needed", "loop": "Too many levels of symbolic links"}[name]
        with pytest.raises(DatasetError, match=rf"classes\.json.*{said}"):
            open_dataset("folder", root, "val")
    (root / "classes.json").unlink()
    os.mkfifo(root / "classes.json")
    with pytest.raises(DatasetError, match=r"classes\.json is a pipe, where a file is needed"):
        open_dataset("folder", root, "val")
