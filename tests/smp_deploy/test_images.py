"""Images: what has a clear meaning is converted, the rest is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.errors import FrameError, InputError
from smp_deploy.images import frame_from_file, image_files, resized_labels

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


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_refused_and_not_cut_down(channels: int, tmp_path: Path) -> None:
    """Pillow cannot write it, so the PNG is put together by hand: IHDR with depth 16, one pixel, white of 12 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    pixel = b"\0" + struct.pack(">H", 4095) * channels
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixel)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(FrameError, match="16 bits a channel"):
        frame_from_file(tmp_path / "a.png")


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
