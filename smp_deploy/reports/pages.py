"""A report: the record of a validation as one HTML page that needs nothing else, or as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgspec
import numpy as np

from engines.bundle.bundle import Bundle
from engines.bundle.documents import json_of
from engines.bundle.limits import PROOF_BYTES, RECORD_BYTES
from engines.bundle.records import VALIDATION, Check, Kind, LabelFigures, Proven, Quantity, Validation
from engines.errors import BundleError, MissingDependency
from engines.schedules.schedule import Precision
from engines.text import shown, shown_lines
from smp_deploy.reports.benches import BENCHES, rows_of
from smp_deploy.reports.documents import stored_overlays
from smp_deploy.reports.pictures import chain_figure, hop_words, layers_figure, overlay_png, phases_figure, png_uri
from smp_deploy.reports.verdicts import Judgement

_MOST_CHANGES = 12
_MOST_RECORDS = 64


def page_of(bundle: Bundle, record: Validation, judgement: Judgement) -> str:
    """The page, as HTML. Raises :class:`MissingDependency`."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency("jinja2", "report") from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters["hop"] = hop_words
    template = environment.from_string((files("smp_deploy.reports") / "page.html.j2").read_text(encoding="utf-8"))
    hops, others = worst_hops(record)
    return template.render(
        record=record,
        name=bundle.path.resolve().name,
        failures=[check for check in record.checks if check.failed],
        groups=_groups(record.checks),
        hops=hops,
        chain=chain_figure(hops) if hops else "",
        others=others,
        other_chain=chain_figure(others) if others else "",
        precisions=[_precision(record, precision, found) for precision, found in record.agreements.items()],
        overlays=_overlays(bundle, record),
        largest=max(record.layers, key=lambda layer: layer.magnitude, default=None),
        tolerances={
            precision.value: msgspec.structs.asdict(tolerance) for precision, tolerance in record.tolerances.items()
        },
        benches=list(rows_of(bundle)),
        records=_other_records(bundle),
        verdict=judgement.verdict.value,
        headline=judgement.headline,
    )


def _shown(value: object) -> object:
    """Text of others for the page; figures, which are Markup, are made here."""
    return shown_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def text_of(record: Validation, judgement: Judgement) -> str:
    """The report for a terminal: one screen."""
    count = len(record.frames)
    lines = [
        f"{judgement.verdict.value.upper()}: {judgement.headline}",
        f"{record.bundle}: {record.network.source}, {record.frame[0]}x{record.frame[1]}, "
        f"{count} frame{'' if count == 1 else 's'}, {record.created}, {record.seconds:.0f} s",
    ]
    for check in record.checks:
        if check.failed:
            where = check.location or "a place that was not found"
            figure = check.detail if check.value is None else f"{check.value:.3g}, tolerance {check.tolerance:g}"
            lines.append(f"  failed: {check.name}, {check.subject}: {figure}; begins in {where}")
    lines += _hop_lines(*worst_hops(record))
    for precision, found in record.agreements.items():
        if found.pixels:
            agreeing = 1 - found.differing / found.pixels
            ties = f"{found.ties} of the {found.differing} that differ are ties" if found.differing else "none differs"
            lines.append(f"labels in {precision.value}: {agreeing:.4%} as in fp32; {ties}")
    lines += [f"not proven: {missing}" for missing in record.not_proven]
    return "\n".join(map(shown, lines))


def _hop_lines(hops: list[Check], others: list[Check]) -> Iterator[str]:
    if hops or others:
        yield "error of each hop, the worst of all frames:"
    width = max((len(hop_words(hop)) for hop in hops), default=0)
    for hop in hops:
        yield f"  {hop_words(hop):<{width}}  {hop.value:.3g} of {hop.tolerance:g}"
    if others:
        worst = max(others, key=lambda hop: (hop.value or 0.0) / (hop.tolerance or 1))
        yield (
            f"  and {len(others)} hops of other schedules, of which {hop_words(worst)} is nearest to its tolerance: "
            f"{worst.value:.3g} of {worst.tolerance:g}"
        )


