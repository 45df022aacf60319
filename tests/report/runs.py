"""Made-up runs with known numbers."""

from meristem.study.demo import demo_protocol
from meristem.train.record import Change, Evaluation, Run


def made_up(arm: str, seed: int, width: int, changes: tuple[Change, ...] = ()) -> Run:
    sizes, evaluations = {"trunk": width, "<b>block</b>": width}, []
    for step in (10, 20, 30):
        for change in changes:
            if step - 10 < change.step <= step:
                for axis in sizes:
                    sizes[axis] += change.births.get(axis, 0) - change.deaths.get(axis, 0)
        accuracy = 0.5 + 0.01 * step + 0.01 * seed
        evaluations.append(
            Evaluation(step, 1 / step, accuracy, 100 * width, 1e9 * step * width, 0.1 * step, dict(sizes))
        )
    return Run(arm, seed, tuple(evaluations), changes)


PROTOCOL = demo_protocol(seeds=3)

GROWTH = (Change(5, {"trunk": 2}, {}), Change(15, {"trunk": 1, "<b>block</b>": 4}, {}))
DEATHS = (Change(25, {}, {"<b>block</b>": 3}),)

RESULTS = {
    "small": [made_up("small", seed, 4) for seed in range(3)],
    "grown": [made_up("grown", seed, 4, GROWTH) for seed in range(3)],
    "pruned": [made_up("pruned", seed, 32, DEATHS) for seed in range(3)],
    "large": [made_up("large", seed, 32) for seed in range(3)],
}
