"""A bundle is attacked, over and over: what is accepted must give the right labels, and nothing outside may change.

    python benchmarks/attack.py BUNDLE --count 3000 [--seed 0] [--json attack.json]

Every mutation works on a copy of the bundle: links, pipes, devices and folders in place of files; names that lead
elsewhere; sizes; bytes; files exchanged, added and removed; records of other networks; external data pointed elsewhere;
manifests with keys twice, deep nesting, numbers without end. Another process then opens the copy, runs it, shows
its reports and stores a record. Its end is one of three:

- refused: one of smp-deploy's errors, which names what is wrong;
- accepted, and the labels are those of the bundle as it was;
- broken: other labels, another exception, or a file outside that was changed. None may be.

Bytes are changed without renewing their hashes: a manifest that nobody signed does not say who wrote it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hostile.children import BROKEN, Worker
from hostile.labelling import Use, labels_of, uses_of
from hostile.running import Spoil, main, run_cases

from engines import Bundle
from engines.errors import SmpDeployError
from smp_deploy.reports import report, report_of

SECRET = b"what lies outside"


def _file(bundle: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in bundle.rglob("*") if path.is_file() and not path.is_symlink()))


def link_to_copy(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    outside = bundle.parent / "outside" / path.name
    path.rename(outside)
    path.symlink_to(outside)
    return f"link {path.name}"


def link_to_device(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.unlink()
    path.symlink_to(draw.choice(["/dev/zero", "/dev/random", "/dev/full", "/proc/self/mem", "nowhere", path.name]))
    return f"device {path.name}"


def pipe(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.unlink()
    os.mkfifo(path)
    return f"pipe {path.name}"


def folder(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.unlink()
    path.mkdir()
    return f"folder {path.name}"


def linked_folder(bundle: Path, draw: random.Random) -> str:
    name = draw.choice(["reports", "reference", "engines"])
    outside = bundle.parent / "outside" / name
    if (bundle / name).is_dir():
        (bundle / name).rename(outside)
    else:
        outside.mkdir()
    (bundle / name).symlink_to(outside)
    return f"linked folder {name}"


def linked_report(bundle: Path, draw: random.Random) -> str:
    name = draw.choice(["validation.json", "bench.json", "report.html", "validation.npz", "inputs.json"])
    (bundle / "reports").mkdir(exist_ok=True)
    (bundle / "reports" / name).unlink(missing_ok=True)
    (bundle / "reports" / name).symlink_to(bundle.parent / "outside" / "secret")
    return f"linked report {name}"


def flipped(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    content = bytearray(path.read_bytes() or b"x")
    for _ in range(draw.choice([1, 1, 8, 64])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return f"flipped {path.name}"


def cut(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content) + 1)])
    return f"cut {path.name}"


def grown(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    with path.open("ab") as stream:
        stream.truncate(path.stat().st_size + draw.choice([1, 2**20, 2**40]))
    return f"grown {path.name}"


def exchanged(bundle: Path, draw: random.Random) -> str:
    one, other = _file(bundle, draw), _file(bundle, draw)
    held, put = one.read_bytes(), other.read_bytes()
    one.write_bytes(put)
    other.write_bytes(held)
    return f"exchanged {one.name} and {other.name}"


def removed(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.unlink()
    return f"removed {path.name}"


def added(bundle: Path, draw: random.Random) -> str:
    name = draw.choice(["numpy.py", "msgspec.py", "sitecustomize.py", ".hidden", "engines/x.engine", "weights.bin.bak"])
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("raise SystemExit('this was run')\n")
    return f"added {name}"


def renamed(bundle: Path, draw: random.Random) -> str:
    """A name in the manifest becomes one that leads elsewhere."""
    path = bundle / "manifest.json"
    text = path.read_text()
    manifest = json.loads(text)
    name = draw.choice(sorted(manifest["files"]))
    other = draw.choice(
        [
            "../outside/secret",
            "/etc/hostname",
            "a/../../x",
            ".",
            "..",
            "reports/x.bin",
            "\\x",
            "a\u202eb",
            "",
            "x" * 300,
        ]
    )
    path.write_text(text.replace(json.dumps(name), json.dumps(other)))
    return f"renamed {name} to {other!r}"


def edited(bundle: Path, draw: random.Random) -> str:
    """A value anywhere in a manifest becomes another one, where that cannot change which files are run."""
    path = draw.choice([held for held in (bundle / "manifest.json", bundle / "target.json") if held.exists()])
    document = json.loads(path.read_text())
    place: Any = document
    trail = []
    while isinstance(place, (dict, list)) and place:
        key = draw.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        trail.append(key)
        parent, place = place, place[key]
    parent[key] = draw.choice([None, -1, 2**31, 2**70, 1e308, "", "x", [], {}, [[[]]], True, 2**14, [2**14, 2**14]])
    path.write_text(json.dumps(document))
    return f"edited {'.'.join(map(str, trail))} to {parent[key]!r}"


def doubled_key(bundle: Path, draw: random.Random) -> str:
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    key = draw.choice(sorted(document))
    path.write_text(path.read_text().rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(document[key])}}}")
    return f"twice {key}"


def nested(bundle: Path, draw: random.Random) -> str:
    name = draw.choice(
        ["manifest.json", "target.json", "reports/validation.json", "reports/bench.json", "reports/x.json"]
    )
    (bundle / name).parent.mkdir(exist_ok=True)
    depth = draw.choice([100, 10_000, 1_000_000])
    (bundle / name).write_text('{"schema_version": 7, "record_version": 3, "x": ' + "[" * depth + "]" * depth + "}")
    return f"nested {name}"


def pointed(bundle: Path, draw: random.Random) -> str:
    """A graph's external data lies elsewhere, and the graph's hash is renewed: the first lie that hashes do not see."""
    import hashlib

    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    graph = draw.choice([g for trunk in manifest["trunks"] for g in trunk["graphs"].values()])
    other = draw.choice([b"reports/x.bin", b"../x.bin", b"/dev/zero1x"])
    content = (bundle / graph).read_bytes()
    # Of the same length where that is possible: a protobuf message has lengths.
    changed = content.replace(b"weights.bin", (other + b"xxxxxxxxxxx")[:11])
    (bundle / graph).write_bytes(changed)
    manifest["files"][graph] = {"sha256": hashlib.sha256(changed).hexdigest(), "size": len(changed)}
    path.write_text(json.dumps(manifest))
    return f"pointed {graph} elsewhere"


def spoilt_record(bundle: Path, draw: random.Random) -> str:
    (bundle / "reports").mkdir(exist_ok=True)
    name = draw.choice(
        ["validation.json", "bench.json", "validation.npz", "validation-onnxruntime-fp32-l2-b1-reshape.json", "x.json"]
    )
    junk = draw.choice(
        [b"", b"{}", b"[]", b"null", b'{"record_version": 3}', b"PK\3\4" + bytes(100), bytes(1000), b'{"a": 1e999}']
    )
    (bundle / "reports" / name).write_bytes(junk)
    return f"record {name}"


def reserved(bundle: Path, draw: random.Random) -> str:
    """The manifest lists a file that speaks of itself, with whatever digest suits."""
    name = draw.choice(["manifest.json", "target.json", "model.sig", "reports/report.html", "./weights.bin", "a\n"])
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": "ab" * 32, "size": 1}
    path.write_text(json.dumps(manifest))
    return f"lists {name!r}"


def open_mode(bundle: Path, draw: random.Random) -> str:
    """What is written in place of such a file must not be executable, nor anybody's to write."""
    (bundle / "reports").mkdir(exist_ok=True)
    name = draw.choice(["reports/report.html", "reports/x.json"])
    (bundle / name).write_bytes(b"{}")
    (bundle / name).chmod(0o6777)
    return f"mode of {name}"


