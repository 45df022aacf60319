"""A tree record worked out for one model: which modules will stand where, which tensors are born, move and go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from meristem.axes.attributes import read
from meristem.edit.attributes import replaced_at
from meristem.edit.duplicate import duplicate
from meristem.edit.hollow import hollow, hollowed, is_hollow
from meristem.edit.journal import SetContents, Step
from meristem.edit.tree import Built, Copied, Node, Setting, TreeRecord, class_of
from meristem.edit.unshare import unshared
from meristem.errors import EditError


@dataclass(frozen=True, eq=False)
class Planting:
    """What a tree record does to one model. Nothing is in place before its steps are done.

    Attributes:
        model: the model.
        children: the new children of every module that gets others: (module, children).
        copies: every copied module, with its original.
        reborn: the tensors in copies that are no copies, by their identity: those with units of their own, and what
            starts afresh.
        built: every newly built module that is not within another one.
        made: the module of every node, by the node's identity.
    """

    model: nn.Module
    children: tuple[tuple[nn.Module, Mapping[str, nn.Module | None]], ...]
    copies: tuple[tuple[nn.Module, nn.Module], ...]
    built: tuple[nn.Module, ...]
    made: Mapping[int, nn.Module]
    reborn: frozenset[int] = frozenset()

    @property
    def steps(self) -> list[Step]:
        """What puts the new modules in place."""
        return [
            SetContents(module._modules, tuple(module._modules.items()), tuple(new.items()))
            for module, new in self.children
        ]

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        """Every module by every path that it will have."""
        after = {id(module): new for module, new in self.children}

        def walk(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
            yield path, module
            for name, child in after.get(id(module), module._modules).items():
                if child is not None:
                    yield from walk(f"{path}.{name}" if path else name, child)

        return dict(walk("", self.model))

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by every name that it will have."""
        return dict(_tensors(self.modules.items()))

    @cached_property
    def before(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by every name that it has."""
        return dict(_tensors(self.model.named_modules(remove_duplicate=False)))

    @cached_property
    def moved(self) -> Mapping[str, str]:
        """The new first name of every tensor that stays, by its old one."""
        after = {id(tensor): name for name, tensor in reversed([*self.tensors.items()])}
        first = {id(tensor): name for name, tensor in reversed([*self.before.items()])}
        return {name: after[number] for number, name in first.items() if number in after}

    @cached_property
    def origins(self) -> Mapping[int, Tensor]:
        """What each copied tensor was copied from, by the copy's identity."""
        return {number: source for number, source in self.models.items() if number not in self.reborn}

    @cached_property
    def models(self) -> Mapping[int, Tensor]:
        """For every tensor of a copied module, by its identity, the one that stands there in the original."""
        found: dict[int, Tensor] = {}
        for old, new in self.copies:
            source, target = dict(_tensors(old.named_modules())), dict(_tensors(new.named_modules()))
            found |= {id(target[name]): source[name] for name in source if target[name] is not source[name]}
        return found

    @cached_property
    def born(self) -> Mapping[str, Tensor]:
        """Every new tensor by its first name, in the model's order."""
        known = {id(tensor) for tensor in self.before.values()}
        found: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            if id(tensor) not in known:
                found.setdefault(id(tensor), name)
        return {name: self.tensors[name] for name in found.values()}

    @cached_property
    def gone(self) -> Mapping[str, Tensor]:
        """Every tensor that leaves the model, by its first name."""
        return {name: t for name, t in reversed([*self.before.items()]) if id(t) not in self._after}

    @cached_property
    def copied(self) -> tuple[str, ...]:
        """The names of the new tensors that are copies of others."""
        return tuple(name for name, tensor in self.born.items() if id(tensor) in self.origins)

    @cached_property
    def inserted(self) -> tuple[str, ...]:
        """The paths of the outermost modules with parameters that are wholly new."""
        return tuple(_outermost(self.modules, {id(module) for module in self.model.modules()}))

    @cached_property
    def removed(self) -> tuple[str, ...]:
        """The paths of before of the outermost modules with parameters that leave the model wholly."""
        return tuple(_outermost(dict(self.model.named_modules()), {id(module) for module in self.modules.values()}))

    @cached_property
    def _after(self) -> set[int]:
        return {id(tensor) for tensor in self.tensors.values()}


def plant(model: nn.Module, record: TreeRecord, *, seed: int = 0, share_tensors: bool = False) -> Planting:
    """Work out a record for a model: find the old modules, copy and build the new ones. The model is not touched.

    Args:
        model: the model, or a copy of it that follows.
        record: what is to happen.
        seed: of the random values that new modules start with; torch's own generator is left alone.
        share_tensors: copies share their tensors with the original, for a rehearsal.

    Raises:
        EditError: the record does not fit the model; says what is missing.
    """
    return _Planter(model, record, share_tensors).plant(seed)


class _Planter:
    def __init__(self, model: nn.Module, record: TreeRecord, share_tensors: bool) -> None:
        self.model = model
        self.record = record
        self.share = share_tensors
        self.copies: list[tuple[nn.Module, nn.Module]] = []
        self.built: list[nn.Module] = []
        self.made: dict[int, nn.Module] = {}
        self.reborn: set[int] = set()
        self.near = ""

    def plant(self, seed: int) -> Planting:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            children = {id(m): (m, new) for m, new in map(self._container, self.record.containers)}
            for path, node in self.record.slots.items():
                self._slot(path, node, children)
        made = tuple(children.values()), tuple(self.copies), tuple(self.built), self.made
        return Planting(self.model, *made, frozenset(self.reborn))

    def _container(self, path: str) -> tuple[nn.Module, dict[str, nn.Module | None]]:
        module = self._old(path)
        self.near = path
        new: dict[str, nn.Module | None] = {name: self._made(n) for name, n in self.record.containers[path].items()}
        return module, new

    def _slot(self, path: str, node: Node, children: dict[int, tuple[nn.Module, dict[str, nn.Module | None]]]) -> None:
        """Put what takes the place of a module wherever the model holds it."""
        self.near = path
        old, new = self._old(path), self._made(node)
        held_by = 0
        for parent in list(self.model.modules()):
            held = children[id(parent)][1] if id(parent) in children else parent._modules
            if any(child is old for child in held.values()):
                found = {name: new if child is old else child for name, child in held.items()}
                children[id(parent)] = parent, found
                held_by += 1
        if not held_by:
            raise EditError("the model as a whole cannot be replaced; name one of its modules")

    def _made(self, node: Node, outermost: bool = True) -> nn.Module:
        if isinstance(node, Built):
            module = self._build(node, outermost)
        elif isinstance(node, Copied):
            old = self._old(node.copied)
            module = duplicate(old, self.model, share_tensors=self.share)
            self.copies.append((old, module))
            for name, shape in node.shapes.items():
                self._reshape(module, name, shape)
            if node.fresh:
                self.reborn.update(id(tensor) for tensor in (*module.parameters(), *module.buffers()))
        else:
            module = self._old(node.old)
        self.made[id(node)] = module
        return module

    def _reshape(self, module: nn.Module, name: str, shape: list[int]) -> None:
        """Give a tensor of a copy other lengths: its entries over and over, until somebody says better."""
        path, _, leaf = name.rpartition(".")
        try:
            owner = module.get_submodule(path)
            old = {**owner._parameters, **owner._buffers}.get(leaf)
        except AttributeError:
            owner, old = module, None
        if old is None or old.dim() != len(shape):
            raise EditError(f"{type(module).__name__} has no tensor {name!r} of {len(shape)} dimensions to copy")
        new = hollow(old, shape) if is_hollow(old) else _repeated(old, shape)
        setattr(owner, leaf, new)
        self.reborn.add(id(new))

    def _build(self, node: Built, outermost: bool) -> nn.Module:
        kind = class_of(node.build)
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in node.options.items()}
        like = self._reference()
        without_values = is_hollow(like)
        try:
            with torch.device("meta") if without_values else nullcontext():
                module = kind(**options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EditError(f"{node.build}({options}) could not be built: {error}") from error
        if like is not None:
            module.to("meta" if without_values else like.device, like.dtype)
        for step in hollowed([module], like.device) if like is not None and without_values else ():
            step.do()
        module.train(self.model.training)
        for name, child in node.children.items():
            module.add_module(name, self._made(child, outermost=False))
        if outermost:
            self.built.append(module)
        return module

    def _reference(self) -> Tensor | None:
        """A parameter near the place, on whose device and of whose type new modules are made."""
        path = self.near
        while True:
            found = next((t for t in self._old(path).parameters() if t.is_floating_point()), None)
            if found is not None or not path:
                return found
            path = path.rpartition(".")[0]

    def _old(self, path: str) -> nn.Module:
        try:
            return self.model.get_submodule(path)
        except AttributeError:
            raise EditError(f"the model has no module {path!r}; the record of a depth edit does not fit it") from None


def _repeated(old: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of other lengths, of the same entries over and over; a parameter, if the other one is."""
    new = old.detach()
    for dim, length in enumerate(shape):
        new = new.index_select(dim, torch.arange(length, device=old.device) % max(old.shape[dim], 1))
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _outermost(modules: Mapping[str, nn.Module], known: set[int]) -> Iterator[str]:
    """The paths of modules with parameters of which no part is known, without those within others."""
    last: str | None = None
    for path, module in modules.items():
        if last is not None and path.startswith(f"{last}."):
            continue
        parts = list(module.modules())
        if not any(id(part) in known for part in parts) and any(True for _ in module.parameters()):
            last = path
            yield path


def setting_steps(model: nn.Module, settings: Sequence[Setting], follow: Sequence[nn.Module] = ()) -> Iterator[Step]:
    """Steps that set plain attributes of modules, one after the other; the modules must be in place.

    Where another model holds the object with the attribute, this one gets a copy of its own.

    Args:
        model: the model.
        settings: what is set.
        follow: copies of the model in which it is set, too.

    Raises:
        EditError: an attribute does not exist, or that is not possible.
    """
    roots = (model, *follow)
    owners = [(_owner(root, setting), setting) for root in roots for setting in settings]
    yield from unshared(roots, ((owner, setting.path) for owner, setting in owners)).steps
    for owner, setting in owners:
        old = read(owner, setting.path)
        value = tuple(setting.value) if isinstance(old, tuple) and isinstance(setting.value, list) else setting.value
        yield replaced_at(owner, setting.path, value)


def _owner(root: nn.Module, setting: Setting) -> nn.Module:
    """The module whose attribute is set."""
    try:
        owner = root.get_submodule(setting.module)
    except AttributeError:
        owner = None
    if owner is None or read(owner, setting.path) is None:
        where = f"{setting.module}.{'.'.join(map(str, setting.path))}"
        raise EditError(f"the model has no attribute {where}; the record of a depth edit does not fit it")
    return owner


def _tensors(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, of modules, by their names."""
    found = list(modules)
    for kind in ("_parameters", "_buffers"):
        for path, module in found:
            for name, tensor in vars(module)[kind].items():
                if tensor is not None:
                    yield f"{path}.{name}" if path else name, tensor
