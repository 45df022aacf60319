"""Masks are kept to by every optimizer, with closures, scalers, several optimizers, and refused where they cannot."""

import copy

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError, StaleMapError, WrappedModelError
from meristem.mask import METHODS, SET, SNIP, Fixed, Magnitude, Masks, RigL, Sparse, Static, Uniform, weights_of
from tests.mask.models import OPTIMIZERS, batches, convnet, loss_of, mlp, train

RIGL = RigL(density=0.3, end=20, interval=3)


def assert_silent(net, sparsity) -> None:
    for name, mask in sparsity.masks.items():
        parameter = net.get_parameter(name)
        assert not parameter[~mask].any()
        for optimizer in sparsity.optimizers:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == mask.shape:
                    assert not value[~mask].any()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_not_there_is_zero_after_every_step(kind):
    net = mlp()
    optimizer = OPTIMIZERS[kind](net.parameters())
    sparsity = Sparse(net, optimizer, RIGL)
    counts = sparsity.masks.nonzeros
    moved = 0
    for x in batches(12):
        before = sparsity.masks["0.weight"].clone()
        train(net, optimizer, [x])
        assert_silent(net, sparsity)
        assert sparsity.masks.nonzeros == counts
        moved += not torch.equal(before, sparsity.masks["0.weight"])
    assert moved == 4
    assert sparsity.steps == 12
    assert sparsity.updated == 12


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masked_training_is_training_of_masked_weights(kind):
    """The reference multiplies weights by masks in the forward pass, as masked layers do."""

    class Masked(nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, weight):
            return weight * self.mask

    net, plain = mlp(), mlp()
    sparsity = Sparse(net, OPTIMIZERS[kind](net.parameters()), Static(density=0.4))
    for name, mask in sparsity.masks.items():
        layer = plain.get_submodule(name.split(".")[0])
        nn.utils.parametrize.register_parametrization(layer, "weight", Masked(mask))
    assert train(net, sparsity.optimizers[0], batches(10)) == pytest.approx(
        train(plain, OPTIMIZERS[kind](plain.parameters()), batches(10)), rel=1e-12
    )


def test_gradients_are_dense_until_the_step_and_masked_for_it():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsity = Sparse(net, optimizer, Static(density=0.3))
    loss_of(net, batches(1)[0]).backward()
    weight, mask = net[0].weight, sparsity.masks["0.weight"]
    assert weight.grad[~mask].all()
    dense = weight.grad.clone()
    sparsity.masks.apply_to_gradients()
    assert torch.equal(weight.grad, dense * mask)
    optimizer.step()
    assert torch.equal(weight.grad, dense * mask)


@pytest.mark.parametrize("method", [RIGL, Static(density=0.3)], ids=["rigl", "static"])
def test_a_closure_does_the_same(method):
    losses = []
    for closed in (False, True):
        net = mlp()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        sparsity = Sparse(net, optimizer, method)
        taken = []
        for x in batches(8):

            def closure(x=x, net=net, optimizer=optimizer):
                optimizer.zero_grad()
                loss = loss_of(net, x)
                loss.backward()
                return loss

            if closed:
                taken.append(optimizer.step(closure).item())
            else:
                taken.append(closure().item())
                optimizer.step()
        losses.append(taken)
        assert_silent(net, sparsity)
    assert losses[0] == losses[1]


def test_lbfgs_moves_no_weight_that_is_not_there():
    net = mlp()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4)
    sparsity = Sparse(net, optimizer, RigL(density=0.3, end=9, interval=2))
    x = batches(1)[0]

    def closure():
        optimizer.zero_grad()
        loss = loss_of(net, x)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert_silent(net, sparsity)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_is_no_step(fused):
    net = mlp(dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, fused=fused)
    sparsity = Sparse(net, optimizer, RigL(density=0.3, end=20, interval=1))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    mask = sparsity.masks["0.weight"].clone()
    for factor, steps in ((1.0, 1), (float("inf"), 1), (1.0, 2)):
        scaler.scale(loss_of(net, batches(1, torch.float32)[0]) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert sparsity.steps == steps
    assert not torch.equal(mask, sparsity.masks["0.weight"])
    assert_silent(net, sparsity)


def test_several_optimizers_make_one_step():
    net, one = mlp(), mlp()
    halves = [torch.optim.Adam(net[:3].parameters(), lr=0.01), torch.optim.Adam(net[3:].parameters(), lr=0.01)]
    single = torch.optim.Adam(one.parameters(), lr=0.01)
    both, alone = Sparse(net, halves, RIGL), Sparse(one, single, RIGL)
    for x in batches(7):
        loss_of(net, x).backward()
        for optimizer in halves:
            optimizer.step()
            optimizer.zero_grad()
        train(one, single, [x])
    assert both.steps == alone.steps == 7
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), one.parameters(), strict=True))


