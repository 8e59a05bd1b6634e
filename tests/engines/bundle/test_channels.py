"""Classes that are named and classes that the graphs give: compared when a bundle is opened."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from engines import Bundle
from engines.bundle.channels import check_channels
from engines.bundle.contents import record_of_file
from engines.bundle.manifest import ClassRecord, OutputKind, json_from_manifest
from engines.bundle.onnx_files import output_shapes
from engines.errors import BundleError


@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_classes_than_channels_is_refused_at_opening(
    exported: Bundle, bundle: Path, more: int
) -> None:
    """All that the manifest lists is of as many classes as it names; only the graphs tell."""
    held = exported.manifest
    classes = held.classes[:-1] if more < 0 else [*held.classes, ClassRecord(name="another", color=(1, 2, 3))]
    assert held.edges is not None
    for name, axis in ((held.reference[0].logits, 0), (held.edges.logits, 1)):
        array = np.load(bundle / name)
        wanted = np.take(array, range(19 + more), axis, mode="clip")
        np.save(bundle / name, wanted)
    files = {name: record_of_file(bundle / name) for name in held.files}
    manifest = msgspec.structs.replace(held, classes=classes, files=files)
    (bundle / "manifest.json").write_bytes(json_from_manifest(manifest))
    words = f"manifest.json names {19 + more} classes, and model.onnx gives logits of 19; export again"
    with pytest.raises(BundleError, match=words):
        Bundle.open(bundle)


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.PROBABILITIES])
def test_trunks_that_give_values_by_class_are_compared_too(kind: OutputKind, exported: Bundle) -> None:
    def graph_of(name: str, channels: int) -> bytes:
        output = "logits" if name == exported.manifest.model else kind.value
        value = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["phases", channels, 8, 9])
        return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [value])).SerializeToString()

    manifest = msgspec.structs.replace(exported.manifest, outputs=kind)
    other = manifest.trunks[-1].graphs[next(iter(manifest.trunks[-1].graphs))]
    check_channels(manifest, lambda name: graph_of(name, 19))
    with pytest.raises(BundleError, match=f"names 19 classes, and {other} gives {kind.value} of 18; export again"):
        check_channels(manifest, lambda name: graph_of(name, 18 if name == other else 19))


def test_shapes_are_read_as_onnx_reads_them(exported: Bundle) -> None:
    for name in sorted(exported.manifest.graphs):
        content = exported.content(name)
        expected = {
            value.name: tuple(
                size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim
            )
            for value in onnx.load_model_from_string(content).graph.output
        }
        assert output_shapes(content, name) == expected
    with pytest.raises(BundleError, match=r"^x is no ONNX file"):
        output_shapes(b"\xff\xff", "x")


def test_a_bundle_that_is_whole_opens(bundle: Path) -> None:
    assert record_of_file(bundle / "model.onnx") == Bundle.open(bundle).files["model.onnx"]
