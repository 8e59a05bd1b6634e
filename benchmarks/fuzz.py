"""Files of a bundle are spoilt behind valid hashes, over and over: no traceback, and no wrong result that is accepted.

    python benchmarks/fuzz.py BUNDLE --count 10000 [--seed 0] [--json fuzz.json]

A value, some bytes, a header, a node: one place of one file of a copy of BUNDLE is changed (``hostile/damage.py``), and
every hash is renewed as who made the bundle could. Another process then opens the copy, labels a frame by a
schedule drawn at random, and runs one command on it. Its end is one of these:

- refused: one of smp-deploy's errors, exit codes 1 to 3;
- accepted: the labels are those of the bundle as it was;
- found: the labels are others, and `validate --backend` of the same schedule fails;
- broken: another exception, exit code 70, no end, or a proof that passes although more than 0.1% of the labels are
  others.

A bundle with engines and records has more that can be spoilt: `build-engine`, `validate`, `bench` and `tune` it first.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hostile.children import BROKEN, Worker
from hostile.damage import DAMAGES, renew_hashes
from hostile.labelling import Use, labels_of, uses_of
from hostile.running import Spoil, main, run_cases
from PIL import Image

from engines import Bundle, prove
from engines.errors import SmpDeployError
from engines.parity.checks import Status
from smp_deploy.cli.app import invoke
from smp_deploy.cli.errors import DEFECT, exit_code_of

DIFFERENT = 1e-3
"""The share of pixels with other labels that a proof must see; its own tolerance is a tenth."""


def became(path: Path, frame: np.ndarray, use: Use, right: np.ndarray, words: list[str]) -> str:
    """Label the frame, run the command; what became of both."""
    schedule, precision = use
    try:
        labels = labels_of(path, frame, use)
    except SmpDeployError as error:
        ended = f"refused: {type(error).__name__}"
    else:
        wrong = float(np.mean(labels != right)) if labels.shape == right.shape else 1.0
        ended = "accepted"
        if wrong:
            try:
                proof = prove(path, "onnxruntime", precision, schedule=schedule, keep=False)
                ended = "found" if proof.verdict is Status.FAILED else "accepted within the tolerance"
            except SmpDeployError:
                ended = "found"
            if ended != "found" and wrong > DIFFERENT:
                return f"{BROKEN}: {wrong:.2%} of the labels are others, and the proof passes"
    code = exit_code_of(lambda: invoke(words) or 0)
    if code == DEFECT:
        # The exception itself, for the list of what broke.
        invoke(words)
    return ended


def commands_on(bundle: str, original: str, output: str) -> list[list[str]]:
    """What reads bundles, and may be run on one of others."""
    return [
        ["inspect", bundle],
        ["inspect", bundle, "--json", "--classes"],
        ["inspect", bundle, "--sbom"],
        ["inspect", bundle, "--attestations"],
        ["inspect", bundle, "--compare", original],
        ["inspect", original, "--compare", bundle],
        ["plan", bundle],
        ["plan", bundle, "--memory", "1GiB", "--json"],
        ["report", bundle, "-o", f"{output}/page.html"],
        ["report", bundle, "--json"],
        ["bench", bundle, "--iterations", "1", "--duration", "0", "--warm-up", "0"],
        ["run", bundle, f"{output}/frame.png", "-o", f"{output}/out"],
    ]


def fuzz(bundle: Path, count: int, seed: int) -> dict[str, Any]:
    """Spoil the bundle so many times; how it ended, by kind of damage, and every one that broke."""
    opened = Bundle.open(bundle)
    frame = opened.reference_arrays(opened.manifest.reference[0])[0]
    rights = [(use, labels_of(opened, frame, use)) for use in uses_of(opened)]

    def case(damage: Spoil, draw: random.Random, worker: Worker) -> tuple[str, str]:
        use, right = draw.choice(rights)
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / "bundle"
            shutil.copytree(bundle, copy)
            Image.fromarray(frame).save(Path(place) / "frame.png")
            said = damage(copy, draw)
            renew_hashes(copy)
            words = draw.choice(commands_on(str(copy), str(bundle), place))
            ended = worker.answer_of(became, copy, frame, use, right, words)
        return f"{said}; {' '.join(words[:1] + words[2:])}", ended

    return run_cases(DAMAGES, case, count, seed)


if __name__ == "__main__":
    main(__doc__, fuzz, count=10_000)