def test_gradients_may_accumulate():
    net, whole = mlp(), mlp()
    pairs = [(m, torch.optim.SGD(m.parameters(), lr=0.1)) for m in (net, whole)]
    sparse = [Sparse(m, o, RIGL) for m, o in pairs]
    data = batches(10)
    for first, second in zip(data[::2], data[1::2], strict=True):
        for x in (first, second):
            (loss_of(net, x) / 2).backward()
        pairs[0][1].step()
        pairs[0][1].zero_grad()
        train(whole, pairs[1][1], [torch.cat([first, second])])
    for name, mask in sparse[0].masks.items():
        assert torch.equal(mask, sparse[1].masks[name])


def test_the_seed_decides_and_nothing_else_is_drawn():
    def start(seed):
        net = mlp()
        state = torch.get_rng_state()
        masks = dict(Sparse(net, torch.optim.SGD(net.parameters()), Static(density=0.3), seed=seed).masks)
        assert torch.equal(state, torch.get_rng_state())
        return masks

    assert torch.equal(start(0)["0.weight"], start(0)["0.weight"])
    assert not torch.equal(start(0)["0.weight"], start(1)["0.weight"])


def test_which_weights_are_masked():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm, self.linear = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 5)
            self.position, self.scale = nn.Parameter(torch.zeros(1, 4, 6)), nn.Parameter(torch.ones(5, 1))
            self.frozen = nn.Linear(5, 5).requires_grad_(False)

    net = Net()
    assert list(weights_of(net)) == ["linear.weight"]
    assert list(weights_of(net, "*.weight")) == ["linear.weight", "frozen.weight"]
    assert list(weights_of(net, ["table.*", "*.bias"])) == ["table.weight", "norm.bias", "linear.bias", "frozen.bias"]
    assert list(weights_of(net, lambda name, p: p.dim() == 3)) == ["position"]
    with pytest.raises(ConfigError, match="matches none"):
        weights_of(net, ["nothing.*"])


