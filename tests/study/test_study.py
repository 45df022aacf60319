"""Plans, summaries and the files they become."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from meristem.errors import ConfigError
from meristem.report.study import write_report
from meristem.study import Arm, Scale, Study, judge
from meristem.study.catalogue import find, names
from meristem.study.environment import Sitting
from meristem.study.execute import Outcome
from meristem.study.stored import read_summary
from meristem.study.structure import MOST, structure
from meristem.study.summary import summarize
from meristem.train.record import Change, Costs, Evaluation, Run
from tests.report.runs import PLAN, RESULTS, SUMMARY
from tests.study.toys import Coin, plan

COMMITTED = Path(__file__).parents[2] / "benchmarks/results/studies"


def study(**changes) -> Study:
    made = Study(
        name="toy",
        title="t",
        question="q",
        scales={"smoke": Scale(2), "cpu": Scale(3)},
        arms=lambda scale: [Arm("a b", "", Coin()), Arm("20 %", "", Coin(), seeds=1)],
    )
    return replace(made, **changes)


def test_a_plan_goes_seed_by_seed_and_gives_every_run_its_name_and_folder(tmp_path):
    tasks = study().plan("cpu").tasks(tmp_path)
    assert [(task.arm, task.config.seed) for task in tasks] == [("a b", 0), ("20 %", 0), ("a b", 1), ("a b", 2)]
    assert [task.folder.relative_to(tmp_path).as_posix() for task in tasks[:2]] == ["a-b/seed-0", "20/seed-0"]
    assert tasks[0].config.name == "a-b"
    assert len(study().plan("cpu", seeds=4).tasks(tmp_path)) == 8


def test_plans_that_cannot_be():
    with pytest.raises(ConfigError, match="expected one of smoke, cpu"):
        study().plan("huge")
    with pytest.raises(ConfigError, match="share the folder a-b"):
        study(arms=lambda scale: [Arm("a b", "", Coin()), Arm("a/b", "", Coin())]).plan("smoke")
    with pytest.raises(ConfigError, match="lower-case word"):
        study(name="No Word")


def test_summaries_come_back_from_their_file(tmp_path):
    SUMMARY.write(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["findings"][0]["tests"][0]["expected"] == "within"
    found = read_summary(tmp_path / "results.json")
    assert [finding.outcomes for finding in found.findings] == [finding.outcomes for finding in SUMMARY.findings]
    assert [finding.verdict for finding in found.findings] == [finding.verdict for finding in SUMMARY.findings]
    assert judge([finding.claim for finding in found.findings], {}) == list(found.findings)
    for before, after in zip(SUMMARY.arms, found.arms, strict=True):
        assert (after.name, after.seeds, after.courses) == (before.name, before.seeds, before.courses)
        assert after.structure == before.structure
        assert math.isnan(after.values["peak_bytes"][0])
        assert after.interval("final accuracy") == before.interval("final accuracy")
    assert found.measures == SUMMARY.measures
    with pytest.raises(ConfigError, match="holds no results"):
        read_summary(tmp_path / "none.json")


def test_results_tell_how_long_the_study_took_on_what_and_how_many_runs_went_at_a_time(tmp_path):
    sittings = (Sitting(3000.0, 2, 10, "here"), Sitting(840.0, 4, 2, "there"))
    summary = summarize(PLAN, Outcome(RESULTS, sittings=sittings))
    summary.write(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["sittings"][1]["jobs"] == 4
    found = read_summary(tmp_path / "results.json")
    assert (found.sittings, found.machine) == (sittings, "here; there")
    assert found.effort == "12 runs in 64 minutes by the clock, 2 or 4 at a time"
    assert SUMMARY.effort == ""
    write_report(tmp_path / "report.html", found)
    assert found.effort in (tmp_path / "report.html").read_text()


def test_courses_are_means_over_seeds_where_all_were_measured():
    runs = [
        Run(seed, {}, tuple(Evaluation(s, {"a": s + seed} if s != 2 else {}, s, 10.0 * s, 0.0, {}) for s in steps), (),
            Costs(0, 0, 0, 0, None))
        for seed, steps in ((0, (1, 2, 3)), (1, (1, 2, 3, 4)))
    ]  # fmt: skip
    coins = plan(2, coin=Coin())
    arm = summarize(coins, Outcome({"coin": runs})).arms[0]
    assert arm.courses["a"].step == (1, 3)
    assert arm.courses["a"].mean == (1.5, 3.5)
    assert arm.courses["a"].flops == (10, 30)
    assert arm.courses["parameters"].mean == (1, 2, 3)


def test_claims_are_judged_once_every_arm_has_runs():
    assert len(SUMMARY.findings) == 3
    partial = summarize(PLAN, Outcome({**RESULTS, "large": []}))
    assert not partial.findings
    assert [arm.name for arm in partial.arms] == ["small", "grown", "pruned"]
    assert partial.missing == 3


def test_many_edits_are_taken_together():
    changes = tuple(Change(step, {"x": 2}, {"x": 1}) for step in range(1, 5 * MOST + 1))
    last = Evaluation(9999, {}, 0, 0.0, 0.0, {"x": 10 + 5 * MOST})
    axis = structure(Run(0, {}, (last,), changes, Costs(0, 0, 0, 0, None))).axes["x"]
    assert len(axis.steps) == MOST + 2
    assert (axis.sizes[0], axis.sizes[-1]) == (10, 10 + 5 * MOST)
    assert (sum(axis.births), sum(axis.deaths)) == (10 * MOST, 5 * MOST)
    assert list(axis.steps) == sorted(axis.steps)


def test_every_study_has_its_scales_and_names_arms_that_its_claims_know():
    for name in names():
        found = find(name)
        assert found.name == name
        assert {"smoke", "cpu", "full"} <= set(found.scales)
        for scale in found.scales:
            made = found.plan(scale)
            assert made.arms
            assert all(count >= 1 for count in made.seeds.values())


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.json")), ids=lambda path: path.stem)
def test_committed_verdicts_follow_from_committed_tests(path):
    stored = json.loads(path.read_text())["findings"]
    found = read_summary(path).findings
    assert [finding["verdict"] for finding in stored] == [finding.verdict for finding in found]
    for o in (o for finding in found for o in finding.outcomes if o.expected in ("above", "below") and o.margin):
        near, far = (o.low, o.high) if o.expected == "above" else (-o.high, -o.low)
        level = o.level if o.expected == "above" else -o.level
        assert (o.verdict == "smaller than matters") == (near > level and far < level + o.margin)


def test_an_unknown_study_names_those_there_are():
    with pytest.raises(ConfigError, match="expected one of"):
        find("nothing")
