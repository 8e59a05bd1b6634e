"""Judge a bundle by labelled frames: generated road scenes here, ``evaluate(bundle, "cityscapes", root=...)`` likewise.

``python 06_evaluate.py road.bundle --limit 1``; the bundle must have the classes of the dataset.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import smp_deploy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--limit", type=int, default=1, help="only the first so many frames")
    options = parser.parse_args()

    bundle = smp_deploy.Bundle.open(options.bundle)
    # By its name, "scenes", the frames are 192x256; frames are never resized to fit a bundle.
    scenes = smp_deploy.Scenes("val", size=bundle.manifest.input.size)
    found = smp_deploy.evaluate(bundle, scenes, limit=options.limit)

    confusion = found.confusion
    print(f"{found.frames} frame(s), {confusion.counts.sum()} pixels, {found.seconds:.3f} s")
    print(f"pixel accuracy {confusion.pixel_accuracy:.4%}, mean IoU {confusion.mean_iou:.4f}")
    for name, iou in zip(found.info.classes, confusion.class_ious, strict=True):
        print(f"  {name:10} {iou:.4f}")


if __name__ == "__main__":
    main()
