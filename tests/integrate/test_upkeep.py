"""What is done after every step: gates that open, and running statistics that are measured since birth."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from meristem.edit import Edit, Gather, Newborns, Slice
from meristem.errors import ConfigError, EditError
from meristem.grow import Net2Wider
from meristem.integrate import Helpers, OpenGate, RunningStatistics, StepCounts
from tests.edit.models import subject

from .runs import Run, mlp

STILL = lambda p: optim.SGD(p, lr=0.0)  # noqa: E731


@dataclass(frozen=True)
class RandomFanOut(Newborns):
    """Newborns with random weights everywhere."""

    def values(self, s: Slice) -> Tensor:
        return torch.randn(s.shape, dtype=s.old.dtype, generator=s.generator)


class TestOpenGate:
    """Fan-out times g(s), without a step of the optimizer in between."""

    def shares(self, run: Run, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            run.give(torch.zeros_like)
            found.append((run.model[2].weight[:, 5:] / self.full).mean().item())
        return found

    def grown(self, gate: OpenGate) -> Run:
        run = Run(STILL, gate)
        run.edit(lambda edit: edit.grow("0", 2, RandomFanOut()))
        self.full = run.model[2].weight[:, 5:].detach() / gate.share
        return run

    def test_it_opens_in_a_straight_line_and_ends_as_plain_weights(self):
        run = self.grown(OpenGate(share=0.2, steps=4))
        assert self.shares(run, 6) == pytest.approx([0.4, 0.6, 0.8, 1, 1, 1])
        assert run.hooks == 0

    def test_the_function_jumps_by_the_share_only(self):
        x = torch.randn(7, 6, dtype=torch.float64)
        run, whole = Run(STILL, OpenGate(share=0.2, steps=4)), Run(STILL, None)
        before = run.model(x)
        for one in (run, whole):
            one.edit(lambda edit: edit.grow("2", 2, RandomFanOut()))
        jump, full = run.model(x) - before, whole.model(x) - before
        assert torch.allclose(jump, 0.2 * full)
        assert bool(full.abs().max() > 0.1)
        for _ in range(4):
            run.give(torch.zeros_like)
        assert torch.allclose(run.model(x), whole.model(x))

    def test_incumbents_stay_bit_for_bit(self):
        run, plain = Run(STILL, OpenGate(steps=5)), Run(STILL, None)
        for one in (run, plain):
            one.grow(2, start=RandomFanOut())
        for _ in range(3):
            run.give(torch.zeros_like)
        assert torch.equal(run.model[2].weight[:, :5], plain.model[2].weight[:, :5])
        assert torch.equal(run.model[0].weight, plain.model[0].weight)

    def test_cohorts_and_further_edits(self):
        run = self.grown(OpenGate(share=0.5, steps=4))
        assert self.shares(run, 2) == pytest.approx([0.625, 0.75])
        run.edit(lambda edit: edit.prune("0", [0]).grow("0", 1, RandomFanOut()))
        late = run.model[2].weight[:, 6].detach().clone() / 0.5
        run.give(torch.zeros_like)
        run.give(torch.zeros_like)
        assert torch.allclose(run.model[2].weight[:, 4:6], self.full)
        assert torch.allclose(run.model[2].weight[:, 6], 0.75 * late)

    def test_copies_are_left_alone(self):
        run = Run(STILL, OpenGate())
        x = torch.randn(7, 6, dtype=torch.float64)
        before = run.model(x)
        run.edit(lambda edit: edit.gather("0", Gather.duplicate(5, [1, 2]), Net2Wider()))
        assert torch.allclose(run.model(x), before)
        assert run.hooks == 0

    def test_it_resumes(self):
        gate = OpenGate(share=0.1, steps=6)
        run = self.grown(gate)
        self.shares(run, 2)
        other = run.resumed(STILL, gate)
        assert torch.equal(other.model[2].weight, run.model[2].weight)
        assert self.shares(other, 5) == pytest.approx([0.55, 0.7, 0.85, 1, 1])

    @pytest.mark.parametrize("name", ["0", "4"])
    def test_through_convolutions_and_flattened_channels(self, name):
        found = subject("conv_flatten_linear")
        optimizer = STILL(found.model.parameters())
        helpers = Helpers(OpenGate(share=0.25, steps=1))
        axis = found.axes[name]
        helpers.begin(found.axes, [optimizer], {}, 0)
        axes = Edit(found.axes, optimizer).grow(axis, 2, RandomFanOut()).commit().axes
        full = {name: p.detach().clone() for name, p in found.model.named_parameters()}
        births = {axis.name: torch.tensor([torch.iinfo(torch.int64).max] * axis.size + [0, 0])}
        helpers.follow(axes, [optimizer], births, 0)
        changed = [name for name, p in found.model.named_parameters() if not torch.equal(p, full[name])]
        assert changed == [p.layout.name for p in axes.places[axis.index] if "reads" in {r.value for r in p.roles}]
        for p in found.model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert all(torch.allclose(p, full[name], rtol=1e-12) for name, p in found.model.named_parameters())

    def test_where_there_is_no_fan_out_it_is_refused(self):
        found = subject("grouped_query")
        with pytest.raises(EditError, match=r"OpenGate cannot help newborns of .* contracted over it"):
            Helpers(OpenGate()).require(found.axes, found.axes.editable, [])
        with pytest.raises(ConfigError, match="share between 0 and 1"):
            OpenGate(share=0)


class Inputs:
    """What a layer was given in training, by a hook of the test."""

    def __init__(self, layer: nn.Module) -> None:
        self.seen: list[Tensor] = []
        layer.register_forward_pre_hook(lambda module, given: self.seen.append(given[0].detach()))


def normalized(momentum: float | None) -> Any:
    """A model with batch normalization behind its first layer."""
    model = mlp(norm=True)
    model[1].momentum = momentum
    return model


class TestRunningStatistics:
    """Against a new layer of the same settings that is fed what the newborns were."""

    def train(self, run: Run, batches: int) -> None:
        for _ in range(batches):
            run.model(torch.randn(9, 6, dtype=torch.float64)).square().mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.steps += 1

    def expected(self, inputs: list[Tensor], momentum: float | None, units: slice) -> tuple[Tensor, Tensor]:
        """What a new layer gathered, rid of the 0 and 1 that it began with."""
        fresh = nn.BatchNorm1d(inputs[0][:, units].shape[1], momentum=momentum).double()
        for x in inputs:
            fresh(x[:, units])
        assert fresh.running_mean is not None
        assert fresh.running_var is not None
        left = 0.0 if momentum is None else (1 - momentum) ** len(inputs)
        return fresh.running_mean / (1 - left), (fresh.running_var - left) / (1 - left)

    @pytest.mark.parametrize("accumulated", [1, 3])
    @pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0, None])
    def test_they_are_those_of_the_batches_since_birth(self, momentum, accumulated):
        model = normalized(momentum)
        run = Run(lambda p: optim.SGD(p, lr=0.1), RunningStatistics(tolerance=1e-12), model=model)
        plain = Run(lambda p: optim.SGD(p, lr=0.1), None, model=normalized(momentum))
        for one in (run, plain):
            torch.manual_seed(1)
            for _ in range(4):
                self.train(one, 2)
            one.grow(2)
        inputs = Inputs(model[1])
        torch.manual_seed(2)
        for _ in range(8):
            self.train(run, accumulated)
            mean, variance = self.expected(inputs.seen, momentum, slice(5, 7))
            assert torch.allclose(model[1].running_mean[5:], mean, rtol=1e-9)
            assert torch.allclose(model[1].running_var[5:], variance, rtol=1e-9)
        torch.manual_seed(2)
        for _ in range(8):
            self.train(plain, accumulated)
        assert torch.equal(model[1].running_mean[:5], plain.model[1].running_mean[:5])
        assert torch.equal(model[1].running_var[:5], plain.model[1].running_var[:5])

    @pytest.mark.parametrize("momentum", [0.1, None])
    def test_at_birth_they_are_those_of_the_batch_of_that_step(self, momentum):
        model = nn.Sequential(*normalized(momentum), nn.Dropout())
        run = Run(lambda p: optim.SGD(p, lr=0.1), RunningStatistics(), model=model)
        for _ in range(3):
            self.train(run, 2)
        x = torch.randn(9, 6, dtype=torch.float64) * 5 + 3
        model(x).square().mean().backward()
        run.optimizer.step()
        copied = deepcopy(model)
        before, state = copied.state_dict(), torch.get_rng_state()
        run.grow(2)
        z = model[0](x)[:, 5:]
        assert torch.allclose(model[1].running_mean[5:], z.mean(0), rtol=1e-12)
        assert torch.allclose(model[1].running_var[5:], z.var(0), rtol=1e-12)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(model[1].running_var[:5], before["1.running_var"])
        assert model[1].num_batches_tracked == before["1.num_batches_tracked"]
        assert model[1].momentum == momentum
        (hook,) = copied._forward_pre_hooks.values()
        assert hook.given is None

    def test_without_a_batch_at_birth_they_begin_afresh(self):
        run = Run(STILL, RunningStatistics(), model=normalized(0.1))
        run.model.eval()
        run.model(torch.randn(9, 6, dtype=torch.float64))
        run.model.train()
        with torch.no_grad():
            run.model(torch.randn(9, 6, dtype=torch.float64))
        run.grow(2)
        assert run.model[1].running_mean[5:].tolist() == [0, 0]
        assert run.model[1].running_var[5:].tolist() == [1, 1]

    def test_evaluation_in_between_and_no_batch_at_all_change_nothing(self):
        run = Run(STILL, RunningStatistics(), model=normalized(0.1))
        run.grow(1)
        run.give(torch.zeros_like)
        assert run.model[1].running_var[5] == 1
        self.train(run, 1)
        before = run.model[1].running_mean.clone()
        run.model.eval()
        run.model(torch.randn(9, 6, dtype=torch.float64))
        run.give(torch.zeros_like)
        assert torch.equal(run.model[1].running_mean, before)

    def test_copies_keep_their_parents(self):
        run = Run(STILL, RunningStatistics(), model=normalized(0.1))
        self.train(run, 3)
        run.edit(lambda edit: edit.gather("0", Gather.duplicate(5, [1]), Net2Wider()))
        assert run.hooks == 0
        assert run.model[1].running_mean[5] == run.model[1].running_mean[1]

    def test_two_cohorts_and_edits_in_between(self):
        run = Run(STILL, RunningStatistics(tolerance=1e-9), model=normalized(0.2))
        self.train(run, 2)
        run.grow(2)
        inputs = Inputs(run.model[1])
        for _ in range(3):
            self.train(run, 1)
        first = [x[:, 5:] for x in inputs.seen]
        run.edit(lambda edit: edit.prune("0", [1, 5]).grow("0", 1))
        inputs.seen.clear()
        for _ in range(2):
            self.train(run, 2)
        old = [*(x[:, 1:] for x in first), *(x[:, 4:5] for x in inputs.seen)]
        for units, seen in ((slice(4, 5), old), (slice(5, 6), [x[:, 5:] for x in inputs.seen])):
            mean, variance = self.expected(seen, 0.2, slice(0, 1))
            assert torch.allclose(run.model[1].running_mean[units], mean, rtol=1e-9)
            assert torch.allclose(run.model[1].running_var[units], variance, rtol=1e-9)

    @pytest.mark.parametrize("momentum", [0.1, None])
    def test_it_resumes_exactly(self, momentum):
        run = Run(STILL, RunningStatistics(), model=normalized(momentum))
        self.train(run, 2)
        run.grow(2)
        self.train(run, 2)
        other = run.resumed(STILL, RunningStatistics())
        for one in (run, other):
            torch.manual_seed(4)
            self.train(one, 1)
            self.train(one, 3)
        for name in ("running_mean", "running_var"):
            assert torch.equal(getattr(run.model[1], name), getattr(other.model[1], name))

    def test_hooks_go_when_the_beginning_is_forgotten(self):
        run = Run(STILL, [RunningStatistics(tolerance=0.1)], model=normalized(0.5))
        run.grow(1)
        layers = [m for m in run.model.modules() if m._forward_hooks or m._forward_pre_hooks]
        assert layers == [run.model]  # for the batch that newborns are measured on
        for _ in range(3):
            self.train(run, 1)
        assert run.hooks == 1
        self.train(run, 1)
        assert run.hooks == 0, "0.5 ** 4 < 0.1 / 1.1"

    def test_it_is_combined(self):
        run = Run(
            lambda p: optim.Adam(p, lr=0.01), [StepCounts(), RunningStatistics(), OpenGate()], model=normalized(0.1)
        )
        self.train(run, 1)
        run.grow(2)
        for _ in range(3):
            self.train(run, 1)
        memory: dict[str, Any] = json.loads(json.dumps(run.helpers.memory()))
        assert list(memory["upkeep"]) == ["1 RunningStatistics", "2 OpenGate"]
        assert memory["upkeep"]["1 RunningStatistics"]["1"]["since"] == {"1": 1}
