"""The report of a study: right numbers, self-contained, and drawn without an error by a real browser."""

import re

import pytest
from rich.console import Console

from meristem.report.figures import accuracy_against_compute, widths_over_time
from meristem.report.study import write_report
from meristem.report.table import summary_table
from meristem.study import summarize
from tests.report.browser import load
from tests.report.runs import PROTOCOL, RESULTS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, PROTOCOL, RESULTS)
    return path


def test_the_table_holds_means_and_intervals():
    console = Console(width=200, record=True)
    console.print(summary_table("title", [summarize(name, runs) for name, runs in RESULTS.items()]))
    text = console.export_text()
    # final accuracies .80, .81, .82: mean 81 %, s = 1 %, half width 4.3027 / sqrt(3) = 2.5 %
    assert "81.0 ± 2.5" in text
    assert "71.0 ± 2.5" in text
    assert "3.2 k" in text
    assert "3 seeds" in text


def drawn(figure) -> list[dict]:
    return figure.to_dict()["data"]


def by_name(figure) -> dict[str, dict]:
    """Lines by name, markers by symbol."""
    return {trace.get("name") or trace["marker"]["symbol"]: trace for trace in drawn(figure)}


def test_compute_figure_shows_every_arm_with_its_band():
    traces = drawn(accuracy_against_compute(RESULTS))
    lines = [trace for trace in traces if "name" in trace]
    bands = [trace for trace in traces if trace.get("fill") == "toself"]
    assert [line["name"] for line in lines] == list(RESULTS)
    assert list(lines[0]["x"]) == pytest.approx([40, 80, 120])
    assert list(lines[0]["y"]) == pytest.approx([61, 71, 81])
    assert len(bands) == 4
    assert len(drawn(accuracy_against_compute({"small": RESULTS["small"][:1]}))) == 1


def test_width_figure_shows_births_and_deaths_where_they_happened():
    grown = by_name(widths_over_time(RESULTS["grown"]))
    assert list(grown["trunk"]["x"]) == [0, 5, 15, 30]
    assert list(grown["trunk"]["y"]) == [4, 6, 7, 7]
    assert list(grown["<b>block</b>"]["y"]) == [4, 4, 8, 8]
    assert list(grown["triangle-up"]["text"]) == ["4 born"]
    pruned = by_name(widths_over_time(RESULTS["pruned"]))
    assert list(pruned["<b>block</b>"]["y"]) == [32, 29, 29]
    assert list(pruned["triangle-down"]["x"]) == [25]


def test_the_page_needs_nothing_from_elsewhere(page):
    text = page.read_text()
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["'](?!data:)""", text)
    assert "<b>block" not in text


@pytest.mark.heavy
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)], ids=["desktop", "narrow and dark"])
def test_a_browser_draws_every_figure_without_an_error(page, tmp_path, width, dark):
    loaded = load(page, tmp_path / "profile", width, dark)
    assert loaded.console == []
    plots = loaded.dom.split('class="plot')[1:]
    drawn = [plot for plot in plots if "main-svg" in plot and 'class="trace scatter' in plot]
    assert len(drawn) == 3
    assert loaded.dom.count('class="js-line"') >= 4 + 2 + 2
    assert loaded.dom.count('class="point"') > 12
    ink = "rgb(232, 236, 233)" if dark else "rgb(29, 35, 33)"
    assert f"fill: {ink}" in loaded.dom


@pytest.mark.heavy
def test_the_browser_test_would_notice_an_error(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("Plotly.newPlot(place", "Plotly.newPlots(place"))
    loaded = load(broken, tmp_path / "profile")
    assert any("newPlots is not a function" in line for line in loaded.console)
