"""Pictures of labels, pixel by pixel."""

from pathlib import Path

import numpy as np
from PIL import Image

from converters.palettes import default_classes
from engines.bundle.manifest import ClassRecord
from smp_deploy.benchmarking.peak_memory import current_peak_bytes, peak_of
from smp_deploy.images import frame_from_file
from smp_deploy.pictures import colored, indexed_labels, overlay, side_by_side

CLASSES = list(default_classes(11, usual=True)[0])
LABELS = np.array([[0, 3, 8], [10, 3, 3]], np.uint8)


def test_indexed_labels_keep_the_classes_and_show_the_colours(tmp_path: Path) -> None:
    indexed_labels(LABELS, CLASSES).save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        np.testing.assert_array_equal(np.asarray(image), LABELS)
        assert image.convert("RGB").getpixel((2, 0)) == CLASSES[8].color == (64, 0, 128)


def test_overlay_by_hand() -> None:
    frame = np.full((2, 3, 3), 100, np.uint8)
    # 0.45 * 100 + 0.55 * (64, 0, 128)
    assert overlay(frame, LABELS, CLASSES)[0, 2].tolist() == [80, 45, 115]
    assert colored(LABELS, CLASSES)[1, 0].tolist() == [0, 128, 192]


def overlay_of_a_picture(path: str) -> int:
    """How many bytes reading a picture and laying labels over it take. In a process of its own."""
    before = current_peak_bytes()
    frame = frame_from_file(Path(path))
    labels = np.zeros(frame.shape[:2], np.uint8)
    assert overlay(frame, labels, CLASSES).shape == frame.shape
    return current_peak_bytes() - before


def test_a_large_picture_takes_a_few_bytes_a_pixel(tmp_path: Path) -> None:
    """In Pillow 4, as a frame 3, its labels 1, the overlay 3; with 8 bytes a number it would be 48 more."""
    Image.new("RGB", (4096, 4096)).save(tmp_path / "large.png")
    peak = peak_of("tests.smp_deploy.test_pictures:overlay_of_a_picture", str(tmp_path / "large.png"), timeout_s=120)
    assert peak.returned < 14 * 4096 * 4096


def test_an_overlay_is_the_same_in_bands() -> None:
    draw = np.random.default_rng(0)
    frame = draw.integers(0, 256, (700, 5, 3)).astype(np.uint8)
    labels = draw.integers(0, 11, (700, 5)).astype(np.uint8)
    rows = [overlay(frame[row : row + 1], labels[row : row + 1], CLASSES) for row in range(700)]
    np.testing.assert_array_equal(overlay(frame, labels, CLASSES), np.concatenate(rows))


def test_side_by_side_holds_three_panels_and_a_legend_of_what_occurs() -> None:
    labels = np.repeat(np.repeat(LABELS, 160, 0), 160, 1)
    frame = np.full((320, 480, 3), 9, np.uint8)
    picture = np.asarray(side_by_side(frame, labels, CLASSES, "frame.png"))
    assert picture.shape[1] == 3 * 480 + 4 * 16
    present = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {CLASSES[index].color for index in (0, 3, 8, 10)} <= present
    assert CLASSES[2].color not in present
    assert (picture[100, 100] == 9).all()


def test_names_that_no_font_has_are_drawn_as_escapes() -> None:
    frame, labels = np.zeros((40, 480, 3), np.uint8), np.zeros((40, 480), np.uint8)
    hidden, written = "a\udc80\x1b\nb", r"a\udc80\x1b\nb"
    drawn = [
        side_by_side(frame, labels, [ClassRecord(name=name, color=(1, 2, 3))], name).tobytes()
        for name in (hidden, written)
    ]
    assert drawn[0] == drawn[1]
