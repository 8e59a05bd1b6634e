"""Whether the graphs of a bundle give as many classes as it names."""

from __future__ import annotations

from collections.abc import Callable

from engines.bundle.manifest import MANIFEST_NAME, Manifest, OutputKind
from engines.bundle.onnx_files import output_shapes
from engines.errors import BundleError


def check_channels(manifest: Manifest, content: Callable[[str], bytes]) -> None:
    """Raise :class:`BundleError` unless every graph that gives values by class gives those of the named classes.

    Args:
        manifest: of the bundle.
        content: of a file of it.
    """
    named, kind = len(manifest.classes), manifest.outputs
    outputs = {manifest.model: "logits"}
    if kind is not OutputKind.LABELS:
        # Labels are one number a pixel.
        outputs |= {name: kind.value for trunk in manifest.trunks for name in trunk.graphs.values()}
    for name, output in outputs.items():
        shape = output_shapes(content(name), name).get(output, ())
        if len(shape) == 4 and shape[1] not in (None, named):
            raise BundleError(
                f"{MANIFEST_NAME} names {named} classes, and {name} gives {output} of {shape[1]}; export again"
            )
