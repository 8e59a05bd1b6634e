"""Damage to a bundle's files that no hash shows: one place of one file, and then every hash is renewed."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hostile.running import Spoil

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 256, 65535, 2**31, 2**63, 2**70, 10**400),
    *(0.0, -0.0, 0.5, -1.5, 1e-300, 1e308, float("inf"), float("nan")),
    *("", "x", "0", "fp16", "\ud800", "\0", "a\u202eb", "../x", "/etc/hostname", "x" * 5000),
    *([], {}, [[]], [0], [1, 2, 3], [2**14, 2**14], {"x": 1}, [None]),
)
"""What stands where something else belongs."""


def manifest_value(bundle: Path, draw: random.Random) -> str:
    return _value_of(bundle / "manifest.json", draw)


def target_value(bundle: Path, draw: random.Random) -> str:
    return _value_of(bundle / "target.json", draw)


def record_value(bundle: Path, draw: random.Random) -> str:
    return _value_of(_one_of(bundle, draw, "reports/*.json", "engines/*.json"), draw)


def _value_of(path: Path, draw: random.Random) -> str:
    """A value anywhere in a document is another one, is gone, or is there twice."""
    document = json.loads(path.read_text())
    # A place is drawn step by step, so that the few values near the root come as often as the many below.
    place, trail = document, []
    parent: Any = None
    while isinstance(place, (dict, list)) and place and (not trail or draw.random() > 0.1):
        key = draw.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        trail.append(key)
        parent, place = place, place[key]
    how = draw.choice(("other", "other", "near", "gone", "moved"))
    if parent is None:
        document = draw.choice(_VALUES)
    elif how == "gone":
        del parent[trail[-1]]
    elif how == "moved":
        other = draw.choice(sorted(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[trail[-1]], parent[other] = parent[other], parent[trail[-1]]
    else:
        parent[trail[-1]] = _near(place, draw) if how == "near" else draw.choice(_VALUES)
    path.write_text(json.dumps(document))
    return f"{path.name}: {'.'.join(map(str, trail))} {how}"


def _near(value: Any, draw: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return draw.choice((value + 1, value - 1, value * 2, -value, value / 3))
    if isinstance(value, str):
        return draw.choice((value + "x", value[:-1], value.upper(), value[::-1], value * 2))
    if isinstance(value, list):
        return draw.choice((value + value[-1:], value[:-1], value[::-1], value * 3))
    return dict(list(value.items())[:-1])


def text_of_json(bundle: Path, draw: random.Random) -> str:
    return _bytes_of(_one_of(bundle, draw, "*.json", "reports/*.json", "engines/*.json"), draw)


def bytes_of_graph(bundle: Path, draw: random.Random) -> str:
    return _bytes_of(_one_of(bundle, draw, "*.onnx"), draw)


def bytes_of_weights(bundle: Path, draw: random.Random) -> str:
    return _bytes_of(bundle / "weights.bin", draw)


def bytes_of_array(bundle: Path, draw: random.Random) -> str:
    return _bytes_of(_one_of(bundle, draw, "reference/*.npy", "reports/*.npz"), draw)


def _bytes_of(path: Path, draw: random.Random) -> str:
    """Bytes are changed, cut off, left out, doubled, or overwritten."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content)) if content else 0
    length = draw.choice((1, 2, 8, 64, 1000))
    how = draw.choice(("flipped", "cut", "left out", "doubled", "zeros", "ones", "random", "inserted"))
    if how == "flipped":
        content[at] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del content[at:]
    elif how == "left out":
        del content[at : at + length]
    elif how == "doubled":
        content[at:at] = content[at : at + length]
    elif how == "inserted":
        content[at:at] = draw.randbytes(length)
    else:
        fill = {"zeros": bytes(length), "ones": b"\xff" * length, "random": draw.randbytes(length)}[how]
        content[at : at + length] = fill[: len(content) - at]
    path.write_bytes(content)
    return f"{path.name}: {length} bytes at {at} {how}"


