"""Reads back what `Summary.write` wrote; numbers that were not finite are NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from meristem.errors import ConfigError
from meristem.study.claim import Claim, Finding, Outcome, Results, Test
from meristem.study.course import Course
from meristem.study.environment import Sitting
from meristem.study.execute import Failure
from meristem.study.structure import AxisCourse, Structure
from meristem.study.study import Measure
from meristem.study.summary import ArmSummary, Summary

_COURSE = ("flops", "seconds", "mean", "low", "high")
_NUMBERS = ("estimate", "low", "high", "effect", "p", "p_holm")


def read_summary(path: Path) -> Summary:
    """The record in a `results.json`.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text())
        return Summary(
            **{
                **{field.name: content[field.name] for field in fields(Summary) if field.name in content},
                "measures": tuple(Measure(**m) for m in content["measures"]),
                "course": Measure(**content["course"]),
                "sittings": tuple(Sitting(**sitting) for sitting in content.get("sittings", ())),
                "main": tuple(content.get("main", ())),
                "arms": tuple(_arm(arm) for arm in content["arms"]),
                "findings": tuple(_finding(finding) for finding in content["findings"]),
                "failures": tuple(Failure(**f) for f in content["failures"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no results of a study ({error}); 'meristem study NAME' writes them") from error


def _arm(content: Mapping[str, Any]) -> ArmSummary:
    axes = {name: AxisCourse(**_tuples(axis)) for name, axis in content["structure"]["axes"].items()}
    return ArmSummary(
        **{
            **content,
            "seeds": tuple(content["seeds"]),
            "values": {name: _numbers(values) for name, values in content["values"].items()},
            "courses": {
                name: Course(tuple(course["step"]), *(_numbers(course[key]) for key in _COURSE))
                for name, course in content["courses"].items()
            },
            "structure": Structure(content["structure"]["seed"], axes),
            "records": tuple(content["records"]),
        }
    )


def _finding(content: Mapping[str, Any]) -> Finding:
    outcomes = tuple(Outcome(**{**test, **{key: _number(test[key]) for key in _NUMBERS}}) for test in content["tests"])
    return Finding(Claim(content["sentence"], [_Told(outcome) for outcome in outcomes], content["source"]), outcomes)


@dataclass(frozen=True, slots=True)
class _Told(Test):
    """A test of which only the outcome is known."""

    found: Outcome

    def outcome(self, results: Results) -> Outcome:
        return self.found


def _tuples(content: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(values) for key, values in content.items()}


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
