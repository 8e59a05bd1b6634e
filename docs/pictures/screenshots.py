"""Screenshots of a report in headless Chromium: light and dark, wide and narrow.

python docs/pictures/screenshots.py BUNDLE/reports/report.html docs/pictures
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VIEWS = {
    "report-light": (1100, 1500, "light"),
    "report-dark": (1100, 1500, "dark"),
    "report-narrow": (500, 1500, "light"),
    "report-narrow-dark": (500, 1500, "dark"),
}
"""Name: width and height in pixels, and the colours that the reader prefers."""


def chromium() -> str | None:
    """The browser, where there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def screenshot(page: Path, target: Path, width: int, height: int, scheme: str) -> None:
    """Render ``page`` into a PNG. Raises :class:`RuntimeError` when the browser gives none."""
    browser = chromium()
    if browser is None:
        raise RuntimeError("chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--hide-scrollbars", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        # Blink counts dark as 0 and light as 1.
        command += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
        done = subprocess.run(
            [*command, f"--screenshot={target}", page.resolve().as_uri()], capture_output=True, text=True, timeout=180
        )
    if not target.exists():
        raise RuntimeError(f"{browser} gave no picture: {done.stderr[-500:]}")


if __name__ == "__main__":
    source, directory = Path(sys.argv[1]), Path(sys.argv[2])
    for name, (width, height, scheme) in VIEWS.items():
        screenshot(source, directory / f"{name}.png", width, height, scheme)
        print(directory / f"{name}.png")
