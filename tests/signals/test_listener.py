"""What the listener hears of whole models, and what it leaves behind: nothing."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from meristem.axes import trace
from meristem.errors import SignalError
from meristem.signals.listener import Listener
from tests.signals.passes import built, convnet, heard, inserted_gradient, loss_of, mlp


def traces(model):
    """Everything that listening could leave on a model."""
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in model.modules()]
    return [len(h) for group in hooks for h in group], [len(p._backward_hooks or ()) for p in model.parameters()]


@pytest.mark.parametrize(
    ("make", "shape", "axis", "second"), [(mlp, (7, 5), "0", "2"), (convnet, (5, 2, 8, 8), "0", "2")]
)
def test_the_candidate_gradient_is_that_of_inserted_newborns(make, shape, axis, second):
    model, x, axes = built(make, shape)
    (batch,) = heard(axes, axis, lambda: loss_of(model(x)).backward())
    expected = inserted_gradient(model, axis, second, lambda m: loss_of(m(x)))
    torch.testing.assert_close(batch.candidate_gradient, expected, rtol=1e-5, atol=1e-12)


def test_a_step_is_left_as_it_is():
    model, x, axes = built(convnet, (4, 2, 8, 8))
    calls = {"forward": 0, "backward": 0}
    for module in model:
        module.register_forward_hook(lambda *_: calls.__setitem__("forward", calls["forward"] + 1))
        module.register_full_backward_hook(lambda *_: calls.__setitem__("backward", calls["backward"] + 1))
    loss_of(model(x)).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    once = dict(calls)
    model.zero_grad()
    random = torch.get_rng_state()
    assert len(heard(axes, "0", lambda: loss_of(model(x)).backward())) == 1
    assert {name: count - once[name] for name, count in calls.items()} == once
    assert all(torch.equal(p.grad, q) for p, q in zip(model.parameters(), plain, strict=True))
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("when", ["unused", "after forward", "after backward", "inside forward"])
def test_nothing_is_left_behind(when):
    model, x, axes = built(mlp, (4, 5))
    before = traces(model)
    batches = []
    listener = Listener(axes, [axes["0"]], lambda _, batch: batches.append(batch))
    assert traces(model) != before
    if when == "inside forward":
        handle = model[2].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model(x)
        handle.remove()
    elif when != "unused":
        loss = loss_of(model(x))
        if when == "after backward":
            loss.backward()
    listener.close()
    if when == "after forward":
        loss.backward()
    assert traces(model) == before
    assert not _get_current_function_mode_stack()
    assert len(batches) == (when == "after backward")


def test_an_exception_in_the_forward_pass_leaves_no_mode_behind_and_listening_goes_on():
    model, x, axes = built(mlp, (4, 5))

    def step():
        handle = model[2].register_forward_hook(lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            model(x)
        assert not _get_current_function_mode_stack()
        handle.remove()
        loss_of(model(x)).backward()

    assert len(heard(axes, "0", step)) == 1


def test_passes_without_gradients_and_without_backward_are_not_heard():
    model, x, axes = built(mlp, (4, 5))

    def step():
        with torch.no_grad():
            model(x)
        with torch.inference_mode():
            model(x)
        model(x)
        loss_of(model(x[:2])).backward()

    (batch,) = heard(axes, "0", step)
    assert batch.samples == 2


def test_activations_are_released_with_the_graph():
    model, x, axes = built(mlp, (4, 5))
    listener = Listener(axes, [axes["2"]], lambda *_: None)
    seen = []
    model[1].register_forward_hook(lambda m, a, result: seen.append(weakref.ref(result)))
    loss = loss_of(model(x))
    loss.backward()
    del loss
    gc.collect()
    listener.close()
    assert seen[0]() is None


class Twice(nn.Module):
    """One layer applied twice: its units are produced by both calls and read by both."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.head = nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            x = x + self.down(torch.tanh(self.up(x)))
        return self.head(x)


