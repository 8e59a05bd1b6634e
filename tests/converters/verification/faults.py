"""Planting faults: graphs and weights of a bundle are edited, and its hashes updated, as a wrong exporter would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines import Bundle
from engines.bundle.contents import record_of, record_of_file
from engines.bundle.gate import Folder
from engines.bundle.manifest import MANIFEST_NAME, TARGET_NAME, Manifest, TargetManifest, json_from_manifest

Edit = Callable[[onnx.ModelProto], None]


def edited(path: Path, *names: str, edit: Edit) -> Bundle:
    """Edit graphs of the bundle at ``path``; their weights move into the graphs."""
    for name in names:
        model = onnx.load(path / name)
        edit(model)
        onnx.save(model, path / name)
    return sealed(path)


def sealed(path: Path, **changes: object) -> Bundle:
    """The bundle with the hashes of what its files are now; of what was added, engines say, where that is changed."""
    manifest = msgspec.json.decode((path / MANIFEST_NAME).read_bytes(), type=Manifest)
    added = {name: changes.pop(name) for name in ("engines", "tunings") if name in changes}
    files = {name: record_of_file(path / name) for name in manifest.files}
    document = json_from_manifest(msgspec.structs.replace(manifest, files=files, **changes))
    (path / MANIFEST_NAME).write_bytes(document)
    if added or (path / TARGET_NAME).exists():
        target = Bundle.read(Folder(path)).target if not (path / TARGET_NAME).exists() else read_target(path)
        listed = {name for engine in added.get("engines", target.engines) for name in engine.files}
        target = msgspec.structs.replace(
            target,
            manifest_sha256=record_of(document).sha256,
            files={name: record_of_file(path / name) for name in listed},
            **added,
        )
        (path / TARGET_NAME).write_bytes(msgspec.json.encode(target))
    return Bundle.open(path)


def read_target(path: Path) -> TargetManifest:
    return msgspec.json.decode((path / TARGET_NAME).read_bytes(), type=TargetManifest)


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def parameter_of(model: onnx.ModelProto, node: str, index: int) -> tuple[onnx.TensorProto, np.ndarray]:
    name = node_of(model, node).input[index]
    held = next(held for held in model.graph.initializer if held.name == name)
    return held, numpy_helper.to_array(held)


def set_parameter(model: onnx.ModelProto, node: str, index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    held, values = parameter_of(model, node, index)
    held.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), held.name))


def set_attribute(model: onnx.ModelProto, node: str, name: str, values: list[int]) -> None:
    found = node_of(model, node)
    kept = [attribute for attribute in found.attribute if attribute.name != name]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(name, values)])


def after(model: onnx.ModelProto, tensor: str, *nodes: onnx.NodeProto) -> None:
    """Put ``nodes``, from ``tensor`` to ``faulty``, between a tensor and all that read it."""
    place = max(i for i, node in enumerate(model.graph.node) if tensor in node.output)
    for node in model.graph.node[place + 1 :]:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = "faulty"
    for offset, node in enumerate(nodes, 1):
        model.graph.node.insert(place + offset, node)


def before_output(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put ``nodes``, from ``right`` to the graph's output, in front of it."""
    output = model.graph.output[0].name
    producer = next(node for node in model.graph.node if output in node.output)
    producer.output[0] = "right"
    model.graph.node.extend(nodes)


def constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name
