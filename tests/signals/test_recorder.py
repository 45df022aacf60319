"""Statistics of ordinary training steps, whatever surrounds the loss."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.checkpoint import checkpoint

from meristem.axes import trace
from meristem.errors import SignalError
from meristem.signals import Recorder, SecondMoment
from tests.signals.passes import built, convnet, everything, loss_of, mlp, recorded


def assert_equal(one, two, rtol=1e-9, atol=1e-12, sums=False):
    """Equal results of `everything`, M up to rounding; `sums`: the second moments alone."""
    for statistic, found in one.items():
        other = two[statistic]
        if hasattr(found, "matrix"):
            torch.testing.assert_close(found.matrix, other.matrix, rtol=rtol, atol=atol)
        elif isinstance(found, torch.Tensor):
            torch.testing.assert_close(found, other, rtol=rtol, atol=atol)
        elif not sums:
            torch.testing.assert_close(found.values, other.values, rtol=rtol, atol=atol)
            m = [f.outgoing.T * f.values @ f.incoming for f in (found, other)]
            torch.testing.assert_close(m[0], m[1], rtol=rtol, atol=atol)


def backward(model, x, scale=1.0):
    (scale * loss_of(model(x))).backward()


@pytest.mark.parametrize(("make", "shape"), [(mlp, (8, 5)), (convnet, (8, 2, 8, 8))])
def test_micro_batches_add_up_to_the_batch(make, shape):
    model, x, axes = built(make, shape)
    wanted = everything(axes, "0")
    whole = recorded(axes, wanted, lambda: backward(model, x))

    def accumulate():
        for part in x.chunk(2):
            backward(model, part, 0.5)

    assert_equal(recorded(axes, wanted, accumulate), whole)


def test_several_steps_add_up_to_one_of_all_batches():
    model, x, axes = built(mlp, (8, 5))
    wanted = everything(axes, "0")
    recorder = Recorder(axes, wanted)
    backward(model, x[:4], 0.5)
    recorder.closing()
    backward(model, x[4:], 0.5)
    assert_equal(recorder.finish(), recorded(axes, wanted, lambda: backward(model, x)))


def test_a_sum_loss_gives_the_directions_of_a_mean_loss_longer_by_the_batch():
    model, x, axes = built(mlp, (8, 5))
    wanted = everything(axes, "0")
    mean = recorded(axes, wanted, lambda: backward(model, x))
    total = recorded(axes, wanted, lambda: backward(model, x, 8.0))
    assert_equal(mean, total, sums=True)
    torch.testing.assert_close(total[wanted[2]].values, 8 * mean[wanted[2]].values)


def test_what_happens_after_the_backward_pass_has_no_effect():
    model, x, axes = built(mlp, (8, 5))
    wanted = everything(axes, "0")

    def clipped():
        backward(model, x)
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        torch.optim.SGD(model.parameters(), lr=1e-9).step()

    plain = recorded(axes, wanted, lambda: backward(model, x))
    assert_equal(recorded(axes, wanted, clipped), plain)


def test_the_scale_of_the_loss_is_divided_out():
    model, x, axes = built(mlp, (8, 5))
    wanted = everything(axes, "0")
    plain = recorded(axes, wanted, lambda: backward(model, x))
    scaled = recorded(axes, wanted, lambda: backward(model, x, 1024.0), scale=lambda: 1024.0)
    assert_equal(scaled, plain)


def test_a_pass_that_overflows_is_left_out():
    model, x, axes = built(mlp, (8, 5))
    wanted = everything(axes, "0")
    recorder = Recorder(axes, wanted, scale=lambda: 1.0)
    recorder.closing()
    backward(model, x, float("inf"))
    assert not recorder.complete
    backward(model, x)
    assert recorder.complete
    assert_equal(recorder.finish(), recorded(axes, wanted, lambda: backward(model, x)))


def test_the_closing_step_must_be_heard():
    model, x, axes = built(mlp, (8, 5))
    recorder = Recorder(axes, everything(axes, "0"))
    backward(model, x)
    recorder.closing()
    with pytest.raises(SignalError, match="no finite gradient was seen at the weights that read 0"):
        recorder.finish()


def test_autocast_gives_float32_statistics_near_the_exact_ones():
    model, x, axes = built(convnet, (8, 2, 8, 8), torch.float32)
    wanted = everything(axes, "0")
    exact = recorded(axes, wanted, lambda: backward(model, x))

    def lowered():
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(x).float())
        loss.backward()

    found = recorded(axes, wanted, lowered)
    assert found[wanted[0]].matrix.dtype == found[wanted[1]].dtype == torch.float64
    assert_equal(found, exact, rtol=0.1, atol=0.02)
    torch.testing.assert_close(found[wanted[0]].matrix, exact[wanted[0]].matrix, rtol=1e-6, atol=1e-7)


def test_a_step_without_backward_is_an_error_that_says_so():
    model, x, axes = built(mlp, (8, 5))
    recorder = Recorder(axes, everything(axes, "0"))
    model(x)
    with pytest.raises(SignalError, match=r"no finite gradient was seen at the weights that read 0\."):
        recorder.finish()


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.up(x))
        two = checkpoint(self.two, h, use_reentrant=True) if torch.is_grad_enabled() else self.two(h)
        return self.one(h) + two


def test_weights_at_work_where_they_cannot_be_heard_are_an_error():
    model = Checkpointed()
    x = torch.randn(4, 5)
    axes = trace(model, x)
    recorder = Recorder(axes, [SecondMoment("up")])
    backward(model, x)
    with pytest.raises(SignalError, match=r"two\.weight got gradients through calls"):
        recorder.finish()


class Attending(nn.Module):
    """The stream is read by a call that PyTorch hides inside one function."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(5, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


