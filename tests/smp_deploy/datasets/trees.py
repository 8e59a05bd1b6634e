"""Small dataset trees in the exact layouts of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (32, 64)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


def write_labels(path: Path, values: list[int], size: tuple[int, int] = SIZE, *, palette: bool = False) -> np.ndarray:
    """Labels that cycle through ``values``, pixel by pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.resize(np.array(values, np.uint8), size)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([channel for number in range(256) for channel in (number, 255 - number, 7)])
        assert image.mode == "P"
    image.save(path)
    return labels


def camvid(root: Path, frames: int = 3) -> Path:
    for split in ("train", "val"):
        for number in range(frames):
            write_image(root / split / f"0001TP_{number:06d}.png", number)
            write_labels(root / f"{split}annot" / f"0001TP_{number:06d}.png", list(range(12)))
    return root


def cityscapes(root: Path) -> Path:
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "lindau")):
        for number in range(2):
            name = f"{city}_{number:06d}_000019"
            write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", number)
            write_labels(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", list(range(34)))
            write_labels(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", [0])
    return root


def gta5(root: Path, frames: int = 12) -> Path:
    for number in range(1, frames + 1):
        write_image(root / "images" / f"{number:05d}.png", number, (16, 16))
        write_labels(root / "labels" / f"{number:05d}.png", list(range(35)), (16, 16), palette=True)
    return root
