"""The record in the bundle, the page, the text, and Polygraphy's own reading of what is stored."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import Bundle
from engines.planning.planner import plan
from tests.conftest import Cli

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def validated(exported: Bundle, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(exported.path, tmp_path_factory.mktemp("validated") / "bundle"))
    done = cli("validate", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((path / "reports" / "validation.json").read_text())
    return path


def test_the_record_leaves_the_bundle_whole(validated: Path, exported: Bundle) -> None:
    assert Bundle.open(validated).manifest == exported.manifest
    record = json.loads((validated / "reports" / "validation.json").read_text())
    assert record["verdict"] == "passed"
    assert record["tolerances"]["fp16"]["logits"] == 1e-2
    assert record["files"]["weights.bin"] == exported.manifest.files["weights.bin"].sha256
    assert record["not_proven"] == [
        "network -> weights.bin and stored logits: only the network of the checkpoint shows that weights and stored "
        "logits are its own, and were not made from each other; the other checks take them for right",
        "mean IoU of fp32 -> fp16: no labelled frames were given",
        "fp16 graph -> engine: the bundle has no engine",
    ]


def test_polygraphy_reads_what_is_stored(validated: Path) -> None:
    tool = Path(sys.executable).with_name("polygraphy")
    for name, part in (("inputs.json", "windows [dtype=float32, shape=(1, 3, "), ("outputs.json", "-onnxruntime-fp16")):
        done = subprocess.run([tool, "inspect", "data", validated / "reports" / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert part in done.stdout


class Page(HTMLParser):
    """What a page refers to, and what of it has no name for those who do not see it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.unnamed: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.links += [values[key] for key in ("src", "href", "xlink:href") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img" and not values.get("alt"):
            self.unnamed.append(str(attrs))
        if values.get("role") == "img" and not values.get("aria-label"):
            self.unnamed.append(str(attrs))
        if tag == "th" and "scope" not in values:
            self.unnamed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(cli: Cli, validated: Path) -> None:
    done = cli("report", validated)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASSED: all 133 checks that ran passed; 3 could not run\n")
    assert "trunk.onnx -> trunk.fp16.onnx" in done.stdout
    html = (validated / "reports" / "report.html").read_text()
    page = Page(html)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)|<script", html)
    assert not page.unnamed
    assert len(set(page.ids)) == len(page.ids)
    for part in (
        "✓ Passed",
        "Not proven here",
        "By phase",
        "By layer",
        "Versions and hashes",
        "polygraphy inspect data",
    ):
        assert part in page.text
    again = cli("report", validated, "-o", validated.parent / "again.html")
    assert again.returncode == 0
    assert (validated.parent / "again.html").read_text() == html


def test_json_is_the_record(cli: Cli, validated: Path) -> None:
    done = cli("report", validated, "--json")
    record = json.loads((validated / "reports" / "validation.json").read_text())
    judgement = {"bundle_verdict": "passed", "headline": "all 133 checks that ran passed; 3 could not run"}
    assert json.loads(done.stdout) == {**record, **judgement, "benches": []}


BENCH = ("--iterations", 2, "--duration", 0, "--warm-up", 0, "--percentile", "50")


def test_the_report_shows_what_was_benchmarked(cli: Cli, validated: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(validated, tmp_path / "bundle"))
    first = json.loads(cli("bench", path, *BENCH, "--json").stdout)
    other = json.loads(cli("bench", path, *BENCH, "--levels", 3, "--precision", "fp16", "--json").stdout)
    # Measured again on the same device, a schedule takes the place of its older figures.
    again = json.loads(cli("bench", path, *BENCH, "--json").stdout)
    assert first["latency_ms"] != again["latency_ms"]
    shown = cli("report", path)
    medians = [run["latency_ms"]["median"] for run in (other, again)]
    assert f"bench, fp16, levels 3, sub-batch 1, reshape: {medians[0]:.4g} ms a frame, peak " in shown.stdout
    assert f"bench, fp32, levels 2, sub-batch 1, reshape: {medians[1]:.4g} ms a frame, peak " in shown.stdout
    assert shown.stdout.count("bench, ") == 2
    rows = json.loads(cli("report", path, "--json").stdout)["benches"]
    assert [row["median_ms"] for row in rows] == medians
    assert [row["measured_mib"] for row in rows] == [
        run["memory"]["above_empty_process_bytes"] / 2**20 for run in (other, again)
    ]
    candidates = {str(candidate.schedule): candidate for candidate in plan(Bundle.open(path)).candidates}
    assert rows[1]["predicted_mib"] == candidates["levels 2, sub-batch 1, reshape"].peak_bytes / 2**20
    page = Page((path / "reports" / "report.html").read_text())
    assert "Time and memory" in page.text
    assert f"{medians[0]:.1f}" in page.text
    assert not page.unnamed


