"""Capture: from the user's module and an example to a `Program`."""

import difflib
import inspect
import keyword
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from edgekit.entry import load_entry
from edgekit.errors import UsageError
from edgekit.graph import flatten as flat
from edgekit.graph.dropped import dropped_in_eval, mend_momentum
from edgekit.graph.functionalise import functionalise
from edgekit.graph.program import Program, assemble
from edgekit.graph.trace import Axes, fit, trace

load_factory = load_entry


@dataclass
class Call:
    """How flat tensors become a call of the user's forward.

    Attributes:
        names: of the tensors, in order.
        tensors: the examples.
        spec: how they nest.
        leaves: every leaf of the call; tensors stand at `places`, the rest is constant.
        places: indices into `leaves`.
    """

    names: list[str]
    tensors: list[Tensor]
    spec: pytree.TreeSpec
    leaves: list[Any]
    places: list[int]

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the user's forward."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(args), kwargs


def capture(
    module: nn.Module,
    example: Mapping[str, Any] | tuple[Any, ...] | Tensor,
    *,
    dynamic: Mapping[str, Sequence[str | int]] | None = None,
    imports: Sequence[str] = (),
) -> Program:
    """Capture a module in eval mode; the module is left as it was.

    Args:
        module: any module that `torch.export` can capture.
        example: its inputs: by the names of forward's parameters, or positional.
        dynamic: for an input, one entry an axis: a size, or the name of a dynamic dimension
            (`"batch"`, `"32*h"`). Inputs that are not named are static. None: axis 0 of every
            input is `batch`.
        imports: modules that must be imported before the program is loaded, because they register
            its custom operators.

    Returns:
        The program, with flat named inputs and outputs.

    Raises:
        UsageError: inputs that do not fit the forward, or something that is not supported (a
            key-value cache, a packed sequence, complex tensors).
        PassError: `torch.export` cannot capture the module.
    """
    call = _call(module, example)
    axes = _axes(call, dynamic)
    _check_module(module)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    inputs = {
        name: fit(name, tensor.detach().to(device), axes[name])
        for name, tensor in zip(call.names, call.tensors, strict=True)
    }
    outputs: list[str] = []
    notes: list[str] = []
    with _flat_forward(module, call, outputs, notes):
        with _in_mode(module, training=False):
            traced = trace(module, inputs, axes)
        names = list(outputs)
        with _in_mode(module, training=True):
            dropped = dropped_in_eval(module, traced.exported, inputs)
    notes = [*dict.fromkeys(notes), *traced.warnings, *functionalise(traced.exported)]
    dropped += mend_momentum(module, traced.exported)
    program = assemble(
        traced.exported,
        traced.names,
        input_names=call.names,
        output_names=flat.unique(names, set(call.names)),
    )
    return replace(
        program,
        ties=find_ties(module, set(traced.exported.state_dict)),
        imports=tuple(imports),
        dropped=dropped,
        warnings=tuple(notes),
        ranges=_ranges(call),
    )


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights into `module`, without unpickling anything but tensors.

    Args:
        module: with parameters and buffers of the same names and shapes.
        path: `.safetensors`, or `.pt`/`.pth` with a state dict (also under `state_dict` or
            `model`).

    Raises:
        UsageError: the file is missing, broken or holds more than tensors, or its tensors do not
            fit; the message names them.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Check the path.")
    own = module.state_dict()
    state = _with_ties(_read_state(path), module)
    kinds = {
        "of another shape": [
            f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
            for name, value in state.items()
            if name in own and value.shape != own[name].shape
        ],
        "unexpected": [name for name in state if name not in own],
        "missing": [name for name in own if name not in state],
    }
    if any(kinds.values()):
        problems = "; ".join(f"{kind}: {_few(names)}" for kind, names in kinds.items() if names)
        raise UsageError(
            f"{path.name} does not fit the module; {problems}.",
            "Build the module that these weights were saved from.",
        )
    module.load_state_dict(state)