def bench_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was benchmarked, a line each; no lines where nothing was."""
    lines = []
    for row in rows:
        memory = "" if row["measured_mib"] is None else f", peak {row['measured_mib']:.0f} MiB"
        stale = "" if row["standing"] == "current" else ", stale: the bundle changed since"
        lines.append(f"bench, {row['precision']}, {row['schedule']}: {row['median_ms']:.4g} ms a frame{memory}{stale}")
    return "\n".join(map(shown, lines))


def worst_hops(record: Validation) -> tuple[list[Check], list[Check]]:
    """Each hop that measures logits once, at its worst over the frames: those of the chain, those of other schedules.

    The whole graph comes first.
    """
    worst: dict[tuple[str, str], Check] = {}
    for check in record.checks:
        if check.kind is not Kind.HOP or check.quantity is not Quantity.LOGIT_ERROR:
            continue
        if check.hop is None or check.value is None:
            continue
        held = worst.get(check.hop)
        if held is None or held.value is None or check.value > held.value:
            worst[check.hop] = check
    chain = [hop for hop in worst.values() if hop.graph in record.chain]
    others = [hop for hop in worst.values() if hop.graph not in record.chain]
    return sorted(chain, key=lambda hop: hop.graph != record.chain[0]), others


def _groups(checks: Sequence[Check]) -> list[tuple[str, list[Check]]]:
    kinds = dict.fromkeys(check.kind for check in checks)
    return [(kind.value, [check for check in checks if check.kind is kind]) for kind in kinds]


def _precision(record: Validation, precision: Precision, found: LabelFigures) -> dict[str, Any]:
    """What the page shows of one precision."""
    pixels, differing, near = found.pixels, found.differing, found.near
    layers = [layer for layer in record.layers if precision in layer.error]
    tolerance = record.tolerances[precision]
    several = found.by_phase is not None and len(found.by_phase) * len(found.by_phase[0]) > 1
    return {
        "name": precision.value,
        "agreement": 1 - differing / pixels if pixels else None,
        "pixels": pixels,
        "differing": differing,
        "ties": found.ties,
        "near": found.near_differing / near if near else None,
        "elsewhere": (differing - found.near_differing) / (pixels - near) if pixels > near else None,
        "classes": [row for row in found.classes if row.pixels],
        "changes": found.changes[:_MOST_CHANGES],
        "phases": phases_figure(found.error_by_phase or [], found.by_phase or []) if several else "",
        "by_phase": found.by_phase,
        "layers": layers_figure(layers, precision, tolerance.logits) if layers else "",
        "worst_layers": [
            (layer.name, layer.error[precision])
            for layer in sorted(layers, key=lambda layer: -layer.error[precision])[:5]
        ],
    }


def _overlays(bundle: Bundle, record: Validation) -> list[dict[str, Any]]:
    shown = []
    # No overlays where their arrays are not kept.
    for overlay, arrays in zip(record.overlays, stored_overlays(bundle, len(record.overlays)), strict=False):
        image, expected, actual, ties = arrays
        differing = int((actual != expected).sum())
        shown.append(
            {
                "name": overlay.name,
                "precision": overlay.precision.value,
                "differing": differing,
                "ties": int(((actual != expected) & ties).sum()),
                "share": differing / actual.size,
                "frame": png_uri(image),
                "labels": png_uri(_colored(bundle, expected)),
                "difference": overlay_png(image, expected, actual, ties),
            }
        )
    return shown


def _colored(bundle: Bundle, labels: Any) -> Any:
    classes = bundle.manifest.classes
    # All of uint8 has a colour; a bundle of logits may have more classes than that.
    table = np.zeros((max(256, len(classes)), 3), np.uint8)
    table[: len(classes)] = [record.color for record in classes]
    return table[labels]


def _other_records(bundle: Bundle) -> list[dict[str, Any]]:
    """Backends' own proofs and what else lies there: every other JSON object in ``reports/``, its plain figures."""
    own = (VALIDATION, BENCHES, "inputs.json", "outputs.json")
    others = [name for name in bundle.reports() if name.endswith(".json") and name not in own]
    found = []
    for name in others[:_MOST_RECORDS]:
        if rows := list(_plain_rows(_read(bundle, name))):
            found.append({"name": name.removesuffix(".json"), "rows": rows})
    return found


def _read(bundle: Bundle, name: str) -> Any:
    try:
        return json_of(bundle.report(name, RECORD_BYTES if Proven.of_file(name) is None else PROOF_BYTES) or b"")
    except (BundleError, ValueError):
        return {"cannot be read": name}


def _plain_rows(record: Any, prefix: str = "", depth: int = 2) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if isinstance(record, dict) and depth:
        for key, value in record.items():
            if key not in ("files", "tools", "tolerances", "checks"):
                rows += _plain_rows(value, f"{prefix}{key} ", depth - 1)
    elif isinstance(record, (str, int, float, bool)):
        rows.append((prefix.strip(), str(record)))
    return rows