def test_a_bundle_that_cannot_be_written_to_is_benchmarked_all_the_same(cli: Cli, bundle: Path) -> None:
    (bundle / "reports").write_text("in the way")
    done = cli("bench", bundle, *BENCH)
    assert done.returncode == 0
    assert "not kept for the report: cannot write" in done.stderr
    assert "latency, ms" in done.stdout


def test_a_failure_is_named_first(cli: Cli, bundle: Path) -> None:
    shutil.copy(bundle / "trunk.onnx", bundle / "trunk.fp16.onnx")
    from tests.converters.verification.faults import sealed

    sealed(bundle)
    done = cli("validate", bundle)
    assert done.returncode == 1
    assert (
        "1 of 136 checks failed; the first: precision of trunk.fp16.onnx, in trunk.fp16.onnx: every layer"
        in done.stderr
    )
    shown = cli("report", bundle)
    assert "FAILED: 1 of 136 checks failed" in shown.stdout
    assert "begins in trunk.fp16.onnx: every layer computes in fp32" in shown.stdout
    assert "What failed, and where" in (bundle / "reports" / "report.html").read_text()


def test_records_that_are_not_there_or_not_understood(cli: Cli, bundle: Path) -> None:
    done = cli("report", bundle)
    assert done.returncode == 2
    assert "has not been validated; run smp-deploy validate" in done.stderr
    (bundle / "reports").mkdir()
    (bundle / "reports" / "validation.json").write_text('{"record_version": 99}')
    assert "has record version 99, this smp-deploy reads 3" in cli("report", bundle).stderr
    (bundle / "reports" / "validation.json").write_text("{")
    assert "cannot be read" in cli("report", bundle).stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--labels", "x"), "--labels are those of --images"),
        (("--precision", "fp16"), "--precision goes with --backend"),
        (("--backend", "onnxruntime", "--images", "x"), "--images is not for --backend"),
        (("--backend", "onnxruntime", "--dataset", "camvid"), "--dataset is not for --backend"),
        (("--backend", "onnxruntime", "--limit", "3"), "--limit is not for --backend"),
        (("--split", "test"), "--split is for --dataset"),
        (("--root", "x"), "--root is for --dataset"),
        (("--dataset", "scenes"), "labels of one cannot be judged by the other"),
    ],
)
def test_options_that_do_not_belong_together(cli: Cli, exported: Bundle, arguments, part) -> None:  # type: ignore[no-untyped-def]
    done = cli("validate", exported.path, *arguments)
    assert done.returncode == 2
    assert part in done.stderr


def test_labels_of_ones_own(cli: Cli, bundle: Path, frame: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(frame).save(tmp_path / "a.png")
    arguments = ("validate", bundle, "--images", tmp_path / "a.png", "--labels", tmp_path / "labels", "--json")
    assert "has no a.png" in cli(*arguments).stderr
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "labels" / "a.png")
    assert "a.png is 4x4 (height x width); the bundle's frames are 64x96" in cli(*arguments).stderr
    # Modulo 256 these would be classes; and what is none is said before the checks, not after them.
    Image.fromarray(np.full((64, 96), 259, np.uint16)).save(tmp_path / "labels" / "a.png")
    assert "a.png has the number 259, and class numbers are 0 to 255" in cli(*arguments).stderr
    Image.fromarray(np.full((64, 96), 200, np.uint8)).save(tmp_path / "labels" / "a.png")
    done = cli(*arguments)
    assert (done.returncode, "a.png: unknown label 200" in done.stderr, "passed" in done.stderr) == (2, True, False)
    Image.fromarray(frame[..., 0] % 19).save(tmp_path / "labels" / "a.png")
    done = cli(*arguments)
    checks = json.loads(done.stdout)["checks"]
    (check,) = [check for check in checks if check["kind"] == "mean IoU"]
    assert check["subject"] == "1 labelled frames"
    assert check["value"] <= 0.1


def test_chromium_renders_it(cli: Cli, validated: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "docs" / "pictures" / "screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    screenshots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshots)
    if screenshots.chromium() is None:
        pytest.skip("not run: there is no chromium")
    assert cli("report", validated, "-o", tmp_path / "report.html").returncode == 0
    corners = {}
    for scheme in ("light", "dark"):
        screenshots.screenshot(tmp_path / "report.html", tmp_path / f"{scheme}.png", 900, 700, scheme)
        pixels = np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("RGB"))
        assert pixels.shape == (700, 900, 3)
        corners[scheme] = pixels[5, 5].tolist()
        # Something is drawn: the verdict's green is on it.
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert corners == {"light": [251, 251, 250], "dark": [20, 22, 26]}