def long_tag(bundle: Path, draw: random.Random) -> str:
    """A graph's hash is renewed, and a field's tag is longer than 32 bits: a runtime reads it as another field."""
    import hashlib

    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    graph = draw.choice([g for trunk in manifest["trunks"] for g in trunk["graphs"].values()])
    tag = (draw.choice([7, 14, 20, 25]) << 3 | 2) | 1 << draw.choice([32, 40, 60])
    encoded = b""
    while tag:
        encoded += bytes([tag & 127 | (128 if tag >> 7 else 0)])
        tag >>= 7
    changed = (bundle / graph).read_bytes() + encoded + b"\x02xx"
    (bundle / graph).write_bytes(changed)
    manifest["files"][graph] = {"sha256": hashlib.sha256(changed).hexdigest(), "size": len(changed)}
    path.write_text(json.dumps(manifest))
    return f"a long tag in {graph}"


MUTATIONS: tuple[Spoil, ...] = (
    link_to_copy,
    link_to_device,
    pipe,
    folder,
    linked_folder,
    linked_report,
    flipped,
    cut,
    grown,
    exchanged,
    removed,
    added,
    renamed,
    edited,
    doubled_key,
    nested,
    pointed,
    spoilt_record,
    reserved,
    open_mode,
    long_tag,
)


def used(bundle: Path, frame: np.ndarray, use: Use, right: np.ndarray) -> str:
    """Open, run, report and store, in a process of its own; what became of it."""
    ended = []
    try:
        opened = Bundle.open(bundle)
        if not np.array_equal(labels_of(opened, frame, use), right):
            return f"{BROKEN}: other labels"
        ended.append("runs")
    except SmpDeployError as error:
        ended.append(f"refused: {type(error).__name__}")
        return ended[0]
    for work in (lambda: report_of(opened), lambda: report(opened), lambda: opened.write_report("x.json", b"{}")):
        try:
            work()
        except SmpDeployError as error:
            ended.append(f"refused: {type(error).__name__}")
    modes = [path.stat().st_mode & 0o7133 for path in (bundle / "reports").glob("report.html") if path.is_file()]
    if len(ended) == 1 and any(modes):
        return f"{BROKEN}: a report of mode {max(modes):o}"
    return "accepted" if len(ended) == 1 else "accepted, reports refused"


def attack(bundle: Path, count: int, seed: int) -> dict[str, Any]:
    """Attack so many times; how it ended, by mutation, and every one that broke."""
    opened = Bundle.open(bundle)
    frame = opened.reference_arrays(opened.manifest.reference[0])[0]
    rights = [(use, labels_of(opened, frame, use)) for use in uses_of(opened)]

    def case(mutate: Spoil, draw: random.Random, worker: Worker) -> tuple[str, str]:
        with tempfile.TemporaryDirectory() as place:
            outside, copy = Path(place) / "outside", Path(place) / "bundle"
            outside.mkdir()
            (outside / "secret").write_bytes(SECRET)
            shutil.copytree(bundle, copy)
            said = mutate(copy, draw)
            before = _contents(outside)
            ended = worker.answer_of(used, copy, frame, *draw.choice(rights))
            return said, ended if _contents(outside) == before else f"{BROKEN}: a file outside was changed"

    return run_cases(MUTATIONS, case, count, seed)


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main(__doc__, attack, count=3000)