def test_calls_of_one_weight_are_told_apart_and_added_up():
    """M of the shared pair, by the mixed second derivative along a newborn of both calls."""
    model, x, axes = built(Twice, (6, 5))
    (batch,) = heard(axes, "up", lambda: loss_of(model(x)).backward())
    assert len(batch.arrivals) == 2
    torch.manual_seed(1)
    incoming, outgoing = torch.randn(5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def loss(scale):
        def body(x):
            h = torch.tanh(model.up(x))
            z = torch.tanh(1e-4 * (x @ incoming[:4] + incoming[4])) / 1e-4
            return x + model.down(h) + scale * z[:, None] * outgoing

        return loss_of(model.head(body(body(model.stem(x)))))

    step = 1e-5
    slope = (loss(step) - loss(-step)) / (2 * step)
    torch.testing.assert_close(outgoing @ batch.candidate_gradient @ incoming, slope, rtol=1e-6, atol=1e-9)


class Recursive(nn.Module):
    """Calls itself for the second half of its input."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.down(torch.tanh(self.up(x[..., :3])))
        return y + self(x[..., 3:]) if x.shape[-1] > 3 else y


def test_a_model_that_calls_itself_is_one_pass():
    model, x, axes = built(Recursive, (6, 6))
    batches = heard(axes, "up", lambda: loss_of(model(x)).backward())
    assert [len(batch.arrivals) for batch in batches] == [2]


class Spare(nn.Module):
    """Two readers of one axis; the loss may use one alone."""

    def __init__(self):
        super().__init__()
        self.up, self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.up(x))
        return self.one(h), self.two(h)


def test_a_reader_that_the_loss_does_not_use_counts_as_zero():
    model, x, axes = built(Spare, (6, 5))
    (batch,) = heard(axes, "up", lambda: loss_of(model(x)[1]).backward())
    assert [a.path.consumer.weight for a in batch.arrivals] == ["two.weight"]


def test_backward_passes_through_one_graph_add_up():
    model, x, axes = built(Spare, (6, 5))

    def separately():
        one, two = model(x)
        loss_of(one).backward(retain_graph=True)
        loss_of(two).backward()

    def together():
        one, two = model(x)
        (loss_of(one) + loss_of(two)).backward()

    (whole,) = heard(axes, "up", together)
    parts = heard(axes, "up", separately)
    assert [batch.fan_out for batch in parts] == [whole.fan_out] * 2
    torch.testing.assert_close(sum(batch.candidate_gradient for batch in parts), whole.candidate_gradient)


def test_unbatched_convolutions_are_heard():
    model, x, axes = built(lambda: convnet()[:3], (2, 8, 8))
    (alone,) = heard(axes, "0", lambda: (model(x) ** 2).sum().backward())
    (batched,) = heard(axes, "0", lambda: (model(x[None]) ** 2).sum().backward())
    torch.testing.assert_close(alone.candidate_gradient, batched.candidate_gradient)
    torch.testing.assert_close(alone.activations, batched.activations)


def test_activations_of_flattened_maps_are_one_row_per_position():
    model, x, axes = built(convnet, (5, 2, 8, 8))
    (batch,) = heard(axes, "2", lambda: loss_of(model(x)).backward())
    expected = model[:4](x).movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(batch.activations, expected.detach())


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(5, 5), nn.Linear(5, 6), nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x):
        body = nn.Sequential(self.up, nn.Tanh(), self.down)
        h = self.stem(x)
        return checkpoint(body, h, use_reentrant=self.reentrant) if torch.is_grad_enabled() else body(h)


def test_checkpointed_passes_are_heard_where_pytorch_keeps_the_graph():
    model, x, axes = built(lambda: Checkpointed(False), (6, 5))
    (batch,) = heard(axes, "up", lambda: loss_of(model(x)).backward())
    torch.testing.assert_close(
        batch.candidate_gradient, inserted_gradient(model, "up", "down", lambda m: loss_of(m(x))), rtol=1e-5, atol=1e-12
    )


def test_inputs_that_were_overwritten_are_noticed():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 3)
            self.up.requires_grad_(False)

        def forward(self, x):
            x = x.clone()
            h = self.up(x)
            x.zero_()
            return self.down(torch.tanh(h))

    model = Overwriting()
    x = torch.randn(4, 5)
    axes = trace(model, x)
    with pytest.raises(SignalError, match=r"what up\.weight read was overwritten"):
        heard(axes, "up", lambda: loss_of(model(x)).backward())
