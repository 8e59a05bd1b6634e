"""The page that lies in a bundle: what it is, and how engines are made of it on a target without Python."""

from __future__ import annotations

from engines.backends.tensorrt.trtexec import trtexec_lines
from engines.bundle.manifest import Manifest

README_NAME = "README.md"


def readme_from_manifest(manifest: Manifest) -> str:
    """The bundle's ``README.md``, in Markdown; its commands are for a shell in the bundle's directory."""
    frame, classes = manifest.input, len(manifest.classes)
    height, width = frame.size
    return "\n\n".join(
        [
            f"# {manifest.network.source}, {height}x{width}",
            f"Written by smp-deploy {manifest.tools['smp-deploy']}: frames uint8 ({height}, {width}, 3) RGB in, "
            f"{manifest.outputs.value} of {classes} classes out. `manifest.json` says what every file is and must be; "
            "the graphs need `weights.bin` beside them.",
            "```text\nsmp-deploy inspect .\nsmp-deploy validate .\nsmp-deploy run . FRAMES -o LABELS\n```",
            "## Trunks",
            "All trunks of a precision give the same result; more levels hold less memory. Operations are a frame's.",
            _trunk_table(manifest),
            "## Engines without Python",
            "The lines that build with trtexec what `smp-deploy build-engine` builds, one phase at a time. For larger "
            "sub-batches raise the first number of `--optShapes` and `--maxShapes`. Precision is in the graph: give "
            "neither `--fp16` nor `--int8`. An engine runs on the GPU and the TensorRT version it was built with.",
            "```text\n" + "\n".join(_trtexec_lines(manifest)) + "\n```\n",
        ]
    )


def _trunk_table(manifest: Manifest) -> str:
    rows = ["| graph | levels | lowering | phases | GFLOP | largest activations, MiB |", "| --- " * 6 + "|"]
    for trunk in manifest.trunks:
        phases = len(manifest.grid(trunk).phases)
        rows += [
            f"| `{graph}` | {trunk.levels} | {trunk.lowering.value} | {phases} | {trunk.operations * phases / 1e9:.1f} "
            f"| {trunk.live_bytes[precision] / 2**20:.1f} |"
            for precision, graph in trunk.graphs.items()
        ]
    return "\n".join(rows)


def _trtexec_lines(manifest: Manifest) -> list[str]:
    lines: dict[str, None] = {}
    for trunk in manifest.trunks:
        shape = (3, *manifest.grid(trunk).crop_size)
        for graph in trunk.graphs.values():
            # That of prepare.onnx is the same each time, and comes first.
            *own, prepare = trtexec_lines(graph, "windows", shape, sub_batch=1)
            lines |= dict.fromkeys((prepare, *own))
    return list(lines)
