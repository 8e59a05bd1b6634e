from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from engines.errors import DatasetError, FrameError
from smp_deploy.datasets import CAMVID, CamVid, open_dataset

from . import trees


def test_frames_and_labels_are_read_as_they_are(tmp_path):
    dataset = CamVid(trees.camvid(tmp_path), "val")
    assert len(dataset) == 3
    example = dataset.load(1)
    assert example.name == "0001TP_000001"
    np.testing.assert_array_equal(example.image, trees.write_image(tmp_path / "same.png", 1))
    np.testing.assert_array_equal(example.labels, np.resize(np.arange(12, dtype=np.uint8), trees.SIZE))


def test_thin_classes_are_pole_sign_pedestrian_and_bicyclist():
    assert [CAMVID.classes[number] for number in CAMVID.thin] == ["pole", "sign", "pedestrian", "bicyclist"]
    assert CAMVID.ignore_id == len(CAMVID.classes) == 11


def test_a_missing_directory_is_named_with_the_layout(tmp_path):
    root = trees.camvid(tmp_path)
    (root / "valannot").rename(root / "labels")
    with pytest.raises(DatasetError, match=r"valannot is missing; .* should hold train/, trainannot/"):
        CamVid(root, "val")


def test_a_missing_label_file_is_named_when_the_dataset_is_opened(tmp_path):
    root = trees.camvid(tmp_path)
    (root / "trainannot" / "0001TP_000002.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 frames .* 0001TP_000002.png, whose labels should be .*trainannot"):
        CamVid(root, "train")


def test_an_empty_directory_says_what_was_expected(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(DatasetError, match=r"no frames in .*train; expected files like 0016E5"):
        CamVid(tmp_path, "train")


def test_an_unknown_label_is_named_with_its_file(tmp_path):
    root = trees.camvid(tmp_path)
    trees.write_labels(root / "valannot" / "0001TP_000000.png", [0, 12, 200])
    with pytest.raises(
        DatasetError, match=r"valannot.0001TP_000000.png: unknown label 12, 200; camvid has classes 0 to"
    ):
        CamVid(root, "val").load(0)


def test_an_unreadable_image_is_named(tmp_path):
    root = trees.camvid(tmp_path)
    path = root / "val" / "0001TP_000000.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FrameError, match=r"cannot read the image .*val.0001TP_000000.png: image file is truncated"):
        CamVid(root, "val").load(0)


def test_an_image_that_claims_to_be_too_large_is_named(tmp_path):
    root = trees.camvid(tmp_path)
    path = root / "val" / "0001TP_000000.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (40000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"cannot read the image .*0001TP_000000.png: Image size .* exceeds limit"):
        CamVid(root, "val").load(0)


def test_colours_of_no_class_are_refused(tmp_path):
    root = trees.camvid(tmp_path)
    trees.write_image(root / "valannot" / "0001TP_000000.png")
    with pytest.raises(
        DatasetError, match=r"0001TP_000000.png: 2048 of 2048 pixels have a colour that is that of no class"
    ):
        CamVid(root, "val").load(0)


def test_labels_of_another_size_are_refused(tmp_path):
    root = trees.camvid(tmp_path)
    trees.write_labels(root / "valannot" / "0001TP_000000.png", [0], (16, 64))
    with pytest.raises(DatasetError, match=r"is 16x64 \(height x width\), but its frame .* is 32x64"):
        CamVid(root, "val").load(0)


def test_colours_of_the_classes_are_read(tmp_path):
    root = trees.camvid(tmp_path)
    shown = np.array([*CAMVID.colours, (0, 0, 0)], np.uint8)
    numbers = CamVid(root, "val").load(0).labels
    Image.fromarray(shown[numbers]).save(root / "valannot" / "0001TP_000000.png")
    np.testing.assert_array_equal(CamVid(root, "val").load(0).labels, numbers)


@pytest.mark.parametrize(
    ("name", "root", "split", "message"),
    [
        ("camvid", ".", "night", "camvid has the splits train, val, test; received 'night'"),
        ("kitti", ".", "val", "unknown dataset 'kitti'; known are camvid, cityscapes"),
        ("camvid", None, "val", "read from a directory; name it with root="),
        ("camvid", "absent", "val", "absent is no directory"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(tmp_path, name, root, split, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset(name, None if root is None else tmp_path / root, split)