def test_channels_last_stays_so():
    net = convnet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sparsity = Sparse(net, optimizer, RigL(density=0.3, end=9, interval=2))
    for _ in range(4):
        net(torch.randn(2, 3, 6, 6, dtype=torch.float64)).pow(2).mean().backward()
        optimizer.step()
    assert net[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert sparsity.masks["3.weight"].stride() == net[3].weight.stride()
    assert_silent(net, sparsity)


def test_what_cannot_be_is_refused():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="closure"):
        Sparse(net, optimizer, SNIP())
    with pytest.raises(WrappedModelError, match="DataParallel"):
        Sparse(nn.DataParallel(net), optimizer, Static())
    with pytest.raises(ConfigError, match="holds none"):
        Sparse(mlp(), optimizer, Static())
    with pytest.raises(ConfigError, match="shape"):
        Masks(net, {"0.weight": torch.ones(3, 3, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="no parameter 'x'"):
        Masks(net, {"x": torch.ones(3, 3, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="which is not among"):
        Sparse(net, optimizer, Fixed(masks={"x": torch.ones(3, 3, dtype=torch.bool)}))
    for wrong in (lambda: RigL(end=0), lambda: SET(interval=0), lambda: RigL(end=5, fraction=2)):
        with pytest.raises(ConfigError):
            wrong()
    assert not optimizer._optimizer_step_pre_hooks
    assert all(not torch.equal(p, torch.zeros_like(p)) for p in net.parameters())


def test_a_replaced_parameter_is_noticed():
    net = mlp()
    masks = Masks(net, {"0.weight": torch.ones(16, 20, dtype=torch.bool)})
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())
    with pytest.raises(StaleMapError, match="after"):
        masks.apply()


def test_closing_makes_it_dense_again():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsity = Sparse(net, optimizer, Static(density=0.3))
    sparsity.close()
    train(net, optimizer, batches(1))
    assert (net[0].weight != 0).all()


def test_a_sparse_model_trains_on_with_its_zeros():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    Sparse(net, optimizer, Static(density=0.25, score=Magnitude(), distribution=Uniform())).close()
    again = Sparse(net, optimizer, Fixed())
    assert again.masks.nonzeros == {"0.weight": 80, "2.weight": 48, "4.weight": 12}
    assert again.masks.density == 0.25
    assert copy.deepcopy(net)(batches(1)[0]).shape == (8, 4)


def test_every_method_is_in_the_catalogue_and_exported():
    import meristem.mask as package

    exported = {x for x in vars(package).values() if isinstance(x, type) and issubclass(x, package.Method)}
    assert {type(method) for method in METHODS} == exported - {package.Method}
    shots = {x for x in vars(package).values() if isinstance(x, type) and issubclass(x, package.OneShot)}
    assert {type(method) for method in package.ONE_SHOT} == shots - {package.OneShot}


def test_replicas_with_the_mean_gradient_do_what_one_does_on_the_whole_batch():
    """What DDP does, without processes: every replica gets the mean gradient, and has a global generator of its own."""
    whole, replicas = mlp(), [mlp(), mlp()]
    nets = [whole, *replicas]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in nets]
    every = []
    for number, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        torch.manual_seed(number)
        every.append(Sparse(net, optimizer, RIGL))
    for x in batches(10):
        loss_of(whole, x).backward()
        for rank, net in enumerate(replicas):
            loss_of(net, x[rank::2]).backward()
        for pair in zip(*(net.parameters() for net in replicas), strict=True):
            mean = (pair[0].grad + pair[1].grad) / 2
            for parameter in pair:
                parameter.grad = mean.clone()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, mask in every[0].masks.items():
        assert all(torch.equal(mask, other.masks[name]) for other in every)
    for parameters in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(parameters[1], parameters[2])
        assert torch.allclose(parameters[0], parameters[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("methods", [(RIGL, RIGL), (Static(), RIGL), (RIGL, Static())])
def test_updates_that_would_take_the_gradients_of_another_are_refused(methods):
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = Sparse(net, optimizer, methods[0], parameters="0.weight")
    before = net[2].weight.clone()
    with pytest.raises(ConfigError, match=r"RigL replace the other's steps.*PerLayer.*close"):
        Sparse(net, optimizer, methods[1], parameters="2.weight")
    assert torch.equal(net[2].weight, before)
    first.close()
    Sparse(net, optimizer, methods[1], parameters="2.weight")
    train(net, optimizer, batches(4))


def test_two_on_one_optimizer():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    both = [Sparse(net, optimizer, SET(density=0.3, interval=2), parameters=f"{i}.weight") for i in (0, 2)]
    with pytest.raises(ConfigError, match=r"both mask 0\.weight"):
        Sparse(net, optimizer, Static(), parameters=["0.weight", "4.weight"])
    train(net, optimizer, batches(4))
    assert [sparsity.updated for sparsity in both] == [4, 4]
    for sparsity in both:
        assert_silent(net, sparsity)


def test_units_of_a_compiled_model_come_and_go():
    """What is compiled is compiled anew; it computes what the plain model with the same edits does."""
    runs = []
    for compiled in (False, True):
        net, x = mlp(), batches(1)[0]
        called = torch.compile(net, backend="eager") if compiled else net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        sparsity = Sparse(net, optimizer, RIGL)
        axes, losses = meristem.trace(net, x), train(called, optimizer, batches(4))
        for change in (lambda edit: edit.grow("0", 3), lambda edit: edit.prune("2", [1, 5])):
            axes = change(meristem.Edit(axes, optimizer, follow=[sparsity])).commit().axes
            assert torch.equal(called(x), net(x))
            losses += train(called, optimizer, batches(4))
            assert_silent(net, sparsity)
        runs.append((losses, sparsity.state_dict()))
    assert runs[0] == runs[1]


@pytest.mark.heavy
def test_a_compiled_model_trains():
    net = mlp(dtype=torch.float32)
    compiled = torch.compile(net, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    sparsity = Sparse(net, optimizer, RIGL)
    plain = mlp(dtype=torch.float32)
    other = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    Sparse(plain, other, RIGL)
    data = batches(10, torch.float32)
    assert train(compiled, optimizer, data) == pytest.approx(train(plain, other, data), rel=1e-4)
    assert_silent(net, sparsity)