def test_a_fused_attention_hides_its_weights_and_is_refused():
    model = Attending()
    x = torch.randn(4, 2, 5)
    axes = trace(model, x)
    for axis in axes.editable:
        assert SecondMoment(axis.name).undefined(axes, axis) is not None


def test_cancelling_leaves_nothing():
    model, x, axes = built(mlp, (8, 5))
    recorder = Recorder(axes, everything(axes, "0"))
    recorder.cancel()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(p._backward_hooks for p in model.parameters())
    backward(model, x)


def test_equal_statistics_are_recorded_once():
    model, _, axes = built(mlp, (8, 5))
    recorder = Recorder(axes, [SecondMoment("0"), SecondMoment("0")])
    assert model is axes.model
    assert len(recorder._accumulators) == 1
    recorder.cancel()


# ---------------------------------------------------------------------- ranks


def each_rank(rank, folder, check):
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    try:
        check(rank)
    finally:
        dist.destroy_process_group()


def same_everywhere(tensor):
    found = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(found, tensor)
    return torch.equal(*found)


def check_sums(rank):
    torch.set_num_threads(1)
    model, x, axes = built(mlp, (8, 5))
    wanted = everything(axes, "0")
    found = recorded(axes, wanted, lambda: backward(model, x.chunk(2)[rank]))
    directions = found[wanted[2]]
    assert all(same_everywhere(t) for t in (directions.values, directions.incoming, directions.outgoing))
    assert same_everywhere(found[wanted[0]].matrix)
    h = torch.nn.functional.linear(x, model[0].weight, model[0].bias).tanh().detach()
    torch.testing.assert_close(found[wanted[1]], h.T @ h / len(x))
    u = nn.functional.pad(x, (0, 1), value=1.0)
    torch.testing.assert_close(found[wanted[0]].matrix, u.T @ u / len(u))


def check_failure(rank):
    torch.set_num_threads(1)
    model, x, axes = built(mlp, (8, 5))
    recorder = Recorder(axes, everything(axes, "0"))
    recorder.closing()
    if rank == 0:
        backward(model, x)
    with pytest.raises(SignalError, match=r"no finite gradient .* \(on rank 1\)"):
        recorder.finish()


def check_everything(rank):
    check_sums(rank)
    check_failure(rank)


@pytest.mark.heavy
def test_ranks_share_what_they_heard_and_what_they_did_not(tmp_path):
    mp.spawn(each_rank, (str(tmp_path), check_everything), nprocs=2)
