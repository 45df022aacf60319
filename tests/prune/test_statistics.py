"""What criteria record in ordinary steps: scaled losses, many passes, many axes, and what goes wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import SignalError
from meristem.prune import APoZ, Dormancy, Taylor
from meristem.signals import Activations, Recorder, View
from meristem.signals.direct import Recording
from meristem.signals.reads import Reads
from meristem.signals.sensitivity import Sensitivity
from tests.prune.table import cached


def recorded(case, *statistics, scale=None, factor=1.0, passes=1):
    work = case.copied()
    recording = Recording(work.axes, statistics, scale)
    recording.closing()
    for _ in range(passes):
        (factor / passes * work.loss()).backward()
    found = recording.finish()
    assert all(not p._backward_hooks for p in work.model.parameters())
    assert not work.model._forward_pre_hooks
    return found


def test_results_do_not_depend_on_the_scale_of_the_loss():
    case = cached("same, tanh")
    asked = Sensitivity("0"), Reads("0")
    plain = recorded(case, *asked)
    scaled = recorded(case, *asked, scale=lambda: 512.0, factor=512.0)
    torch.testing.assert_close(scaled[asked[0]].gate, plain[asked[0]].gate)
    torch.testing.assert_close(scaled[asked[1]]["2.weight"].gradient, plain[asked[1]]["2.weight"].gradient)


def test_the_same_in_several_passes_is_a_larger_batch():
    case, asked = cached("heads"), (Sensitivity("qkv[0]"), Reads("qkv[0]"))
    once, thrice = recorded(case, *asked), recorded(case, *asked, passes=3)
    torch.testing.assert_close(thrice[asked[0]].gate, once[asked[0]].gate)
    one, three = (found[asked[1]]["project.weight"] for found in (once, thrice))
    for name in ("mean", "square", "size", "zero"):
        torch.testing.assert_close(getattr(three, name), getattr(one, name))
    torch.testing.assert_close(3 * three.gradient, one.gradient)  # each of three times as many samples has a third


def test_everything_in_one_recording_is_what_each_alone_gives():
    case = cached("two readers, relu")
    asked = (Activations("first"), Sensitivity("first"), Reads("first"), Sensitivity("left"), Reads("left"))
    together = recorded(case, *asked)
    for statistic in asked:
        alone = recorded(case, statistic)[statistic]
        first, second = (f if isinstance(f, torch.Tensor) else vars(f) if not isinstance(f, dict) else
                         {k: vars(v) for k, v in f.items()} for f in (alone, together[statistic]))  # fmt: skip
        torch.testing.assert_close(second, first)


def test_passes_that_overflow_are_left_out():
    case = cached("linear, relu")
    work = case.copied()
    recording = Recording(work.axes, [Sensitivity("0"), Reads("0")])
    (float("inf") * work.loss()).backward()
    assert recording.overflowed
    assert not recording.complete
    work.loss().backward()
    assert recording.complete
    found = recording.finish()
    expected = recorded(case, Sensitivity("0"))[Sensitivity("0")]
    torch.testing.assert_close(found[Sensitivity("0")].gate, expected.gate)
    assert found[Reads("0")]["2.weight"].gradient.isfinite().all()


def test_evaluations_are_not_heard():
    case = cached("linear, relu").copied()
    recording = Recording(case.axes, [Reads("0")])
    with torch.no_grad():
        case.model(1e3 * case.args[0])
    case.loss().backward()
    found = recording.finish()[Reads("0")]
    torch.testing.assert_close(found["2.weight"].mean, recorded(case, Reads("0"))[Reads("0")]["2.weight"].mean)


def test_silence_is_an_error():
    case = cached("linear, relu").copied()
    with pytest.raises(SignalError, match=r"no call was heard that reads with 2\.weight"):
        Recording(case.axes, [Reads("0")]).finish()
    with pytest.raises(SignalError, match="no finite gradient was seen at the weights of 0"):
        Recording(case.axes, [Sensitivity("0")]).finish()
    with pytest.raises(SignalError, match="Recording"):
        Recorder(case.axes, [Sensitivity("0")])


def test_nothing_is_heard_after_cancelling():
    case = cached("linear, relu").copied()
    recording = Recording(case.axes, [Sensitivity("0"), Reads("0")])
    loss = case.loss()
    recording.cancel()
    loss.backward()
    with pytest.raises(SignalError):
        recording.finish()
    assert not any(p._backward_hooks for p in case.model.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripted_modules_hide_what_they_read():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(4, 3)
    axes = meristem.trace(model, x)
    axis = axes["0"]
    inner = torch.jit.script(model[2])
    model[2].forward = lambda h: inner(h)
    recording = Recording(axes, Dormancy().needs(axes, axis))
    model(x).sum().backward()
    with pytest.raises(SignalError, match=r"(?s)reads with 2\.weight.*compensate=False"):
        recording.finish()
    recording = Recording(axes, Taylor().needs(axes, axis))  # gradients of weights come all the same
    model(x).sum().backward()
    assert Taylor().scores(View(axes, signals=recording.finish()), axis).isfinite().all()


def test_shared_weights_add_up_over_their_calls():
    """The same reader twice: the mean over both calls."""
    case = cached("shared, relu").copied()
    seen: list[torch.Tensor] = []
    case.model.back.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    axis = case.axes["first"]
    recording = Recording(case.axes, APoZ().needs(case.axes, axis))
    case.loss().backward()
    scores = APoZ().scores(View(case.axes, signals=recording.finish()), axis)
    torch.testing.assert_close(scores, (torch.cat(seen) != 0).double().mean(0))
