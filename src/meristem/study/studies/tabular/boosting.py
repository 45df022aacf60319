"""Boosted trees of scikit-learn on the same rows: a reference from outside, which is the usual choice for tables."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any, Literal

import torch
from pydantic import Field

from meristem.errors import ConfigError
from meristem.study.studies.tabular.newborns import parity
from meristem.study.studies.tabular.rows import Kind, made_up, split
from meristem.train.data import Table
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.record import Run, RunFolder


class Boosting(Experiment):
    """Histogram-based gradient boosting with scikit-learn's settings, and its early stopping on a tenth of the rows.

    There are no parameters and no floating-point operations that could be compared with those of nets: both are NaN.

    Attributes:
        data, kind: as in `Fit`.
        trees: at most.
        learning_rate: of the boosting.
    """

    data: Literal["adult", "california_housing"] | None = None
    kind: Kind = "classes"
    trees: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=0.1, gt=0)

    def run(self, data: Table | None, place: RunFolder, progress: Progress) -> Run:
        """Fits on one thread. Raises `ConfigError` without scikit-learn."""
        rows = split(made_up(self.kind) if data is None else data, self.seed)
        model, limits = self._model(rows.classes)
        log = Log(place)
        with limits, log.timing():
            model.fit(rows.train.inputs.numpy(), rows.train.targets.numpy())

        def score(part: Any) -> float:
            return rows.score(torch.from_numpy(model.predict(part.inputs.numpy())), part)

        with limits:
            test, held_out = score(rows.test), score(rows.held_out)
        progress(1, 1)
        metrics = {
            "final score": test,
            "best score": test,
            "mean score": nan,
            "held-out score": held_out,
            "width": nan,
            **parity(()),
        }
        run = log.finish(self.seed, metrics)
        return replace(run, costs=replace(run.costs, flops=nan, edit_flops=nan))

    def _model(self, classes: int) -> tuple[Any, Any]:
        try:
            from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
            from threadpoolctl import threadpool_limits
        except ImportError as error:
            raise ConfigError(
                "boosted trees need scikit-learn, which is not installed: pip install 'meristem[demo]'"
            ) from error
        kind: Any = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        model = kind(max_iter=self.trees, learning_rate=self.learning_rate, early_stopping=True, random_state=self.seed)
        return model, threadpool_limits(1)
