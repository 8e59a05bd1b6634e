"""The bill of materials of a bundle: the network, its files, the data it was made with, engines, and what wrote it."""

from __future__ import annotations

from collections.abc import Mapping

from engines.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest, TargetManifest
from engines.bundle.records import BuildRecord
from engines.bundle.records.statements import package_url
from smp_deploy import __version__
from smp_deploy.materials.cyclonedx import (
    Bom,
    Component,
    Data,
    Format,
    ModelCard,
    ModelParameters,
    Reference,
    bom_of,
    bounded_version,
    properties,
    sha256,
)

_BUNDLE = "bundle"
_CHECKPOINT = "data:checkpoint"
_CALIBRATION = "data:calibration"


def bom_of_bundle(
    manifest: Manifest, target: TargetManifest, manifest_file: FileRecord, builds: Mapping[str, BuildRecord]
) -> Bom:
    """The bill of a bundle.

    Args:
        manifest: what the bundle says of itself.
        target: what was added to it where it runs.
        manifest_file: size and SHA-256 of the manifest itself.
        builds: the build record of each engine, by the name of its file (:attr:`EngineRecord.record`).

    Raises :class:`InputError` where ``SOURCE_DATE_EPOCH`` is no time.
    """
    files = _files(manifest, target, {**manifest.files, **target.files, MANIFEST_NAME: manifest_file}, builds)
    components = [*files, *_origins(manifest), *_tools(manifest), *_runtimes(builds)]
    needs = {_BUNDLE: [part.bom_ref for part in files], **_needs(manifest, target, builds)}
    return bom_of(_network(manifest), components, needs, tool_version=__version__)


def _network(manifest: Manifest) -> Component:
    height, width = manifest.input.size
    network, classes = manifest.network, len(manifest.classes)
    data = [_CALIBRATION] if manifest.calibration else []
    data += [_file(case.frame) for case in manifest.reference]
    shape = f"({height}, {width})"
    given = {"labels": f"labels, uint8 {shape}, of {classes} classes"}
    card = ModelCard(
        model_parameters=ModelParameters(
            task="semantic segmentation",
            architecture_family="convolutional neural network",
            model_architecture=network.source,
            datasets=[Reference(ref=ref) for ref in sorted(set(data))],
            inputs=[Format(format=f"RGB frame, uint8 ({height}, {width}, 3)")],
            outputs=[
                Format(
                    format=given.get(
                        manifest.outputs.value, f"{manifest.outputs.value}, float32 ({classes}, {height}, {width})"
                    )
                )
            ],
        ),
        properties=properties(
            {
                "parameters": network.parameters,
                "width": network.width,
                "opset": manifest.opset,
                "schema_version": manifest.schema_version,
                "windows": ", ".join(f"{h}x{w}" for h, w in manifest.windows) or None,
            }
        ),
    )
    return Component(type="machine-learning-model", name=network.source, bom_ref=_BUNDLE, model_card=card)


def _files(
    manifest: Manifest,
    target: TargetManifest,
    listed: Mapping[str, FileRecord],
    builds: Mapping[str, BuildRecord],
) -> list[Component]:
    """Every file of the bundle, with its hash."""
    model = "machine-learning-model"
    kinds = {
        manifest.model: (model, "the whole network"),
        manifest.prepare: ("file", "normalises and pads a frame"),
        manifest.weights: ("file", "weights of every graph"),
        MANIFEST_NAME: ("file", "what the bundle is"),
    }
    facts: dict[str, Mapping[str, object]] = {}
    for trunk in manifest.trunks:
        for precision, name in trunk.graphs.items():
            kinds[name] = (model, "a trunk: computes phases of a frame")
            facts[name] = {"precision": precision.value, "levels": trunk.levels, "lowering": trunk.lowering.value}
    for case in manifest.reference:
        kinds[case.frame] = ("data", "a reference frame")
        kinds[case.logits] = ("data", "what PyTorch computes for a phase of a reference frame")
    if manifest.edges:
        kinds[manifest.edges.logits] = ("data", "what PyTorch computes for generated frames")
    for engine in target.engines:
        kinds[engine.engine] = (model, "an engine, built of a trunk")
        kinds[engine.prepare] = ("file", f"an engine, built of {manifest.prepare}")
        kinds[engine.record] = ("file", "the record of an engine's build")
        facts[engine.engine] = {
            "backend": engine.backend,
            "precision": engine.precision.value,
            "levels": engine.schedule.levels,
            "lowering": engine.schedule.lowering.value,
            "sub_batch": engine.schedule.sub_batch,
            **_build_facts(builds.get(engine.record)),
        }
    parts = []
    for name, record in listed.items():
        kind, description = kinds.get(name, ("file", ""))
        parts.append(
            Component(
                type=kind,
                name=name,
                bom_ref=_file(name),
                description=description,
                hashes=sha256(record.sha256),
                data=[Data(type="dataset", name=name)] if kind == "data" else [],
                properties=properties({"bytes": record.size, **facts.get(name, {})}),
            )
        )
    return parts


