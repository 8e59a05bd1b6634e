"""Label images as people have them: what has a clear meaning is read as it is meant, the rest is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.palettes import CITYSCAPES, VOC
from engines.errors import DatasetError, FrameError
from smp_deploy.datasets import GTA5, open_dataset
from smp_deploy.datasets.label_images import LabelColours, labels_from_file
from smp_deploy.images import Wanted
from tests.smp_deploy import raw_pictures as raw

from . import trees

COLOURS = LabelColours.of_classes([(0, 0, 0), (128, 0, 0), (0, 128, 0)], [(224, 224, 192)], 255)
CLASSES = np.array([[0, 1, 2, 1], [2, 2, 0, 255]], np.uint8)
SHOWN = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)] + [(224, 224, 192)] * 253, np.uint8)


def read(content: bytes | Image.Image, path: Path, colours: LabelColours | None = None) -> np.ndarray:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    labels = labels_from_file(path, colours)
    assert labels.dtype == np.uint8
    return labels


def up_to(largest: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, largest + 1, (6, 9), dtype=np.uint16)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_holds_class_numbers(bits: int, tmp_path: Path) -> None:
    numbers = up_to(min(2**bits - 1, 33))
    np.testing.assert_array_equal(read(raw.png(numbers, bits), tmp_path / "a.png"), numbers)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indices_of_any_depth_are_class_numbers(bits: int, tmp_path: Path) -> None:
    numbers = up_to(min(2**bits - 1, 33))
    content = raw.png(numbers, bits, raw.INDEXED, raw.palette(*((7, n, 9) for n in range(min(2**bits, 34)))))
    np.testing.assert_array_equal(read(content, tmp_path / "a.png"), numbers)


@pytest.mark.parametrize(("bits", "sample_format"), [(2, 1), (4, 1), (8, 1), (16, 1), (32, 1), (32, 2)])
def test_tiff_of_any_depth_holds_class_numbers(bits: int, sample_format: int, tmp_path: Path) -> None:
    numbers = up_to(min(2**bits - 1, 33))
    np.testing.assert_array_equal(read(raw.tiff(numbers, bits, 1, sample_format), tmp_path / "a.png"), numbers)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("largest", [18, 33, 254, 255, 256, 1000, 65535])
def test_a_pgm_with_any_largest_value_holds_class_numbers(largest: int, plain: bool, tmp_path: Path) -> None:
    numbers = up_to(min(largest, 255))
    numbers[0, 0] = min(largest, 255)
    np.testing.assert_array_equal(read(raw.pnm(numbers, largest, plain=plain), tmp_path / "a.png"), numbers)


def test_an_opaque_alpha_channel_says_nothing(tmp_path: Path) -> None:
    numbers = up_to(33).astype(np.uint8)
    opaque = np.full_like(numbers, 255)
    both = np.stack([numbers, opaque], 2)
    np.testing.assert_array_equal(read(raw.png(both, 8, raw.GREY_ALPHA), tmp_path / "a.png"), numbers)
    coloured = np.dstack([SHOWN[CLASSES], np.full(CLASSES.shape, 255, np.uint8)])
    np.testing.assert_array_equal(read(raw.png(coloured, 8, raw.RGB_ALPHA), tmp_path / "b.png", COLOURS), CLASSES)
    both[0, 0, 1] = 0
    with pytest.raises(
        DatasetError, match=r"c\.png has transparent pixels, which have no one label; flatten it first$"
    ):
        read(raw.png(both, 8, raw.GREY_ALPHA), tmp_path / "c.png")


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "ppm", "webp"])
def test_colours_of_classes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(SHOWN[CLASSES]).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(labels_from_file(path, COLOURS), CLASSES)


def test_the_palette_of_voc_in_its_colours(tmp_path: Path) -> None:
    """As its development kit has it: indices, with 255 for the borders; or converted to RGB."""
    numbers = np.resize(np.array([*range(21), 255], np.uint8), (6, 9))
    shown = [*VOC.colours, *[(0, 0, 0)] * 234, VOC.void[0]]
    indexed = raw.png(numbers, 8, raw.INDEXED, raw.palette(*shown))
    colours = LabelColours.of_classes(VOC.colours, VOC.void, 255)
    np.testing.assert_array_equal(read(indexed, tmp_path / "a.png", colours), numbers)
    rgb = Image.fromarray(np.array(shown, np.uint8)[numbers])
    np.testing.assert_array_equal(read(rgb, tmp_path / "b.png", colours), numbers)


@pytest.mark.parametrize("name", ["voc", "list"])
def test_a_class_file_gives_the_colours(name: str, tmp_path: Path) -> None:
    colours = '"voc"' if name == "voc" else str([list(colour) for colour in VOC.colours])
    void = "" if name == "voc" else ', "ignore_colours": [[224, 224, 192]]'
    names = ", ".join(f'"{held}"' for held in VOC.names)
    (tmp_path / "classes.json").write_text(f'{{"classes": [{names}], "colours": {colours}{void}}}')
    trees.write_image(tmp_path / "val/images/a.png", size=(6, 9))
    numbers = np.resize(np.array([*range(21), 255], np.uint8), (6, 9))
    (tmp_path / "val/labels").mkdir()
    shown = np.array([*VOC.colours, *[VOC.void[0]] * 235], np.uint8)
    Image.fromarray(shown[numbers]).save(tmp_path / "val/labels/a.png")
    np.testing.assert_array_equal(open_dataset("folder", tmp_path, "val").load(0).labels, numbers)


IDS = {"road": 7, "pole": 17, "car": 26, "bicycle": 33, "dynamic": 5, "parking": 9, "caravan": 29, "unlabelled": 0}
SHOWN_IDS = {
    "road": (128, 64, 128), "pole": (153, 153, 153), "car": (0, 0, 142), "bicycle": (119, 11, 32),
    "dynamic": (111, 74, 0), "parking": (250, 170, 160), "caravan": (0, 0, 90), "unlabelled": (0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("form", ["RGB", "palette", "16 bits"])
def test_label_ids_of_gta5_and_cityscapes_in_any_form(form: str, tmp_path: Path) -> None:
    """The published table of label ids and their colours; what is not trained with is ignored."""
    root = trees.gta5(tmp_path, 2)
    ids = np.resize(np.array(list(IDS.values()), np.uint8), (16, 16))
    expected = np.resize(np.array([0, 5, 13, 18, 255, 255, 255, 255], np.uint8), (16, 16))
    table = np.zeros((256, 3), np.uint8)
    for name, number in IDS.items():
        table[number] = SHOWN_IDS[name]
    content = {
        "RGB": raw.png(table[ids], 8, raw.RGB),
        "palette": raw.png(ids, 8, raw.INDEXED, raw.palette(*map(tuple, table.tolist()))),
        "16 bits": raw.png(ids, 16),
    }[form]
    for path in (root / "labels").iterdir():
        path.write_bytes(content)
    np.testing.assert_array_equal(GTA5(root, "val", validation_frames=1).load(0).labels, expected)
    root = trees.cityscapes(tmp_path / "cityscapes")
    for path in root.rglob("*_labelIds.png"):
        path.write_bytes(content)
    for path in root.rglob("*_leftImg8bit.png"):
        trees.write_image(path, size=(16, 16))
    np.testing.assert_array_equal(open_dataset("cityscapes", root, "val").load(0).labels, expected)


def test_the_colours_of_the_training_ids_are_those_of_the_palette() -> None:
    from smp_deploy.datasets.cityscapes import LABEL_COLOURS, LABEL_IDS

    meant = [LABEL_COLOURS.meant[colour] for colour in CITYSCAPES.colours]
    assert meant == list(LABEL_IDS)
    assert {LABEL_COLOURS.meant[colour] for colour in CITYSCAPES.void}.isdisjoint(LABEL_IDS)


def test_a_palette_that_was_numbered_anew_is_refused(tmp_path: Path) -> None:
    """Programs that pack colours count them as they come: index 0 is a road's, or a pole's."""
    indices = np.array([[0, 1, 2]], np.uint8)
    content = raw.png(indices, 8, raw.INDEXED, raw.palette((0, 128, 0), (128, 0, 0), (0, 0, 0)))
    with pytest.raises(DatasetError) as caught:
        read(content, tmp_path / "a.png", COLOURS)
    assert str(caught.value) == (
        f"{tmp_path / 'a.png'}: index 0 of its palette is shown as (0, 128, 0), which is the colour of label 2: a "
        "program that packs colours numbered them anew. Save it as RGB, and its colours count"
    )
    # Any other palette is for the eye alone.
    content = raw.png(indices, 8, raw.INDEXED, raw.palette((9, 9, 9), (128, 0, 0), (0, 0, 0)))
    np.testing.assert_array_equal(read(content, tmp_path / "b.png", COLOURS), indices)


def jpeg(path: Path) -> None:
    Image.fromarray(CLASSES).save(path, "JPEG")


def jpeg_in_tiff(path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path, "TIFF", compression="jpeg")


def lossy_webp(path: Path) -> None:
    Image.fromarray(SHOWN[CLASSES]).save(path, "WEBP")


REFUSED = {
    "instance ids": (raw.png(np.array([[7, 26001]]), 16), r"has the number 26001, and class numbers are 0 to 255"),
    "numbers below 0": (raw.tiff(np.array([[3, -1]]), 32, 1, 2), r"has the number -1, and class numbers are 0 to 255"),
    "signed bytes": (raw.tiff(np.array([[3, -1]]), 8, 1, 2), "holds class numbers from 0 on; this one stores signed"),
    "white as 0": (raw.tiff(np.array([[3, 1]]), 8, 0), "stores white as 0 and black as the largest number"),
    "PBM": (b"P4 8 1\n\xaa", "stores white as 0 and black as the largest number"),
    "16 bits with alpha": (
        raw.png(np.full((2, 2, 2), 65535), 16, raw.GREY_ALPHA), "has an alpha channel and 16 bits a channel"
    ),
    "16-bit colour": (raw.png(np.zeros((2, 2, 3), np.int64), 16, raw.RGB), "colour image with values up to 65535"),
    "colour of 10 bits": (raw.pnm(np.zeros((2, 2, 3), np.int64), 1023), "colour image with values up to 1023"),
    "JPEG": (jpeg, r"is a JPEG, which keeps pixels only nearly as they were: .*; save labels as PNG$"),
    "JPEG in TIFF": (jpeg_in_tiff, "is a TIFF, which keeps pixels only nearly as they were"),
    "lossy WebP": (lossy_webp, "is a WEBP, which keeps pixels only nearly as they were"),
    "floats": (lambda path: Image.new("F", (2, 2)).save(path, "TIFF"), "this one has mode F"),
    "CMYK": (lambda path: Image.new("CMYK", (2, 2)).save(path, "TIFF"), "this one has mode CMYK"),
    "unknown colour": (
        raw.png(np.array([[(0, 0, 0), (1, 2, 3), (128, 0, 0), (1, 2, 3)]]), 8, raw.RGB),
        r'2 of 4 pixels have a colour that is that of no class, or of several: \(1, 2, 3\); "ignore_colours" in',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_clear_meaning_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "a.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(DatasetError, match=message) as caught:
        labels_from_file(path, COLOURS)
    assert str(path) in str(caught.value)


def test_colours_without_a_meaning(tmp_path: Path) -> None:
    rgb = raw.png(SHOWN[CLASSES], 8, raw.RGB)
    with pytest.raises(
        DatasetError, match=r'colour image, and nothing says .*; give the class file "colours", or save'
    ):
        read(rgb, tmp_path / "a.png")
    twice = LabelColours.of_classes([(0, 0, 0), (128, 0, 0), (128, 0, 0), (0, 128, 0)], [(224, 224, 192)], 255)
    with pytest.raises(DatasetError, match=r"2 of 8 pixels have a colour .* of several: \(128, 0, 0\)$"):
        read(rgb, tmp_path / "a.png", twice)


@pytest.mark.parametrize("turn", range(1, 9))
def test_labels_are_turned_as_frames_are(turn: int, tmp_path: Path) -> None:
    """A camera's mark in both files: frame and labels stay on each other, whichever way they are stored."""
    from smp_deploy.images import frame_from_file

    numbers = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = raw.chunk(b"eXIf", raw.orientation(turn))
    for name in ("frame.png", "labels.png"):
        (tmp_path / name).write_bytes(raw.png(numbers, 8, raw.GREY, exif))
    wanted = Wanted((6, 4) if turn > 4 else (4, 6), "")
    labels = labels_from_file(tmp_path / "labels.png", None, wanted)
    np.testing.assert_array_equal(frame_from_file(tmp_path / "frame.png", wanted)[..., 0], labels)
    np.testing.assert_array_equal(labels_from_file(tmp_path / "labels.png", None), labels)
    with pytest.raises(FrameError, match=r"labels\.png is \dx\d \(height x width\); of the bundle$"):
        labels_from_file(tmp_path / "labels.png", None, Wanted(wanted.size[::-1], "; of the bundle"))
