"""``smp-deploy inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from engines.bundle.bundle import Bundle
from engines.bundle.comparing import EngineComparison, build_record_of, compared_engines
from engines.bundle.provenance import other_files
from engines.bundle.records import Validation, builtins_from_record
from engines.bundle.standing import Standing, compared, of_digests
from engines.errors import BundleError, InputError, MissingDependency
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.keys import with_pass_phrase
from smp_deploy.cli.options import BundleArgument, JsonOption
from smp_deploy.cli.summaries import (
    TRUNK_COLUMNS,
    bench_summaries,
    bundle_rows,
    trunk_rows,
    tuning_summaries,
    validation_summary,
)

if TYPE_CHECKING:
    from engines.bundle.records.statements import Statement


def inspect_command(
    bundle: BundleArgument,
    with_classes: Annotated[bool, typer.Option("--classes", help="Also list the classes and their colours.")] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="OTHER",
            help="Show instead in what BUNDLE's engines differ from those of another bundle, or from a build record.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="NAME", help="With --compare: which of BUNDLE's engines, by its file's name."),
    ] = None,
    as_json: JsonOption = False,
    sbom: Annotated[
        bool, typer.Option("--sbom", help="Print the bill of materials of the bundle, CycloneDX 1.6.")
    ] = False,
    attestations: Annotated[
        bool,
        typer.Option(
            "--attestations",
            help="Print in-toto statements: where bundle and engines come from, what was proven and measured.",
        ),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PEM", help="With --attestations: the private key that signs each of them."),
    ] = None,
) -> None:
    """Show what BUNDLE holds, after verifying every file: network, sizes, phases, graphs, engines, files."""
    if compare is not None and with_classes:
        raise InputError("--compare shows the differences of engines and no classes; leave --classes out")
    if engine is not None and compare is None:
        raise InputError("--engine names what --compare compares; give both")
    if sbom + attestations + (as_json or with_classes or compare is not None) > 1:
        raise InputError("--sbom and --attestations each print a document of their own; give one, and nothing else")
    if key is not None and not attestations:
        raise InputError("--key signs what --attestations prints; give both")
    opened = Bundle.open(bundle)
    if compare is not None:
        _show_comparisons(compared_engines(opened, compare, engine), as_json=as_json)
        return
    if sbom:
        print_json(_bill(opened))
        return
    if attestations:
        statements = _statements(opened)
        if key is not None and len(statements) > 1:
            note(
                f"{len(statements) - 1} of the {len(statements)} statements say what records in the bundle say: "
                "whoever could write to it could write them, and from now on the key vouches for them"
            )
        print_json([builtins_from_record(held) for held in statements] if key is None else _signed(statements, key))
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
        print_json(
            {
                "manifest": msgspec.to_builtins(opened.manifest),
                "target": msgspec.to_builtins(opened.target),
                "validation": validation_summary(opened),
                "unlisted": opened.unlisted,
                "graphs": shown,
            }
        )
        return
    manifest = opened.manifest
    print_table(("bundle", str(bundle)), [*bundle_rows(opened), ("validation", validation_summary(opened))])
    print_table(TRUNK_COLUMNS, trunk_rows(opened))
    if graphs:
        rows = [(name, graph.inputs, graph.outputs, graph.operators) for name, graph in graphs.items()]
        print_table(("graph", "inputs", "outputs", "operators"), rows)
    if opened.engines:
        engines = [
            (e.engine, e.backend, e.precision.value, e.schedule.levels, e.schedule.lowering.value, e.schedule.sub_batch)
            for e in opened.engines
        ]
        print_table(("engine", "backend", "precision", "levels", "lowering", "sub-batch"), engines)
    if opened.tunings:
        print_table(("tuned on", "backend", "precision", "fastest", "ms a frame"), tuning_summaries(opened))
    if measured := bench_summaries(opened):
        print_table(("measured on", "backend", "precision", "schedule", "ms a frame", "memory", "record"), measured)
    if unlisted := opened.unlisted:
        note(f"in the directory, but in no manifest, so never read: {', '.join(unlisted)}")
    print_table(("file", "bytes", "SHA-256"), [(name, f.size, f.sha256[:16]) for name, f in opened.files.items()])
    if with_classes:
        print_table(("label", "class", "colour (RGB)"), [(i, c.name, c.color) for i, c in enumerate(manifest.classes)])
    print_table(("written by", "version"), list(manifest.tools.items()))


_ROWS = 100
"""Differences that a table shows; a network has some hundred layers and tactics."""


def _show_comparisons(comparisons: list[EngineComparison], *, as_json: bool) -> None:
    if as_json:
        print_json({"comparisons": [_comparison_document(comparison) for comparison in comparisons]})
        return
    for comparison in comparisons:
        differences = comparison.builds.differences
        rows = [(found.what, _side(found.here), _side(found.there)) for found in differences[:_ROWS]]
        if not differences:
            rows = [("nothing that was compared", "", "")]
        if len(differences) > _ROWS:
            rows.append((f"and {len(differences) - _ROWS} more: --json has all", "", ""))
        print_table(("differs", comparison.engine, comparison.other), rows)
        if comparison.builds.not_compared:
            print_table(("not compared",), [(reason,) for reason in comparison.builds.not_compared])


def _comparison_document(comparison: EngineComparison) -> dict[str, Any]:
    return {
        "engine": comparison.engine,
        "other": comparison.other,
        "differences": [asdict(found) for found in comparison.builds.differences],
        "not_compared": list(comparison.builds.not_compared),
    }


def _side(text: str | None) -> str:
    return "none" if text is None else text


def _bill(bundle: Bundle) -> dict[str, Any]:
    from smp_deploy.materials.bundles import bom_of_bundle
    from smp_deploy.materials.cyclonedx import builtins_from_bom

    builds = {engine.record: build_record_of(bundle, engine) for engine in bundle.engines}
    return builtins_from_bom(bom_of_bundle(bundle.manifest, bundle.target, bundle.check_unchanged(), builds))


def _signed(statements: list[Statement], key: Path) -> list[Any]:
    """Each in an envelope of its own."""
    from engines.bundle.records.statements import payload_of
    from engines.trust.authorities import require_cryptography

    require_cryptography()
    from engines.trust.signing import SigningKey

    signing = with_pass_phrase(key, lambda pass_phrase: SigningKey.open(key, pass_phrase))
    return [json.loads(signing.sealed(payload_of(statement))) for statement in statements]


def _statements(bundle: Bundle) -> list[Statement]:
    """Of the export, of every engine, of the last validation, of backends' proofs and of benchmarks.

    Of records that are of other bytes there is none: nothing is said of files that are not in the bundle.
    """
    from engines.bundle.records.statements import (
        statement_of_bench,
        statement_of_build,
        statement_of_export,
        statement_of_validation,
    )
    from smp_deploy.reports.benches import kept
    from smp_deploy.reports.documents import stored, stored_proofs

    manifest = bundle.manifest
    made = [statement_of_export(manifest, bundle.target.manifest_sha256)]
    for engine in bundle.engines:
        record = build_record_of(bundle, engine)
        if wrong := other_files(bundle, engine, record):
            note(f"without a statement of {engine.engine}: its build record is of other {' and '.join(wrong)}")
        else:
            made.append(statement_of_build(record, engine, manifest.weights))
    validations: dict[str, Validation] = {}
    try:
        validations["the validation"] = stored(bundle)
    except BundleError:
        raise
    except InputError:
        note(f"without a statement of a validation: {bundle.path} has none")
    validations |= {f"the proof on {proven}": proof for proven, proof in stored_proofs(bundle).items()}
    for what, validation in validations.items():
        comparison = compared(validation, bundle)
        if comparison.standing is Standing.CURRENT:
            made.append(statement_of_validation(validation, validation.files))
        else:
            note(f"without a statement of {what}: {comparison.words}")
    for run in kept(bundle):
        if of_digests(run.files, bundle) is Standing.CURRENT:
            made.append(statement_of_bench(run, run.files))
        else:
            note(f"without a statement of the benchmark on {run.machine.device}: the bundle changed since")
    return made