def _with_ties(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Give every name of a tied tensor its value: safetensors' `save_model` keeps one of them."""
    found = dict(state)
    for group in find_ties(module, set(module.state_dict())):
        known = next((state[name] for name in group if name in state), None)
        if known is not None:
            found.update({name: known for name in group if name not in state})
    return found


def _few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def find_ties(module: nn.Module, names: set[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of state-dict names that are one tensor in `module`."""
    groups: dict[int, list[str]] = {}
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        if name in names:
            groups.setdefault(id(tensor), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise UsageError(
            f"{path} cannot be read as weights: {str(e).splitlines()[0] if str(e) else e!r}",
            "Give a .safetensors file, or a state dict saved with torch.save.",
        ) from e
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UsageError(f"{path} holds no state dict.", "Save `module.state_dict()`.")
    return state


def _call(module: nn.Module, example: Mapping[str, Any] | tuple[Any, ...] | Tensor) -> Call:
    args, kwargs = _bind(module, example)
    pairs, spec = pytree.tree_flatten_with_path((args, kwargs), is_leaf=flat.is_refused)
    names, tensors, leaves, places = [], [], [], []
    positional = [n for n, p in _parameters(module).items() if p.kind is not p.VAR_KEYWORD]
    for index, (path, leaf) in enumerate(pairs):
        label = _label(path, positional)
        flat.refuse(leaf, label)
        leaves.append(leaf)
        if isinstance(leaf, Tensor):
            names.append(flat.identifier(label))
            tensors.append(leaf)
            places.append(index)
        elif not isinstance(leaf, int | float | bool | str | None):
            raise UsageError(
                f"Input {label!r} is a {type(leaf).__name__}, not a tensor.",
                "Give tensors; numbers, strings and None become constants of the graph.",
            )
    if not tensors:
        raise UsageError("The example holds no tensor.", "Give at least one input tensor.")
    return Call(flat.unique(names), tensors, spec, leaves, places)


def _parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(module.forward).parameters)


def _bind(
    module: nn.Module, example: Mapping[str, Any] | tuple[Any, ...] | Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Order an example as forward takes it: positional where it can be, else by keyword."""
    parameters = _parameters(module)
    if isinstance(example, Tensor):
        example = (example,)
    if not isinstance(example, Mapping):
        try:
            inspect.signature(module.forward).bind(*example)
        except TypeError as e:
            raise UsageError(
                f"The example does not fit forward({', '.join(parameters)}): {e}.",
                "Give one value for each parameter without a default.",
            ) from e
        return tuple(example), {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in example:
        if name not in parameters and not open_ended:
            near = difflib.get_close_matches(name, parameters, n=1, cutoff=0.4)
            raise UsageError(
                f"Forward has no parameter {name!r}.",
                f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(parameters)}.",
            )
    ordered = [n for n in parameters if n in example] + [n for n in example if n not in parameters]
    kwargs = {name: example[name] for name in ordered}
    try:
        inspect.signature(module.forward).bind(**kwargs)
    except TypeError as e:
        raise UsageError(
            f"The example does not fit forward({', '.join(parameters)}): {e}.",
            "Give one value for each parameter without a default.",
        ) from e
    return (), kwargs


def _label(path: tuple[Any, ...], positional: list[str]) -> str:
    keys = [getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path]
    first = keys[1]
    if keys[0] == 0:
        fits = first < len(positional)
        first = (
            positional[first] if fits else f"{positional[-1] if positional else 'input'}_{first}"
        )
    return "_".join(str(k) for k in (first, *keys[2:]))


def _axes(call: Call, dynamic: Mapping[str, Sequence[str | int]] | None) -> dict[str, Axes]:
    found: dict[str, Axes] = {}
    shapes = dict(zip(call.names, (tuple(t.shape) for t in call.tensors), strict=True))
    for name in dynamic or ():
        if name not in shapes:
            near = difflib.get_close_matches(name, shapes, n=1, cutoff=0.4)
            raise UsageError(
                f"There is no input {name!r} to give dynamic dimensions.",
                f"Did you mean {near[0]!r}?" if near else f"Inputs are {', '.join(shapes)}.",
            )
    for name, shape in shapes.items():
        if dynamic is None:
            found[name] = ("batch", *shape[1:]) if shape else ()
        else:
            found[name] = tuple(dynamic.get(name, shape))
    return found


def _check_module(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(
            "The module is a TorchScript module, which has no Python forward to capture.",
            "Build the Python module and load the script module's state dict into it.",
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        flat.refuse(tensor, name)
        if tensor.is_meta:
            raise UsageError(f"{name!r} has no data (it is on the meta device).", "Load weights.")
    taken = [
        n for n, _ in module.named_children() if isinstance(getattr(GraphModule, n, None), property)
    ]
    if taken:
        raise UsageError(
            f"A part of the network is called {taken[0]!r}, a name that PyTorch's graphs use.",
            "Rename that attribute in the module (and in its weights).",
        )


@contextmanager
def _flat_forward(
    module: nn.Module, call: Call, outputs: list[str], notes: list[str]
) -> Iterator[None]:
    """Give the instance a forward that takes and returns flat tensors, and take it away again."""
    original = module.forward

    def forward(self: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        del self
        args, kwargs = call.arguments(tensors)
        found, others = flat.flatten(original(*args, **kwargs))
        if not found:
            raise UsageError("The module returns no tensor.", "Return at least one tensor.")
        outputs[:] = [name for name, _ in found]
        notes.extend(f"Output {other} is not a tensor and was left out." for other in others)
        return tuple(tensor for _, tensor in found)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in ("self", *_safe(call.names))]
    )
    had = module.__dict__.get("forward")
    module.forward = types.MethodType(forward, module)
    try:
        yield
    finally:
        if had is None:
            del module.forward
        else:
            module.forward = had


def _safe(names: Sequence[str]) -> list[str]:
    """Parameter names that cannot clash with Python's own."""
    return [f"{n}_" if keyword.iskeyword(n) or n == "self" else n for n in names]


@contextmanager
def _in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Run with every sub-module in one mode, and give each its own mode back."""
    before = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in before:
            child.training = training
        yield
    finally:
        for child, mode in before:
            child.training = mode


def _ranges(call: Call) -> dict[str, tuple[int, int]]:
    """Smallest and largest value of the integer inputs, so that random ones are valid indices."""
    found = {}
    for name, tensor in zip(call.names, call.tensors, strict=True):
        if not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.numel():
            found[name] = (int(tensor.min()), int(tensor.max()))
    return found
