"""The other side of a packed file's interface, in numpy: what a host feeds for a frame, and how it reads the output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converters.one_file.forms import ColorOrder, InputForm, InputKind, OutputForm
from converters.one_file.nv12 import luma_of, shares_of_chroma
from engines.bundle.manifest import InputRecord, OutputKind


def feed_of(form: InputForm, frame: NDArray[np.uint8], record: InputRecord) -> dict[str, NDArray[np.generic]]:
    """What a host gives for a frame ``(H, W, 3)`` uint8 RGB, by the names of the inputs."""
    if form.kind is InputKind.NV12:
        luma, chroma = nv12_from_rgb(form, frame)
        return {"luma": luma, "chroma": chroma}
    pixels: NDArray[np.generic] = frame
    if form.kind is InputKind.NORMALIZED:
        pixels = _normalized(frame, record)
    if form.color is ColorOrder.BGR:
        pixels = pixels[..., ::-1]
    if form.kind is InputKind.SCALED:
        pixels = ((pixels.astype(np.float64) - form.mean) * form.scale).astype(np.float32)
    if form.layout.endswith("chw"):
        pixels = np.moveaxis(pixels, -1, 0)
    return {"frame": np.ascontiguousarray(pixels[None] if "n" in form.layout else pixels)}


def seen_by_graph(form: InputForm, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame ``(H, W, 3)`` uint8 RGB that the graph makes of that: NV12 keeps a quarter of the chroma."""
    return rgb_from_nv12(form, *nv12_from_rgb(form, frame)) if form.kind is InputKind.NV12 else frame


def is_exact(form: InputForm) -> bool:
    """Whether the graph computes with the very numbers that a session computes with."""
    return form.kind is not InputKind.SCALED or (form.scale == 1 and not any(form.mean))


def read_by_host(form: OutputForm, result: NDArray[np.generic]) -> NDArray[np.generic]:
    """Labels ``(H, W)``, or maps ``(classes, H, W)``, from the output of the file."""
    labels = form.kind is OutputKind.LABELS
    single = tuple(place for place, axis in enumerate(form.layout) if axis == "n" or (axis == "c" and labels))
    result = np.squeeze(result, single)
    return result if labels or form.layout.endswith("chw") else np.moveaxis(result, -1, 0)


def nv12_from_rgb(form: InputForm, frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Luma ``(H, W)`` and chroma ``(H/2, W/2, 2)`` of a frame, each chroma sample the mean of its 2x2 pixels."""
    (u, v), (black, scale) = shares_of_chroma(form).astype(np.float64), luma_of(form)
    red, green, blue = np.moveaxis(frame.astype(np.float64), -1, 0)
    # The equations of the conversion, solved for luma and chroma.
    weights = np.linalg.inv(np.stack([np.ones(3), u, v], 1))
    bright, *chroma = (red * r + green * g + blue * b for r, g, b in weights)
    height, width = bright.shape
    means = [part.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) + 128 for part in chroma]
    return _bytes(bright / scale + black), _bytes(np.stack(means, -1))


def rgb_from_nv12(form: InputForm, luma: NDArray[np.uint8], chroma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W, 3)``, computed as the graph does, in single precision and in the same order."""
    (u, v), (black, scale) = shares_of_chroma(form), luma_of(form)
    bright = (luma.astype(np.float32) - black) * scale
    centred = chroma.astype(np.float32) - np.float32(128)
    tint = centred[..., :1] * u + centred[..., 1:] * v
    return _bytes(tint.repeat(2, 0).repeat(2, 1) + bright[..., None])


def _normalized(frame: NDArray[np.uint8], record: InputRecord) -> NDArray[np.float32]:
    """``x * (1 / (255 std)) + (-mean / std)``, with factors that are rounded once, as in ``prepare.onnx``."""
    mean, std = np.array(record.mean), np.array(record.std)
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    normalized: NDArray[np.float32] = frame.astype(np.float32) * scale + shift
    return normalized


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    whole: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return whole
