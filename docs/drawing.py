"""Turns figures into SVG; needs Debian's chromium."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

PAGE = """<!doctype html><meta charset="utf-8"><script>{plotly}</script><pre id="svg"></pre><script>
const {{data, layout}} = {figure};
Plotly.toImage({{data, layout}}, {{format: "svg", width: {width}, height: {height}}})
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


def draw(figure: go.Figure, target: Path, width: int = 860, height: int = 400) -> None:
    """Writes a figure as SVG, in the style of the documentation. Ends the program if there is no browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("figures need Debian's chromium: apt-get install chromium")
    figure.update_layout(paper_bgcolor="white", font={"family": "sans-serif", "size": 14})
    figure.update_xaxes(gridcolor="#e2e5e0", linecolor="#e2e5e0")
    figure.update_yaxes(gridcolor="#e2e5e0", linecolor="#e2e5e0")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        content = PAGE.format(plotly=get_plotlyjs(), figure=figure.to_json(), width=width, height=height)
        page.write_text(content, encoding="utf-8")
        command = [chromium, *BROWSER, f"--user-data-dir={folder}/browser", page.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="svg">data:image/svg\+xml,(.*?)</pre>', dom, re.DOTALL)
    if found is None:
        sys.exit("the browser did not draw the figure")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_with_fixed_names(unquote(html.unescape(found[1]))) + "\n", encoding="utf-8")
    sys.stdout.write(f"{target}\n")


def _with_fixed_names(svg: str) -> str:
    """The same figure, its parts named alike whenever it is drawn: plotly names them at random."""
    drawn = re.search(r'id="defs-([0-9a-f]{6})"', svg)
    svg = svg if drawn is None else svg.replace(drawn[1], "figure")
    names = dict.fromkeys(re.findall(r"\btrace[0-9a-f]{6}\b", svg))
    for number, name in enumerate(names):
        svg = svg.replace(name, f"trace-{number}")
    return svg
