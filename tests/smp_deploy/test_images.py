"""Images: what has a clear meaning is converted, the rest is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.errors import FrameError, InputError
from smp_deploy.images import Wanted, check_header, frame_from_file, image_files, resized_labels
from tests.smp_deploy import raw_pictures as raw

WANTED = Wanted.by_bundle((6, 8))
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    frame = frame_from_file(saved(Image.fromarray(RGB), tmp_path / "a.png"))
    np.testing.assert_array_equal(frame, RGB)
    assert frame.flags.writeable


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    frame = frame_from_file(saved(Image.fromarray(RGB[..., 0]), tmp_path / "a.png"))
    for channel in range(3):
        np.testing.assert_array_equal(frame[..., channel], RGB[..., 0])


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    frame = frame_from_file(saved(image, tmp_path / "a.png"))
    assert frame.tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path) -> None:
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(frame_from_file(saved(Image.fromarray(opaque), tmp_path / "a.png")), RGB)
    opaque[0, 0, 3] = 254
    with pytest.raises(FrameError, match="transparent pixels"):
        frame_from_file(saved(Image.fromarray(opaque), tmp_path / "b.png"))


def test_a_cameras_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    path = saved(Image.fromarray(RGB), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(frame_from_file(path), RGB[::-1, ::-1])


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "a.png", "16 bits a channel"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "a.tiff", "mode 'F'"),
        (Image.new("CMYK", (4, 4)), "a.jpg", "mode 'CMYK'"),
    ],
    ids=["16 bits", "floats", "CMYK"],
)
def test_unclear_images_are_refused(image: Image.Image, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=message):
        frame_from_file(saved(image, tmp_path / name))


DEEP = np.full((6, 8, 3), 900)
"""Of 10 bits; as 8 bits it would be 224, 14 or 3, by what a decoder makes of it."""
OPAQUE = np.full((6, 8, 1), 65535)
DEEPER: dict[str, tuple[bytes, int]] = {
    "PNG, RGB": (raw.png(DEEP, 16, raw.RGB), 16),
    "PNG, RGB with alpha": (raw.png(np.concatenate([DEEP, OPAQUE], 2), 16, raw.RGB_ALPHA), 16),
    "PNG, grey": (raw.png(DEEP[..., 0], 16), 16),
    "PNG, grey with alpha": (raw.png(np.stack([DEEP[..., 0], OPAQUE[..., 0]], 2), 16, raw.GREY_ALPHA), 16),
    "PPM up to 65535": (raw.pnm(DEEP, 65535), 16),
    "PPM up to 1023": (raw.pnm(DEEP, 1023), 10),
    "PPM up to 1023, plain": (raw.pnm(DEEP, 1023, plain=True), 10),
    "PPM up to 256": (raw.pnm(DEEP // 4, 256), 9),
    "PGM up to 65535": (raw.pnm(DEEP[..., 0], 65535), 16),
    "PGM up to 1023": (raw.pnm(DEEP[..., 0], 1023), 10),
    "TIFF, RGB": (raw.tiff(DEEP, 16, 2), 16),
    "TIFF, grey": (raw.tiff(DEEP[..., 0], 16), 16),
    "TIFF, grey of 12 bits": (raw.tiff(DEEP[..., 0], 12), 12),
    "TIFF, grey of 32 bits": (raw.tiff(DEEP[..., 0], 32), 32),
}


@pytest.mark.parametrize("suffix", ["png", "ppm", "tiff", "jpg"])
@pytest.mark.parametrize("name", DEEPER)
def test_more_than_8_bits_are_refused_and_not_cut_down(name: str, suffix: str, tmp_path: Path) -> None:
    """The header of the file says how deep it is: neither its suffix nor what the decoder makes of it."""
    content, bits = DEEPER[name]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for read in (frame_from_file, lambda path: check_header(path, None), lambda path: check_header(path, WANTED)):
        with pytest.raises(FrameError) as caught:
            read(path)
        assert str(caught.value) == f"{path} has {bits} bits a channel; a frame has 8: convert it first"


def test_what_has_fewer_bits_is_stretched_to_8(tmp_path: Path) -> None:
    """As its format says: the largest value is white."""
    numbers = np.resize(np.arange(16), (6, 8))
    for name, content, largest in (
        ("a.png", raw.png(numbers, 4), 15),
        ("b.tiff", raw.tiff(numbers, 4), 15),
        ("c.pgm", raw.pnm(numbers, 15), 15),
        ("d.ppm", raw.pnm(np.stack([numbers] * 3, 2), 17), 17),
        ("e.pgm", raw.pnm(numbers, 255), 255),
    ):
        (tmp_path / name).write_bytes(content)
        expected = np.round(numbers * (255 / largest))
        np.testing.assert_array_equal(frame_from_file(tmp_path / name), np.stack([expected] * 3, 2))


def test_white_as_0_is_white(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(raw.tiff(RGB[..., 0], 8, 0))
    np.testing.assert_array_equal(frame_from_file(tmp_path / "a.tiff")[..., 1], 255 - RGB[..., 0])


def test_bytes_with_a_sign_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(raw.tiff(np.full((6, 8), -3), 8, 1, 2))
    with pytest.raises(FrameError, match=r"a\.tiff has signed numbers for pixels; a frame has 0 to 255: convert it"):
        frame_from_file(tmp_path / "a.tiff")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_orientations_in_numbers(suffix: str, turn: int, tmp_path: Path) -> None:
    """Against a table of slices; once, though some decoders of Pillow turn by themselves."""
    stored = RGB if turn < 5 else np.ascontiguousarray(RGB.transpose(1, 0, 2))
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(path, exif=b"Exif\0\0" + raw.orientation(turn), **options)
    expected = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[turn]  # fmt: skip
    np.testing.assert_array_equal(frame_from_file(path), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("denominator", [0, 1])
def test_exif_with_a_zero_denominator(suffix: str, denominator: int, tmp_path: Path) -> None:
    """Of the resolution, an exposure or a place, as broken cameras write it: the orientation counts all the same."""
    rationals = [(tag, 72, denominator) for tag in (0x011A, 0x011B, 0x829A, 0x9201)]
    path = tmp_path / f"a.{suffix}"
    grey = np.full((6, 8, 3), 90, np.uint8)
    grey[:3] = 200
    Image.fromarray(grey).save(path, exif=b"Exif\0\0" + raw.orientation(3, *rationals))
    for read in (frame_from_file, lambda path: frame_from_file(path, WANTED)):
        np.testing.assert_allclose(read(path), grey[::-1], atol=8)
    check_header(path, WANTED)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_is_refused(mode: str, tmp_path: Path) -> None:
    path = saved(Image.new(mode, (4, 4)), tmp_path / "a.png", transparency={"RGB": (0, 0, 0)}.get(mode, 0))
    with pytest.raises(FrameError, match="transparent pixels"):
        frame_from_file(path)


def test_several_frames_in_a_file_are_refused(tmp_path: Path) -> None:
    other = Image.fromarray(RGB[::-1].copy())
    with pytest.raises(FrameError, match="holds 2 images"):
        frame_from_file(saved(Image.fromarray(RGB), tmp_path / "a.tiff", save_all=True, append_images=[other]))


@pytest.mark.parametrize("kept", [0, 10, 60, 150])
def test_damaged_files_are_one_error(kept: int, tmp_path: Path) -> None:
    path = saved(Image.fromarray(RGB), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FrameError, match=r"a\.png"):
        frame_from_file(path)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    for path in (tmp_path / "a.png", tmp_path / "absent.png", tmp_path):
        with pytest.raises(FrameError, match=str(path)):
            frame_from_file(path)


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.png").touch()

    def found(*arguments: str) -> list[str]:
        return [path.name for path in image_files(tuple(str(tmp_path / argument) for argument in arguments))]

    assert found(".") == ["a.JPG", "b.png"]
    assert found("*.png") == ["b.png"]
    assert found("**/*.png") == ["b.png", "c.png"]
    assert found("b.png", ".") == ["b.png", "a.JPG"]
    for absent in ("absent.png", "*.bmp"):
        with pytest.raises(InputError, match="names an image"):
            found(absent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        found("empty")


def test_resized_labels_are_labels() -> None:
    labels = np.array([[0, 200], [7, 0]], np.uint8)
    assert set(np.unique(resized_labels(labels, (7, 9)))) == {0, 7, 200}
