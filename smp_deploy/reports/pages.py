"""A report: the record of a validation as one HTML page that needs nothing else, or as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from engines.bundle.bundle import Bundle
from engines.errors import MissingDependency
from smp_deploy.reports.benches import BENCHES, rows_of
from smp_deploy.reports.documents import VALIDATION, stored_overlays
from smp_deploy.reports.pictures import chain_figure, layers_figure, overlay_png, phases_figure, png_uri

_MOST_CHANGES = 12


def page_of(bundle: Bundle, document: Mapping[str, Any]) -> str:
    """The page, as HTML. Raises :class:`MissingDependency`."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependency("jinja2", "report") from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files("smp_deploy.reports") / "page.html.j2").read_text(encoding="utf-8"))
    hops = worst_hops(document)
    # Trunks of other schedules have names of their own: trunk-l3-reshape.onnx.
    others = [hop for hop in hops if "trunk-" in hop["name"]]
    hops = [hop for hop in hops if hop not in others]
    return template.render(
        document=document,
        name=bundle.path.resolve().name,
        failures=[check for check in document["checks"] if check["status"] == "failed"],
        groups=_groups(document["checks"]),
        hops=hops,
        chain=chain_figure(hops) if hops else "",
        others=others,
        other_chain=chain_figure(others) if others else "",
        precisions=[_precision(document, name, found) for name, found in document.get("agreements", {}).items()],
        overlays=_overlays(bundle, document),
        largest=_largest(document),
        benches=list(rows_of(bundle)),
        records=_other_records(bundle),
        headline=headline(document),
    )


def headline(document: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    counts, missing = document["counts"], len(document["not_proven"])
    if document["verdict"] == "failed":
        return f"{counts['failed']} of {len(document['checks'])} checks failed"
    if document["verdict"] == "not run":
        return "no check could run"
    proven = f"all {counts['passed']} checks that ran passed"
    return proven + (f"; {missing} could not run" if missing else "")


def text_of(document: Mapping[str, Any]) -> str:
    """The report for a terminal: one screen."""
    lines = [
        f"{document['verdict'].upper()}: {headline(document)}",
        f"{document['bundle']}: {document['network']['source']}, {document['frame'][0]}x{document['frame'][1]}, "
        f"{_count_of_frames(document)}, {document['created']}, {document['seconds']:.0f} s",
    ]
    for check in document["checks"]:
        if check["status"] == "failed":
            where = check["location"] or "a place that was not found"
            lines.append(f"  failed: {check['name']}, {check['subject']}: {_figure(check)}; begins in {where}")
    hops = worst_hops(document)
    if hops:
        lines.append("error of each hop, the worst of all frames:")
        width = max(len(hop["name"]) for hop in hops if "trunk-" not in hop["name"])
        shown = [hop for hop in hops if "trunk-" not in hop["name"]]
        lines += [f"  {hop['name']:<{width}}  {_short(hop['measured'])} of {hop['tolerance']:g}" for hop in shown]
        others = [hop for hop in hops if hop not in shown]
        if others:
            worst = max(others, key=lambda hop: float(hop["measured"]) / (hop["tolerance"] or 1))
            lines.append(
                f"  and {len(others)} hops of other schedules, of which {worst['name']} is nearest to its tolerance: "
                f"{_short(worst['measured'])} of {worst['tolerance']:g}"
            )
    for precision, found in document.get("agreements", {}).items():
        if found["pixels"]:
            agreeing = 1 - found["differing"] / found["pixels"]
            ties = (
                f"{found['ties']} of the {found['differing']} that differ are ties"
                if found["differing"]
                else "none differs"
            )
            lines.append(f"labels in {precision}: {agreeing:.4%} as in fp32; {ties}")
    lines += [f"not proven: {missing}" for missing in document["not_proven"]]
    return "\n".join(lines)


def bench_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was benchmarked, a line each; no lines where nothing was."""
    lines = []
    for row in rows:
        memory = "" if row["measured_mib"] is None else f", peak {row['measured_mib']:.0f} MiB"
        lines.append(f"bench, {row['precision']}, {row['schedule']}: {row['median_ms']:.4g} ms a frame{memory}")
    return "\n".join(lines)


def worst_hops(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each hop of the chain once, at its worst over the frames: those that measure logits."""
    worst: dict[str, dict[str, Any]] = {}
    for check in document["checks"]:
        if check["kind"] != "hop" or check["measured"] is None or "relative error" not in check["detail"]:
            continue
        held = worst.get(check["name"])
        if held is None or float(check["measured"]) > float(held["measured"]):
            worst[check["name"]] = dict(check)
    return sorted(worst.values(), key=lambda hop: "model.onnx" not in hop["name"])


def _groups(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    kinds = dict.fromkeys(check["kind"] for check in checks)
    return [(kind, [check for check in checks if check["kind"] == kind]) for kind in kinds]


def _precision(document: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one precision."""
    pixels, differing, near = found["pixels"], found["differing"], found["near"]
    layers = document.get("layers", [])
    has_layers = any(name in layer["error"] for layer in layers)
    tolerance = document["tolerances"][name]
    return {
        "name": name,
        "tolerance": tolerance,
        "agreement": 1 - differing / pixels if pixels else None,
        "pixels": pixels,
        "differing": differing,
        "ties": found["ties"],
        "near": found["near_differing"] / near if near else None,
        "elsewhere": (differing - found["near_differing"]) / (pixels - near) if pixels > near else None,
        "classes": [row for row in found["classes"] if row["pixels"]],
        "changes": found["changes"][:_MOST_CHANGES],
        "phases": phases_figure(found["error_by_phase"], found["by_phase"])
        if found["by_phase"] and len(found["by_phase"]) * len(found["by_phase"][0]) > 1
        else "",
        "by_phase": found["by_phase"],
        "layers": layers_figure(layers, name, tolerance["logits"]) if has_layers else "",
        "worst_layers": sorted(
            (layer for layer in layers if name in layer["error"]),
            key=lambda layer: -float(layer["error"][name]),
        )[:5],
    }


def _largest(document: Mapping[str, Any]) -> dict[str, Any] | None:
    layers = document.get("layers") or []
    return dict(max(layers, key=lambda layer: float(layer["magnitude"]))) if layers else None


def _overlays(bundle: Bundle, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    overlays = document.get("overlays", [])
    shown = []
    # No overlays where their arrays are not kept.
    for overlay, arrays in zip(overlays, stored_overlays(bundle, len(overlays)), strict=False):
        image, expected, actual, ties = arrays
        differing = int((actual != expected).sum())
        shown.append(
            {
                **overlay,
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
    found = []
    for path in sorted((bundle.path / "reports").glob("*.json")):
        if path.name in (VALIDATION, BENCHES, "inputs.json", "outputs.json"):
            continue
        record = _read(path)
        rows = list(_plain_rows(record))
        if rows:
            found.append({"name": path.stem, "rows": rows})
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {"cannot be read": str(path)}


def _plain_rows(record: Any, prefix: str = "", depth: int = 2) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if isinstance(record, dict) and depth:
        for key, value in record.items():
            if key not in ("files", "tools", "tolerances", "checks"):
                rows += _plain_rows(value, f"{prefix}{key} ", depth - 1)
    elif isinstance(record, (str, int, float, bool)):
        rows.append((prefix.strip(), str(record)))
    return rows


def _count_of_frames(document: Mapping[str, Any]) -> str:
    count = len(document["frames"])
    return f"{count} frame{'' if count == 1 else 's'}"


def _figure(check: Mapping[str, Any]) -> str:
    return f"{_short(check['measured'])}, tolerance {check['tolerance']:g}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
