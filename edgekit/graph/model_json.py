"""Checking the graph of a `.pt2` archive (`models/model.json`) string by string.

Every string in it ends somewhere sharp: operator targets are resolved by name, node and argument
names are written into Python source that is executed, shape expressions are evaluated, tree
specifications import modules. What is copied here is what matches a rule; the rest is refused, and
what edgekit does not need (stack traces, guards, tree specifications) is dropped or made anew.
"""

import json
import keyword
import re
from typing import Any

from edgekit.errors import UsageError
from edgekit.graph.expressions import is_shape_expression

NAMESPACES = frozenset({"aten", "prims", "quantized_decomposed", "torchao", "torchvision"})
# Operators that read files or hand out memory of the process.
_DENIED = frozenset({"from_file", "from_blob", "resize", "set_", "_resize_output", "as_strided_"})
_SYMBOLIC = frozenset({
    "_operator.add", "_operator.sub", "_operator.mul", "_operator.truediv", "_operator.floordiv",
    "_operator.mod", "_operator.pow", "_operator.neg", "_operator.pos", "_operator.eq",
    "_operator.ne", "_operator.lt", "_operator.le", "_operator.gt", "_operator.ge",
    "_operator.and_", "_operator.or_", "_operator.not_", "_operator.getitem", "math.ceil",
    "math.floor", "math.trunc", "torch.sym_int", "torch.sym_float", "torch.sym_max",
    "torch.sym_min", "torch.sym_not", "torch.sym_ite", "torch.sym_sum", "torch._sym_sqrt",
    "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "torch.ops.higher_order.wrap_with_autocast", "torch.ops.higher_order.cond",
    "torch.ops.higher_order.while_loop", "torch.ops.higher_order.scan",
    "torch.ops.higher_order.map_impl",
})  # fmt: skip
_TARGET = re.compile(r"torch\.ops\.(?P<space>[a-z_]\w*)\.(?P<op>\w+)\.(?P<overload>\w+)")
_NAME = re.compile(r"[A-Za-z_]\w{0,499}", re.ASCII)
_PATH = re.compile(r"[\w.\-/ ]{0,1000}")
_VERSION = re.compile(r"[\w.+\-<= ]{1,60}")
_STACK = re.compile(r"[\w.\-@ \[\]'\"(),;:/<>]{0,20000}")
_FORBIDDEN = frozenset({"as_custom_obj", "as_operator", "custom_obj", "token", "class_fqn"})
_BY_NAME = frozenset({"tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values"})
_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu", "meta"})
_NUMBERS = frozenset({"Infinity", "-Infinity", "NaN"})