def header_of_array(bundle: Path, draw: random.Random) -> str:
    """A reference array is one of another type, shape or order, an object, a zip, or has a header of someone's own."""
    path = _one_of(bundle, draw, "reference/*.npy")
    array = np.load(path)
    how = draw.choice(("type", "shape", "order", "object", "archive", "header", "version", "length"))
    buffer = io.BytesIO()
    if how == "type":
        array = array.astype(draw.choice(("f2", "f4", "f8", "u1", "i8", ">f4", "c8", "?", "S3")))
    elif how == "shape":
        array = draw.choice((array[None], array[..., :-1], array.reshape(-1), array[:0], np.swapaxes(array, 0, -1)))
    elif how == "order":
        array = np.asfortranarray(array)
    elif how == "object":
        array = np.array([{}, None], dtype=object)
    if how == "archive":
        np.savez(buffer, array)
    else:
        np.save(buffer, array)
    content = buffer.getvalue()
    if how == "header":
        text = draw.choice(
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }",
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
                "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 200 + ")" * 200 + "}",
                "__import__('os').system('false')",
            )
        )
        line = text.ljust(117).encode() + b"\n"
        content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(line)) + line + content[128:]
    elif how == "version":
        content = content[:6] + bytes((draw.randrange(256), draw.randrange(256))) + content[8:]
    elif how == "length":
        content = content[:8] + draw.randbytes(2) + content[10:]
    path.write_bytes(content)
    return f"{path.name}: {how}"


