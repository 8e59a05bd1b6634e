"""``smp-deploy run``: images that turn out to be bad, and files that it must not replace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from engines import Bundle
from engines.bundle.manifest import OutputKind
from smp_deploy.cli.run import _kinds, _Options
from tests.conftest import Cli, document
from tests.engines.planning.test_deadlines import tuned


def saved(path: Path, size: tuple[int, int] = (96, 64), **options: Any) -> Path:
    """A picture of noise, of ``size`` (width, height), which takes a few kB."""
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


def cut(path: Path) -> None:
    """The header is whole, pixels are missing."""
    path.write_bytes(path.read_bytes()[:9000])


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: saved(path, (100, 64)), "b.png is 64x100 (height x width), the bundle takes 64x96"),
        (lambda path: saved(path, exif=exif(6)), "b.png is 96x64 (height x width), the bundle takes 64x96"),
        (lambda path: path.write_text("no image"), "b.png is no image that can be read"),
        (lambda path: Image.new("CMYK", (96, 64)).save(path, "JPEG"), "b.png has pixels of mode 'CMYK'"),
    ],
    ids=["size", "turned", "no image", "mode"],
)
def test_a_bad_image_is_found_before_the_first_prediction(
    cli: Cli, exported: Bundle, tmp_path: Path, make: Callable[[Path], object], part: str
) -> None:
    saved(tmp_path / "in" / "a.png")
    make(tmp_path / "in" / "b.png")
    result = cli("run", exported.path, tmp_path / "in", "-o", tmp_path / "out")
    assert result.returncode == 2
    assert part in result.stderr.splitlines()[-1]
    assert "phases" not in result.stderr
    assert left(tmp_path / "out") == set()


def test_an_image_that_is_turned_into_the_right_size_is_none_of_another(
    cli: Cli, exported: Bundle, tmp_path: Path
) -> None:
    for name in ("a.png", "b.jpg"):
        saved(tmp_path / "in" / name, (64, 96), exif=exif(6))
    result = cli("run", exported.path, tmp_path / "in", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_done_is_reported_although_a_later_image_fails(
    cli: Cli, exported: Bundle, tmp_path: Path, as_json: bool
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        saved(tmp_path / "in" / name)
    cut(tmp_path / "in" / "b.png")
    result = cli("run", exported.path, tmp_path / "in", "-o", tmp_path / "out", *(["--json"] if as_json else []))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "cannot read the image" in result.stderr.splitlines()[-1]
    assert "b.png" in result.stderr.splitlines()[-1]
    assert left(tmp_path / "out") == {"a-labels.png", "a-overlay.png"}
    if as_json:
        (entry,) = json.loads(result.stdout)["images"]
        assert entry["image"] == str(tmp_path / "in" / "a.png")
        assert entry["written"] == ["a-labels.png", "a-overlay.png"]
    else:
        assert "a-labels.png, a-overlay.png" in result.stdout


@pytest.mark.parametrize("through_link", [False, True])
def test_beside_an_image_nothing_is_replaced(cli: Cli, exported: Bundle, tmp_path: Path, through_link: bool) -> None:
    image, truth = saved(tmp_path / "gt" / "a.png"), tmp_path / "gt" / "a-labels.png"
    truth.write_bytes(b"drawn by hand")
    output = tmp_path / "gt"
    if through_link:
        output = tmp_path / "link"
        output.symlink_to(tmp_path / "gt")
    result = cli("run", exported.path, image, "-o", output)
    assert result.returncode == 2
    said = f"{output / 'a-labels.png'} would be overwritten by a result of {image}; choose another -o"
    assert said in result.stderr
    assert left(tmp_path / "gt") == {"a.png", "a-labels.png"}
    assert truth.read_bytes() == b"drawn by hand"


def test_results_of_an_earlier_run_are_replaced(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    image = saved(tmp_path / "in" / "a.png")
    for _ in range(2):
        document(cli("run", exported.path, image, "-o", tmp_path / "out", "--json"))
        with Image.open(tmp_path / "out" / "a-labels.png") as labels:
            assert labels.size == (96, 64)
        (tmp_path / "out" / "a-labels.png").write_bytes(b"spoilt")
    # In an image's own folder what is no result of that name is no hindrance.
    (tmp_path / "in" / "a-side-by-side.png").write_bytes(b"drawn by hand")
    said = document(cli("run", exported.path, image, "-o", tmp_path / "in", "--json"))
    assert said["images"][0]["written"] == ["a-labels.png", "a-overlay.png"]


def test_floats_are_not_replaced_either(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "outputs": "logits"}))
    image = saved(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a-logits.npy").write_bytes(b"another's")
    result = cli("run", bundle, image, "-o", tmp_path / "in")
    assert result.returncode == 2
    assert "a-logits.npy would be overwritten" in result.stderr
    assert (tmp_path / "in" / "a-logits.npy").read_bytes() == b"another's"


@pytest.mark.parametrize(
    ("outputs", "classes", "side_by_side", "kinds"),
    [
        (OutputKind.LABELS, 19, False, ["labels.png", "overlay.png"]),
        (OutputKind.LOGITS, 19, True, ["logits.npy", "labels.png", "overlay.png", "side-by-side.png"]),
        (OutputKind.PROBABILITIES, 300, True, ["probabilities.npy"]),
    ],
)
def test_the_names_of_results(
    exported: Bundle, outputs: OutputKind, classes: int, side_by_side: bool, kinds: list[str]
) -> None:
    records = [exported.manifest.classes[0]] * classes
    manifest = msgspec.structs.replace(exported.manifest, outputs=outputs, classes=records)
    assert _kinds(manifest, _Options(resize=False, side_by_side=side_by_side, deadline_ms=None)) == kinds


def test_a_deadline_after_a_tuning(cli: Cli, bundle: Path, image: Path, tmp_path: Path) -> None:
    """The fastest schedule takes all phases at once: nothing of it would be there in time."""
    tuned(bundle)
    for as_json in (False, True):
        result = cli(
            "run", bundle, image, "-o", tmp_path / "out", "--deadline-ms", "0.001", *(["--json"] if as_json else [])
        )
        assert result.returncode == 0
        assert "schedule: levels 2, sub-batch 1, reshape (for the deadline, as measured on this device" in result.stderr
        assert re.search(rf"^{image}: the deadline of 0\.001 ms was missed by \d+ ms$", result.stderr, re.MULTILINE)
    found = json.loads(result.stdout)
    assert found["deadline_ms"] == 0.001
    (labelled,) = found["images"]
    assert labelled["phases_done"] == 1
    assert 0 < labelled["late_ms"] <= 1000 * labelled["seconds"] + 1
    result = cli("run", bundle, image, "-o", tmp_path / "out", "--deadline-ms", "1e6", "--json")
    assert "the deadline" not in result.stderr.replace("for the deadline", "")
    (labelled,) = document(result)["images"]
    assert (labelled["phases_done"], labelled["late_ms"]) == (16, 0)
    result = cli("run", bundle, image, "-o", tmp_path / "out", "--json")
    assert (document(result)["deadline_ms"], document(result)["images"][0]["late_ms"]) == (None, None)
