"""The report of a study: right numbers, self-contained, and drawn without an error by a real browser."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from meristem.report.figures import against_compute, against_seconds, log_axis, widths_over_time
from meristem.report.findings import correction, deciding, findings_table, rows, tally
from meristem.report.study import write_report
from meristem.report.table import COSTS, cost_cells, cost_columns, seconds_note, summary_table
from meristem.study.claim import Claim, Finding, Outcome
from meristem.study.comparisons import Greater
from meristem.study.environment import Sitting
from tests.report.browser import load
from tests.report.runs import SUMMARY

ARMS = {arm.name: arm for arm in SUMMARY.arms}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, SUMMARY)
    return path


def printed(table, width=250) -> str:
    console = Console(width=width, record=True)
    console.print(table)
    return console.export_text()


def test_the_table_holds_means_and_intervals():
    text = printed(summary_table(SUMMARY))
    # final accuracies of the small net .80, .8104, .82: mean 81.0 %, s = 1 %, half width 4.3027 / sqrt(3) = 2.5 %
    assert "81.0 ± 2.5" in text
    assert "71.0 ± 2.5" in text
    assert "120 G" in text


def test_columns_that_do_not_fit_stand_below_and_nothing_is_cut_off():
    wide, narrow = (printed(summary_table(SUMMARY, width), width) for width in (250, 50))
    numbers = re.findall(r"[\d.]+ ± [\d.]+|\d+ G", wide)
    assert sorted(re.findall(r"[\d.]+ ± [\d.]+|\d+ G", narrow)) == sorted(numbers)
    assert narrow.count("Growing and pruning") == narrow.count("confidence interval") == 1
    assert all(len(line) <= 50 for line in narrow.splitlines())
    assert len(re.findall("seeds|training", narrow)) == len(re.findall("seeds|training", wide))


def test_costs_that_are_not_known_stay_empty():
    known = replace(ARMS["large"], values={**ARMS["large"].values, "peak_bytes": (2e9, 2e9, 2e9)})
    some = replace(SUMMARY, arms=(*SUMMARY.arms[:-1], known))
    name, parameters, flops, edits, seconds, _, memory = cost_cells(ARMS["small"], some)
    assert (name, parameters, flops, edits, seconds, memory) == ("small", "400", "120 G", "0", "3.0", "")
    assert cost_cells(known, some)[-1] == "2 G"


def test_what_no_arm_knows_has_no_column(page):
    assert "peak memory (bytes)" in (head for _, head, _ in COSTS)
    assert "peak memory (bytes)" not in cost_columns(SUMMARY)
    assert len(cost_cells(ARMS["small"], SUMMARY)) == len(cost_columns(SUMMARY))
    assert "memory" not in page.read_text().split("<h2>Costs</h2>")[1].split("</section>")[0]


def test_findings_say_estimate_expectation_and_what_it_would_take():
    equal, grown, pruned = (rows(SUMMARY, finding)[0] for finding in SUMMARY.findings)
    # differences: 0, 0.28, 0 points; mean 0.0933, half width 4.3027 * 0.16166 / sqrt(3) = 0.402
    assert equal.estimate == "0.09 [-0.31, 0.49] points"
    assert equal.expected == "0 within 5 points"
    assert equal.verdict == "reproduced"
    assert grown.estimate == "0.000 [0.000, 0.000] points"
    assert grown.expected == "above 0 (1 would matter) points"
    assert grown.verdict == "not reproduced"
    assert pruned.verdict == "undecided"
    assert pruned.note == "would take about 26 seeds"
    assert tally(SUMMARY) == "1 reproduced, 1 not reproduced, 1 undecided"
    assert correction(SUMMARY).startswith("3 tests, 1 of them with p < 0.05")
    assert "undecided" in printed(findings_table(SUMMARY))


def drawn(figure) -> list[dict]:
    return figure.to_dict()["data"]


def by_name(figure) -> dict[str, dict]:
    """Lines by name, markers by symbol."""
    return {trace.get("name") or trace["marker"]["symbol"]: trace for trace in drawn(figure)}


def test_compute_figure_shows_every_arm_with_its_band():
    traces = drawn(against_compute(SUMMARY.arms, SUMMARY.course))
    lines = [trace for trace in traces if "name" in trace]
    bands = [trace for trace in traces if trace.get("fill") == "toself"]
    assert [line["name"] for line in lines] == list(ARMS)
    assert list(lines[0]["x"]) == pytest.approx([40, 80, 120])
    assert list(lines[0]["y"]) == pytest.approx([61, 71, 81], abs=0.02)
    assert len(bands) == 4
    timed = [trace for trace in drawn(against_seconds(SUMMARY.arms, SUMMARY.course)) if "name" in trace]
    assert [list(line["x"]) for line in timed] == [list(arm.courses["accuracy"].seconds) for arm in SUMMARY.arms]
    assert [list(line["y"]) for line in timed] == [list(line["y"]) for line in lines]


def test_main_arms_come_first_and_the_others_are_hidden():
    names = list(ARMS)
    lines = [t for t in drawn(against_compute(SUMMARY.arms, SUMMARY.course, [names[2], "elsewhere"])) if "name" in t]
    assert [line["name"] for line in lines] == [names[2], *(name for name in names if name != names[2])]
    assert [line["visible"] for line in lines] == [True, *["legendonly"] * (len(names) - 1)]
    found = against_compute(SUMMARY.arms, SUMMARY.course, ["elsewhere"])
    assert all(line["visible"] is True for line in drawn(found))


def test_numbers_at_axes_are_written_alike_and_compute_is_counted_in_a_fitting_unit():
    figure = against_compute(SUMMARY.arms, SUMMARY.course)
    assert figure.layout.xaxis.title.text == "training compute (GFLOP)"
    tiny = [replace(arm, courses={"accuracy": replace(c, flops=[f / 1e5 for f in c.flops])})
            for arm in SUMMARY.arms for c in [arm.courses["accuracy"]]]  # fmt: skip
    small = against_compute(tiny, SUMMARY.course)
    assert small.layout.xaxis.title.text == "training compute (MFLOP)"
    assert list(drawn(small)[1]["x"]) == pytest.approx([0.4, 0.8, 1.2])
    for made in (figure, small, widths_over_time(ARMS["grown"].structure)):
        assert made.layout.xaxis.tickformat == made.layout.yaxis.tickformat == ",~r"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([3.0, 40.0], [2, 5, 10, 20, 50]), ([0.004, 0.0, 70.0], [0.001, 0.01, 0.1, 1, 10, 100]), ([], [0.5, 1, 2, 5])],
)
def test_logarithmic_axes_have_round_ticks_around_what_they_show(values, ticks):
    found = log_axis(values)["tickvals"]
    start = min(range(len(found)), key=lambda index: abs(found[index] - ticks[0]))
    assert found[start : start + len(ticks)] == pytest.approx(ticks)


SO = Claim("it is so", [Greater("score", "a", "b")])


def outcome(p: float, verdict: str, what: str) -> Outcome:
    return Outcome(what, "above", "t-test", 0.1, 0.0, 0.2, 1.0, "d_z", p, verdict, 3)


@pytest.mark.parametrize(
    ("verdicts", "decisive"),
    [
        (("reproduced", "reproduced", "reproduced"), "b"),
        (("reproduced", "undecided", "undecided"), "b"),
        (("undecided", "reproduced", "not reproduced"), "c"),
        (("reproduced", "smaller than matters", "reproduced"), "b"),
    ],
)
def test_the_number_beside_a_verdict_is_that_of_the_test_which_decides_it(verdicts, decisive):
    tests = [outcome(p, verdict, what) for p, verdict, what in zip((0.01, 0.04, 0.001), verdicts, "abc", strict=True)]
    assert deciding(SUMMARY, Finding(SO, tuple(tests))).what == decisive


def test_a_difference_that_is_smaller_than_matters_has_words_and_a_badge_of_its_own(tmp_path):
    found = replace(outcome(0.001, "smaller than matters", "score"), margin=1.0)
    summary = replace(SUMMARY, findings=(Finding(SO, (found,)), *SUMMARY.findings))
    assert tally(summary) == "1 reproduced, 1 smaller than matters, 1 not reproduced, 1 undecided"
    assert "smaller than matters" in printed(findings_table(summary))
    write_report(tmp_path / "report.html", summary)
    text = (tmp_path / "report.html").read_text()
    assert '<span class="verdict smaller-than-matters">' in text
    assert ".verdict.smaller-than-matters {" in text
    assert "difference as large as the one that would matter is excluded" in text


@pytest.mark.parametrize(
    ("jobs", "words"), [((), "was not recorded"), ((1,), "one run at a time"), ((2, 8, 1), "up to 8 runs at a time")]
)
def test_seconds_are_worth_what_was_recorded_of_them(jobs, words):
    sittings = tuple(Sitting(60.0, each, 3, "a machine") for each in jobs)
    assert words in seconds_note(replace(SUMMARY, sittings=sittings))


def test_every_table_with_seconds_says_what_they_are_worth(page):
    assert " ".join(page.read_text().split()).count(seconds_note(SUMMARY)) >= 2
    assert seconds_note(SUMMARY) in " ".join(printed(summary_table(SUMMARY)).split())


def test_large_estimates_have_prefixes():
    found = outcome(0.01, "reproduced", "flops")
    row = rows(SUMMARY, Finding(SO, (replace(found, estimate=8.5e10, low=4e9, high=1.2e11),)))[0]
    assert row.estimate == "85 G [4 G, 120 G]"


def test_two_seeds_have_no_band():
    few = [replace(arm, seeds=arm.seeds[:2]) for arm in SUMMARY.arms]
    traces = drawn(against_compute(few, SUMMARY.course))
    assert [trace["name"] for trace in traces] == list(ARMS)


def test_width_figure_shows_births_and_deaths_where_they_happened():
    grown = by_name(widths_over_time(ARMS["grown"].structure))
    assert list(grown["trunk"]["x"]) == [0, 5, 15, 30]
    assert list(grown["trunk"]["y"]) == [4, 6, 7, 7]
    assert list(grown["<b>block</b>"]["y"]) == [4, 4, 8, 8]
    assert list(grown["triangle-up"]["text"]) == ["4 born"]
    pruned = by_name(widths_over_time(ARMS["pruned"].structure))
    assert list(pruned["<b>block</b>"]["y"]) == [32, 29, 29]
    assert list(pruned["triangle-down"]["x"]) == [25]


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_prints(page):
    text = page.read_text()
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["'](?!data:)""", text)
    assert not re.search("<b>(block|no|as good)", text)
    assert "&lt;b&gt;as good" in text