def clean_model(
    model: dict[str, Any], file: str, trusted: frozenset[str]
) -> tuple[dict[str, Any], list[str]]:
    """Copy what is safe of a program's JSON, and refuse the file if anything is not.

    Args:
        model: the parsed `models/model.json`.
        file: what messages call the file.
        trusted: operator namespaces beyond torch's own that may be used.

    Returns:
        The program with flat inputs and outputs, and the names of its outputs in the structure that
        it had.

    Raises:
        UsageError: a string that matches no rule, a forbidden object, or a missing part.
    """
    cleaner = _Cleaner(file, trusted)
    try:
        inner = model["graph_module"]
        entries = inner["module_call_graph"]
        signature = cleaner.value(inner["signature"], "signature", 0)
        found = {
            "graph_module": {
                "graph": cleaner.value(inner["graph"], "graph", 0),
                "signature": signature,
                "module_call_graph": [_flat_entry(signature, entries, cleaner)],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": cleaner.value(model["opset_version"], "opset_version", 0),
            "range_constraints": cleaner.ranges(model["range_constraints"]),
            "schema_version": cleaner.value(model["schema_version"], "schema_version", 0),
            "verifiers": ["TRAINING"],
            "torch_version": cleaner.text(model.get("torch_version", "unknown"), "torch_version"),
            "guards_code": [],
        }
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as e:
        raise cleaner.refused(f"its graph is malformed ({e!r})") from e
    return found, _output_names(entries)


class _Cleaner:
    def __init__(self, file: str, trusted: frozenset[str]) -> None:
        self.file = file
        self.spaces = NAMESPACES | trusted

    def refused(self, reason: str) -> UsageError:
        return UsageError(
            f"{self.file} was refused: {reason}.",
            "Capture the model again with edgekit from a source that you trust.",
        )

    def value(self, value: Any, key: str, depth: int) -> Any:
        """Copy a JSON value; `key` is the name that it has in its parent."""
        if depth > 60:
            raise self.refused("its graph nests too deeply")
        if isinstance(value, dict):
            return self.mapping(value, key, depth)
        if isinstance(value, list):
            return [self.value(item, key, depth + 1) for item in value]
        if isinstance(value, str):
            return self.text(value, key)
        return value

    def mapping(self, value: dict[str, Any], key: str, depth: int) -> dict[str, Any]:
        if key == "metadata":
            return self.metadata(value)
        if key == "device" or key == "as_device":
            self.text(str(value.get("type")), "type")
            return {"type": "cpu", "index": None}
        found = {}
        if key in _BY_NAME:  # its keys are the user's names, which may be any word
            for name, child in value.items():
                if _NAME.fullmatch(name) is None or keyword.iskeyword(name):
                    raise self.refused(f"{name[:80]!r} is not a name")
                found[name] = self.value(child, "", depth + 1)
            return found
        for name, child in value.items():
            if name in _FORBIDDEN or (name == "custom_obj_values" and child):
                raise self.refused(f"it holds a script object or a callable ({name})")
            if _NAME.fullmatch(name) is None:
                raise self.refused(f"{name[:80]!r} is not a name")
            found[name] = self.value(child, name, depth + 1)
        return found

    def metadata(self, value: dict[str, Any]) -> dict[str, str]:
        """Keep the path of the user's module, which reports speak of; drop everything else."""
        stack = value.get("nn_module_stack")
        if not isinstance(stack, str) or _STACK.fullmatch(stack) is None:
            return {}
        return {"nn_module_stack": stack}

    def ranges(self, value: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, limits in sorted(value.items()):  # torch keeps them in the order of a set
            if not is_shape_expression(name):
                raise self.refused(f"{name[:80]!r} is not a shape expression")
            found[name] = {
                end: limits[end] if type(limits[end]) is int else None
                for end in ("min_val", "max_val")
            }
        return found

    def text(self, value: str, key: str) -> str:
        if not self.matches(value, key):
            what = {"target": "operator", "expr_str": "shape expression"}.get(key, key)
            hint = value[:80]
            raise self.refused(f"{hint!r} is not a known {what}")
        return value

    def matches(self, value: str, key: str) -> bool:
        match key:
            case "name" | "as_name":
                return value == "" or (
                    (_NAME.fullmatch(value) is not None and not keyword.iskeyword(value))
                    or value == "from"
                )
            case "target":
                return self.is_operator(value)
            case "expr_str":
                return is_shape_expression(value)
            case "parameter_name" | "buffer_name" | "tensor_constant_name" | "user_input_name":
                return _PATH.fullmatch(value) is not None
            case "as_string" | "as_strings":
                return len(value) <= 1000
            case "as_float" | "as_floats" | "as_float_lists" | "real" | "imag":
                return value in _NUMBERS
            case "type":
                return value in _DEVICES
            case "torch_version":
                return _VERSION.fullmatch(value) is not None
        return False

    def is_operator(self, target: str) -> bool:
        if target in _SYMBOLIC:
            return True
        found = _TARGET.fullmatch(target)
        if found is None or found["op"] in _DENIED or found["op"].startswith("__"):
            # `aten.__and__` and its like are operators; `__class__` is not.
            return found is not None and found["op"] in {"__and__", "__or__", "__xor__",
                "__lshift__", "__rshift__"} and found["space"] == "aten"  # fmt: skip
        if found["space"] not in self.spaces:
            raise UsageError(
                f"{self.file} needs operators of {found['space']!r} ({target}).",
                "Import the module that registers them: name it in `imports:`, or with `--import`.",
            )
        return True


def _flat_entry(signature: Any, entries: Any, cleaner: _Cleaner) -> dict[str, Any]:
    """The calling convention of the whole program, as flat tuples, made anew."""
    inputs = sum("user_input" in s or "constant_input" in s for s in signature["input_specs"])
    outputs = sum("user_output" in s for s in signature["output_specs"])
    names = (entries[0].get("signature") or {}).get("forward_arg_names")
    fits = isinstance(names, list) and len(names) == inputs
    if names and fits:
        names = [cleaner.text(name, "name") for name in names]
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tensors = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * inputs}
    keywords = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    results = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * outputs}
    call = {"type": "builtins.tuple", "context": "null", "children_spec": [tensors, keywords]}
    return {
        "fqn": "",
        "signature": {
            "inputs": [],
            "outputs": [],
            "in_spec": json.dumps([1, call]),
            "out_spec": json.dumps([1, results]),
            "forward_arg_names": names if fits else None,
        },
    }


def _output_names(entries: Any) -> list[str]:
    """Names of the outputs in another tool's file, read from its tree specification as text."""
    try:
        spec = json.loads(entries[0]["signature"]["out_spec"])[1]
        return _leaf_names(spec, "")
    except (KeyError, TypeError, ValueError, IndexError, RecursionError):
        return []


def _leaf_names(spec: Any, name: str) -> list[str]:
    if spec["type"] is None:
        return [name or "output"]
    children = spec["children_spec"]
    keys = json.loads(spec["context"]) if spec["type"].endswith(("dict", "Dict")) else None
    if isinstance(keys, list) and len(keys) == len(children):
        labels = [f"{name}_{key}" if name else str(key) for key in keys]
    elif len(children) == 1:
        labels = [name]
    else:
        labels = [f"{name or 'output'}_{i}" for i in range(len(children))]
    return [
        n for label, child in zip(labels, children, strict=True) for n in _leaf_names(child, label)
    ]