def archive(bundle: Path, draw: random.Random) -> str:
    """An archive's member is named otherwise, compressed otherwise, there twice or another file."""
    path = _one_of(bundle, draw, "reports/*.npz")
    with zipfile.ZipFile(path) as held:
        members = {name: held.read(name) for name in held.namelist()}
    name = draw.choice(sorted(members))
    how = draw.choice(("renamed", "gone", "other", "twice", "stored", "bzip2", "lzma", "large"))
    if how == "renamed":
        members[draw.choice(("x.npy", "../x.npy", "image-99.npy", "/", "a" * 300))] = members.pop(name)
    elif how == "gone":
        del members[name]
    elif how == "other":
        members[name] = members[draw.choice(sorted(members))]
    elif how == "large":
        members[name] += bytes(50 << 20)
    method = {"stored": zipfile.ZIP_STORED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    with zipfile.ZipFile(path, "w", method.get(how, zipfile.ZIP_DEFLATED)) as made:
        for key, content in members.items():
            made.writestr(key, content)
        if how == "twice":
            made.writestr("y" + name, members[name])
    return f"{path.name}: {name} {how}"


def graph(bundle: Path, draw: random.Random) -> str:
    """An ONNX file that is well-formed and says something else."""
    path = _one_of(bundle, draw, "*.onnx")
    model = onnx.load(path, load_external_data=False)
    held = model.graph
    how, change = draw.choice(_GRAPH_CHANGES)
    said = change(held, draw) if how != "model" else _of_model(model, draw)
    path.write_bytes(model.SerializeToString())
    return f"{path.name}: {how} {said}"


def _of_model(model: onnx.ModelProto, draw: random.Random) -> str:
    how = draw.choice(("opset", "domain", "version", "no graph"))
    if how == "opset":
        model.opset_import[0].version = draw.choice((1, 7, 13, 26, 999, 2**40))
    elif how == "domain":
        model.opset_import.add(domain="x.y", version=1)
    elif how == "version":
        model.ir_version = draw.choice((0, 3, 14, 1000))
    else:
        model.ClearField("graph")
    return how


def _operator(held: onnx.GraphProto, draw: random.Random) -> str:
    node = draw.choice(held.node)
    node.op_type = draw.choice(("Relu", "Neg", "Conv", "Add", "Identity", "NonZero", "Loop", "ReduceSum", "Nonsense"))
    return node.op_type


def _no_node(held: onnx.GraphProto, draw: random.Random) -> str:
    held.node.pop(draw.randrange(len(held.node)))
    return "one less"


def _edge(held: onnx.GraphProto, draw: random.Random) -> str:
    node = draw.choice([node for node in held.node if node.input])
    names = [name for other in held.node for name in (*other.input, *other.output)]
    node.input[draw.randrange(len(node.input))] = draw.choice((*names, "nothing", ""))
    return node.op_type


def _attribute(held: onnx.GraphProto, draw: random.Random) -> str:
    node = draw.choice([node for node in held.node if node.attribute])
    changed = draw.choice(node.attribute)
    if changed.ints:
        changed.ints[draw.randrange(len(changed.ints))] = draw.choice((0, 1, 2, 3, -1, 7, 2**20, 2**40, 2**62))
    elif changed.HasField("i"):
        changed.i = draw.choice((0, 1, -1, 2, 5, 2**40))
    else:
        node.attribute.remove(changed)
    return f"{node.op_type}.{changed.name}"


def _interface(held: onnx.GraphProto, draw: random.Random) -> str:
    """An input or output of another name, type or shape, or one more or less."""
    values = draw.choice((held.input, held.output))
    value = draw.choice(values)
    how = draw.choice(("name", "type", "rank", "side", "gone", "twice"))
    dims = value.type.tensor_type.shape.dim
    if how == "name":
        value.name = draw.choice(("x", "", "frame", "labels", value.name + "\n"))
    elif how == "type":
        value.type.tensor_type.elem_type = draw.choice((1, 2, 6, 7, 8, 9, 10, 11, 16, 99))
    elif how == "rank":
        dims.add(dim_value=1)
    elif how == "side":
        draw.choice(dims).dim_value = draw.choice((0, 1, 2, 3, 1000, -1, 2**40))
    elif how == "gone":
        values.remove(value)
    else:
        values.add().CopyFrom(value)
    return how


def _initializer(held: onnx.GraphProto, draw: random.Random) -> str:
    """Weights that lie elsewhere in the file, have another shape or type, another name, or are not there."""
    if not held.initializer:
        return "none"
    tensor = draw.choice(held.initializer)
    how = draw.choice(("offset", "length", "location", "dims", "type", "name", "gone"))
    entries = {entry.key: entry for entry in tensor.external_data}
    if how in entries:
        entries[how].value = draw.choice(("0", "-1", "4", str(2**62), "x", "", "1e3", " 8", "../weights.bin"))
    elif how == "dims" and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice((0, 1, 3, -1, 2**40))
    elif how == "type":
        tensor.data_type = draw.choice((0, 1, 2, 7, 8, 10, 16, 99))
    elif how == "name":
        tensor.name = draw.choice(("", "x", held.node[0].output[0]))
    else:
        held.initializer.remove(tensor)
    return how


_GRAPH_CHANGES: tuple[tuple[str, Callable[[Any, random.Random], str]], ...] = (
    ("operator", _operator),
    ("node", _no_node),
    ("edge", _edge),
    ("attribute", _attribute),
    ("interface", _interface),
    ("initializer", _initializer),
    ("model", _of_model),
)

DAMAGES: tuple[Spoil, ...] = (
    manifest_value,
    target_value,
    record_value,
    text_of_json,
    bytes_of_graph,
    bytes_of_weights,
    bytes_of_array,
    header_of_array,
    archive,
    graph,
)


def renew_hashes(bundle: Path) -> None:
    """Make every hash that is written down one of the file as it is, where the document can still be read."""
    old_to_new: dict[str, str] = {}
    for name in ("manifest.json", "target.json"):
        path = bundle / name
        try:
            document = json.loads(path.read_text())
            files = document["files"]
            if name == "target.json":
                document["manifest_sha256"] = _sha256(bundle / "manifest.json")
            for listed, record in files.items():
                content = (bundle / listed).read_bytes()
                sha256 = hashlib.sha256(content).hexdigest()
                old_to_new[str(record["sha256"])] = sha256
                record.update(sha256=sha256, size=len(content))
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            continue
        path.write_text(json.dumps(document))
    for path in (bundle / "reports").glob("*.json"):
        text = path.read_bytes()
        for old, new in old_to_new.items():
            # Where a hash was spoilt, it may be half of a character.
            text = text.replace(old.encode("utf-8", "surrogatepass"), new.encode())
        path.write_bytes(text)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _one_of(bundle: Path, draw: random.Random, *patterns: str) -> Path:
    return draw.choice(sorted(path for pattern in patterns for path in bundle.glob(pattern)))
