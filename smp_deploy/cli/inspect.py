"""``smp-deploy inspect``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import msgspec
import typer

from engines.bundle.bundle import Bundle, record_of
from engines.bundle.gate import read_file
from engines.bundle.manifest import MANIFEST_NAME, FileRecord, manifest_from_json
from engines.bundle.records import BuildRecord, builtins_from_record, record_from_json
from engines.errors import BundleError, InputError, MissingDependency
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import BundleArgument, JsonOption
from smp_deploy.cli.summaries import TRUNK_COLUMNS, bench_summaries, bundle_rows, trunk_rows, tuning_summaries

_LARGEST_MANIFEST = 64 << 20


def inspect_command(
    bundle: BundleArgument,
    with_classes: Annotated[bool, typer.Option("--classes", help="Also list the classes and their colours.")] = False,
    as_json: JsonOption = False,
    sbom: Annotated[
        bool, typer.Option("--sbom", help="Print the bill of materials of the bundle, CycloneDX 1.6.")
    ] = False,
    attestations: Annotated[
        bool,
        typer.Option(
            "--attestations",
            help="Print in-toto statements, not signed: where bundle and engines come from, what was proven.",
        ),
    ] = False,
) -> None:
    """Show what BUNDLE holds, after verifying every file: network, sizes, phases, graphs, engines, files."""
    if sbom + attestations + (as_json or with_classes) > 1:
        raise InputError("--sbom and --attestations each print a document of their own; give one, and nothing else")
    opened = Bundle.open(bundle)
    if sbom:
        print_json(_bill(opened))
        return
    if attestations:
        print_json(_statements(opened))
        return
    try:
        from converters.graphs.summary import summaries_from_bundle
    except ImportError:
        # As on a vehicle: the summaries need onnx and onnx_ir.
        note(f"without graph summaries: {MissingDependency('onnx', 'export')}")
        graphs = None
    else:
        graphs = summaries_from_bundle(opened)
    if as_json:
        shown = None if graphs is None else {name: asdict(graph) for name, graph in graphs.items()}
        print_json({"manifest": msgspec.to_builtins(opened.manifest), "graphs": shown})
        return
    manifest = opened.manifest
    print_table(("bundle", str(bundle)), bundle_rows(opened))
    print_table(TRUNK_COLUMNS, trunk_rows(opened))
    if graphs:
        rows = [(name, graph.inputs, graph.outputs, graph.operators) for name, graph in graphs.items()]
        print_table(("graph", "inputs", "outputs", "operators"), rows)
    if manifest.engines:
        engines = [
            (e.engine, e.backend, e.precision.value, e.schedule.levels, e.schedule.lowering.value, e.schedule.sub_batch)
            for e in manifest.engines
        ]
        print_table(("engine", "backend", "precision", "levels", "lowering", "sub-batch"), engines)
    if manifest.tunings:
        print_table(("tuned on", "backend", "precision", "fastest", "ms a frame"), tuning_summaries(opened))
    if measured := bench_summaries(opened):
        print_table(("measured on", "backend", "precision", "schedule", "ms a frame", "memory"), measured)
    print_table(("file", "bytes", "SHA-256"), [(name, f.size, f.sha256[:16]) for name, f in manifest.files.items()])
    if with_classes:
        print_table(("label", "class", "colour (RGB)"), [(i, c.name, c.color) for i, c in enumerate(manifest.classes)])
    print_table(("written by", "version"), list(manifest.tools.items()))


def _bill(bundle: Bundle) -> dict[str, Any]:
    from smp_deploy.materials.bundles import bom_of_bundle
    from smp_deploy.materials.cyclonedx import builtins_from_bom

    return builtins_from_bom(bom_of_bundle(bundle.manifest, _manifest_file(bundle), _builds(bundle)))


def _statements(bundle: Bundle) -> list[dict[str, Any]]:
    """Of the export, of every engine, and of the last validation where there is one."""
    from engines.bundle.records.statements import statement_of_build, statement_of_export, statement_of_validation
    from smp_deploy.reports.documents import stored

    manifest, builds = bundle.manifest, _builds(bundle)
    made = [statement_of_export(manifest, _manifest_file(bundle).sha256)]
    made += [statement_of_build(builds[engine.record], engine, manifest.weights) for engine in manifest.engines]
    try:
        validation = stored(bundle)
    except BundleError:
        raise
    except InputError:
        note(f"without a statement of a validation: {bundle.path} has none")
    else:
        made.append(statement_of_validation(validation, validation.files))
    return [builtins_from_record(statement) for statement in made]


def _builds(bundle: Bundle) -> dict[str, BuildRecord]:
    """The build record of every engine, by the name of its file."""
    names = [engine.record for engine in bundle.manifest.engines]
    return {name: record_from_json(bundle.file(name).read_bytes(), BuildRecord, bundle.path / name) for name in names}


def _manifest_file(bundle: Bundle) -> FileRecord:
    """Size and SHA-256 of the manifest that was opened."""
    path = bundle.path / MANIFEST_NAME
    document = read_file(path, _LARGEST_MANIFEST)
    if manifest_from_json(document) != bundle.manifest:
        raise BundleError(f"{path} was replaced while it was open; do it again")
    return record_of(document)
