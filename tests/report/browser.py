"""Loads a page in a real browser, without a window, and tells what it shows and what its console says."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=20000",
    "--dump-dom",
    "--enable-logging=stderr",
    "--v=0",
]


@dataclass(frozen=True)
class Loaded:
    """The document after its scripts have run, and the lines of the console."""

    dom: str
    console: list[str]


def load(page: Path, profile: Path, width: int = 1200, dark: bool = False) -> Loaded:
    """Loads a file; `profile` is a fresh folder for the browser's own data."""
    assert CHROMIUM is not None, "these tests need a browser: apt-get install chromium"
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},900"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return Loaded(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])
