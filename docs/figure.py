"""Draws the figure of the README from the demo's results: `make figure`. Needs chromium, which turns it into SVG."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from plotly.offline import get_plotlyjs

from meristem.report.figures import accuracy_against_compute
from meristem.study.demo import demo_protocol
from meristem.train.record import load_run

RUNS, TARGET = Path("runs/demo"), Path("docs/_static/demo.svg")

PAGE = """<!doctype html><meta charset="utf-8"><script>{plotly}</script><pre id="svg"></pre><script>
const {{data, layout}} = {figure};
Plotly.toImage({{data, layout}}, {{format: "svg", width: 860, height: 400}})
  .then((url) => {{ document.getElementById("svg").textContent = url; }});
</script>"""

BROWSER = [
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
]


def main() -> None:
    """Reads the finished runs and writes the figure."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("make figure needs Debian's chromium: apt-get install chromium")
    tasks = demo_protocol().tasks(RUNS)
    runs = {task.arm: [load_run(t.folder / "result.json") for t in tasks if t.arm == task.arm] for task in tasks}
    figure = accuracy_against_compute(runs)
    figure.update_layout(paper_bgcolor="white", font={"family": "sans-serif", "size": 14})
    figure.update_xaxes(gridcolor="#e2e5e0", linecolor="#e2e5e0")
    figure.update_yaxes(gridcolor="#e2e5e0", linecolor="#e2e5e0")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        page.write_text(PAGE.format(plotly=get_plotlyjs(), figure=figure.to_json()), encoding="utf-8")
        command = [chromium, *BROWSER, f"--user-data-dir={folder}/browser", page.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="svg">data:image/svg\+xml,(.*?)</pre>', dom, re.DOTALL)
    if found is None:
        sys.exit("the browser did not draw the figure")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(unquote(html.unescape(found[1])) + "\n", encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")


if __name__ == "__main__":
    main()