def _build_facts(build: BuildRecord | None) -> dict[str, object]:
    if build is None:
        return {}
    return {
        "built_with": f"{build.backend} {build.version}",
        "built_by": f"smp-deploy {build.smp_deploy}, Python {build.python}",
        "target": build.target,
        "architecture": build.device.architecture,
        "soc": build.device.soc,
        "gpu": build.device.gpu,
        "compute_capability": build.device.compute_capability,
    }


def _origins(manifest: Manifest) -> list[Component]:
    """What the network was made of, and is not in the bundle."""
    parts = []
    checkpoint, calibration = manifest.network.checkpoint_sha256, manifest.calibration
    if checkpoint is not None:
        parts.append(
            Component(
                type="data",
                name="checkpoint",
                bom_ref=_CHECKPOINT,
                description="the file that the network's parameters were read from",
                scope="excluded",
                hashes=sha256(checkpoint),
                data=[Data(type="other", name="checkpoint")],
            )
        )
    if calibration is not None:
        parts.append(
            Component(
                type="data",
                name="calibration frames",
                bom_ref=_CALIBRATION,
                description="frames on which the activations of the int8 trunks were measured",
                scope="excluded",
                data=[Data(type="dataset", name="calibration frames")],
                properties=properties(
                    {
                        "frames": calibration.frames,
                        "method": calibration.method,
                        "percentile": calibration.percentile,
                    }
                ),
            )
        )
    return parts


def _tools(manifest: Manifest) -> list[Component]:
    """What wrote the bundle."""
    return [
        Component(
            type="application" if name == "smp-deploy" else "library",
            name=name,
            bom_ref=f"tool:{name}",
            version=bounded_version(version),
            description="wrote the bundle",
            scope="excluded",
            purl=package_url(name, version),
        )
        for name, version in manifest.tools.items()
    ]


def _runtimes(builds: Mapping[str, BuildRecord]) -> list[Component]:
    """What engines were built with and run on: of the platform, or a package, so it has no package URL."""
    return [
        Component(
            type="library",
            name=name,
            bom_ref=_runtime(name, version),
            version=bounded_version(version),
            description="built engines, and runs them",
        )
        for name, version in {(build.backend, build.version) for build in builds.values()}
    ]


def _needs(manifest: Manifest, target: TargetManifest, builds: Mapping[str, BuildRecord]) -> dict[str, list[str]]:
    """What every file needs: graphs their weights, engines what they were built of and their runtime."""
    weights = _file(manifest.weights)
    graphs = {name: [weights] for trunk in manifest.trunks for name in trunk.graphs.values()}
    graphs |= {manifest.model: [weights], manifest.prepare: [weights]}
    needs = {_file(name): needed for name, needed in graphs.items()}
    if manifest.network.checkpoint_sha256 is not None:
        needs[weights] = [_CHECKPOINT]
    for engine in target.engines:
        graph = manifest.trunk_of(engine.schedule).graphs[engine.precision.graph]
        build = builds.get(engine.record)
        runtime = [] if build is None else [_runtime(build.backend, build.version)]
        needs[_file(engine.engine)] = [_file(graph), weights, *runtime]
        needs[_file(engine.prepare)] = [_file(manifest.prepare), weights, *runtime]
    return needs


def _file(name: str) -> str:
    return f"file:{name}"


def _runtime(name: str, version: str) -> str:
    return f"runtime:{name}@{version}"
