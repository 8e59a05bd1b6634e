"""Random networks from a grammar of layers: exported and equal to PyTorch in every trunk, or refused; none wrong.

    python benchmarks/random_networks.py --count 500 --seed 0 --json build/random-networks.json

Every trunk in fp32, and ``model.onnx``, run in ONNX Runtime on a small frame; PyTorch computes the network as it is.
Ends with exit code 1 where a trunk gives anything else, or where an export ends in any other way than with a bundle or
a refusal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from converters.analysis.received import logits_of
from converters.exporting import export
from converters.graphs.stages import Normalization, Normalize
from engines import Schedule, Session
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import NetworkError
from tests.grammar import GrammarNetwork

SIZE = (12, 24)
"""What the windows of three levels divide, or is padded."""
TOLERANCE = 1e-4
"""Relative to the largest logit. Layers such as a square root enlarge the rounding of those before them."""


def judged(seed: int) -> dict[str, Any]:
    """What became of the network of a seed: ``equal``, ``refused``, or ``wrong`` with what was wrong."""
    network = GrammarNetwork(seed)
    row: dict[str, Any] = {"seed": seed, "layers": network.used, "strays": network.strays}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            row |= _compared(network, Path(directory) / "bundle", seed)
        except NetworkError as error:
            row |= {"outcome": "refused", "why": str(error), "named": _names_a_layer(str(error), network)}
        except Exception as error:  # noqa: BLE001 - any other one is what is looked for
            row |= {"outcome": "wrong", "why": f"{type(error).__name__}: {error}"[:500]}
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def _compared(network: nn.Module, path: Path, seed: int) -> dict[str, Any]:
    bundle = export(network, path, size=SIZE, outputs="logits", precisions="fp32", classes=None)
    frame = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    padded, errors = bundle.manifest.input.padded_size, {}
    planes = torch.zeros(1, 3, *padded)
    planes[..., : SIZE[0], : SIZE[1]] = Normalize(Normalization())(torch.from_numpy(frame))
    expected = logits_of(network, planes)[0, :, : SIZE[0], : SIZE[1]].numpy()
    with OnnxRuntimeRunner(bundle.path / bundle.manifest.model) as runner:
        errors["model.onnx"] = _error(expected, next(iter(runner.infer({"frames": frame[None]}).values()))[0])
    for trunk in bundle.manifest.trunks:
        for sub_batch in {1, bundle.manifest.grid(trunk).largest_sub_batch}:
            schedule = Schedule(trunk.levels, sub_batch, trunk.lowering)
            with Session.open(bundle, schedule=schedule) as session:
                errors[str(schedule)] = _error(expected, session.predict(frame))
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    outcome = {"outcome": "wrong", "why": str(wrong)} if wrong else {"outcome": "equal"}
    levels = max(trunk.levels for trunk in bundle.manifest.trunks)
    return {**outcome, "trunks": len(bundle.manifest.trunks), "levels": levels, "largest_error": max(errors.values())}


def _error(expected: np.ndarray, actual: np.ndarray) -> float:
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def _names_a_layer(message: str, network: nn.Module) -> bool:
    words = set(message.replace("(", " ").replace(")", " ").replace(":", " ").replace(",", " ").split())
    return bool(
        words & ({path for path, _ in network.named_modules() if path} | set(dir(torch)) | set(dir(torch.Tensor)))
    )


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--json", type=Path, help="where the rows go")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        rows.append(judged(seed))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    counts = Counter(row["outcome"] for row in rows)
    trunks = sum(row.get("trunks", 0) for row in rows)
    unnamed = sum(not row.get("named", True) for row in rows)
    print(f"{len(rows)} networks: {dict(counts)}; {trunks} trunks; {unnamed} refusals without a layer's name")
    if counts["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