@pytest.mark.heavy
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)], ids=["desktop", "narrow and dark"])
def test_a_browser_draws_every_figure_without_an_error(page, tmp_path, width, dark):
    loaded = load(page, tmp_path / "profile", width, dark)
    assert loaded.console == []
    plots = loaded.dom.split('class="plot')[1:]
    drawn = [plot for plot in plots if "main-svg" in plot and 'class="trace scatter' in plot]
    assert len(drawn) == 3  # accuracy, widths of the first arm that has edits, its newborns
    assert loaded.dom.count('class="js-line"') >= 4 + 2 + 3
    assert loaded.dom.count('<button aria-pressed="true"') == 4 + 2 + 3
    assert loaded.dom.count('class="point') > 12
    ink = "rgb(232, 236, 233)" if dark else "rgb(29, 35, 33)"
    assert f"fill: {ink}" in loaded.dom


@pytest.mark.heavy
def test_a_reader_chooses_an_arm_hides_a_line_and_downloads_a_figure(page, tmp_path):
    acts = tmp_path / "acts.html"
    script = """<script>addEventListener("load", () => setTimeout(async () => {
      const choice = document.querySelectorAll("select")[1];
      choice.selectedIndex = 1;
      choice.dispatchEvent(new Event("change"));
      document.querySelector(".legend button").click();
      Plotly.downloadImage = (figure, options) => { document.body.dataset.saved = options.filename; };
      document.querySelector("a[data-format=svg]").click();
    }, 2000))</script>"""
    before, end, after = page.read_text().rpartition("</body>")
    acts.write_text(before + script + end + after)
    loaded = load(acts, tmp_path / "profile")
    assert loaded.console == []
    assert loaded.dom.count('<button aria-pressed="false"') == 1
    assert 'data-saved="Test accuracy over training against training compute"' in loaded.dom
    widths = loaded.dom.split('id="plot-2"')[1].split('id="plot-3"')[0]
    assert widths.count('class="point"') == 1  # the pruned arm: one death


@pytest.mark.heavy
def test_the_browser_test_would_notice_an_error(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("Plotly.newPlot(place", "Plotly.newPlots(place", 1))
    loaded = load(broken, tmp_path / "profile")
    assert any("newPlots is not a function" in line for line in loaded.console)
