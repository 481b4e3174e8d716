"""Storing a program as a `.pt2` file, and loading one without trusting it.

The file is an ordinary `torch.export` archive with edgekit's notes in `extra/edgekit.json`. It
holds no pickle, and the same program gives the same bytes in every process.
"""

import importlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch.export import ExportedProgram

from edgekit.artifact import TensorSpec
from edgekit.errors import PassError, UsageError
from edgekit.graph import flatten as flat
from edgekit.graph.archive import Archive, read_archive
from edgekit.graph.functionalise import functionalise
from edgekit.graph.model_json import NAMESPACES
from edgekit.graph.program import Program, assemble, input_nodes, output_nodes, retie_state, solve
from edgekit.graph.quiet import quiet
from edgekit.manifest import write_atomically


class Notes(BaseModel):
    """What edgekit writes beside the graph (`extra/edgekit.json`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    imports: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    ranges: dict[str, tuple[int, int]] = {}


_FIELDS = tuple(name for name in Notes.model_fields if name != "schema_version")


def save(program: Program, path: Path) -> None:
    """Write `program` to `path`, whole or not at all.

    Args:
        program: moved to the CPU in the file.
        path: ends in `.pt2`; its folder exists.

    Raises:
        UsageError: the folder cannot be written.
        PassError: torch cannot serialise the graph.
    """
    notes = Notes(**{name: getattr(program, name) for name in _FIELDS})
    buffer = io.BytesIO()
    spaces = _namespaces(program.exported) | NAMESPACES
    try:
        with quiet():
            torch.export.save(program.exported, buffer)
    except Exception as e:
        raise PassError(
            f"{path.name} cannot be written: {str(e).splitlines()[0][:300]}",
            "The graph holds something that torch.export does not serialise.",
        ) from e
    archive = read_archive(buffer.getvalue(), path.name, trusted=frozenset(spaces))
    archive.metadata = notes.model_dump(mode="json")
    _write(path, archive.to_bytes())


def load(path: Path, imports: Sequence[str] = ()) -> Program:
    """Load a `.pt2` file that may come from anywhere.

    Args:
        path: written by `save`, or by `torch.export.save` with plain tensors.
        imports: modules to import first, because they register custom operators. The file's own
            list is not imported: that would run code of the file's choice.

    Returns:
        The program, on the CPU.

    Raises:
        UsageError: the file is missing, broken, or holds something that could run code.
    """
    trusted = _import(imports)
    archive = read_archive(path, str(path), trusted=trusted)
    try:
        with quiet():
            exported = torch.export.load(io.BytesIO(archive.to_bytes()))
    except Exception as e:
        lines = [line for line in str(e).splitlines() if line.strip()]
        raise UsageError(
            f"{path} cannot be loaded: {type(e).__name__}: {lines[-1][:300] if lines else e!r}",
            "Make it again with this version of torch.",
        ) from e
    if not archive.metadata:
        return _foreign(exported, archive)
    try:
        notes = Notes.model_validate(archive.metadata)
        fits = len(notes.inputs) == len(input_nodes(exported)) and len(notes.outputs) == len(
            output_nodes(exported)
        )
    except ValidationError as e:
        raise UsageError(f"{path} has notes of another edgekit: {e}", "Make it again.") from e
    if not fits:
        raise UsageError(f"{path} names other inputs or outputs than its graph.", "Make it again.")
    retie_state(exported, notes.ties)
    _mend_symbols(exported)
    return Program(exported, **{name: getattr(notes, name) for name in _FIELDS})


def _foreign(exported: ExportedProgram, archive: Archive) -> Program:
    """A program of another tool: names come from its graph."""
    warnings_found = functionalise(exported)
    inputs = [flat.identifier(node.name) for node in input_nodes(exported)]
    outputs = archive.output_names
    count = len(output_nodes(exported))
    if len(outputs) != count:
        outputs = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    names = flat.unique([flat.identifier(name) for name in outputs], set(inputs))
    _mend_symbols(exported)
    symbols = _symbols(exported)
    program = assemble(exported, symbols, input_names=inputs, output_names=names)
    program.warnings = tuple(warnings_found)
    return program


def _symbols(exported: ExportedProgram) -> dict[str, str]:
    """Name the dimensions of a foreign program: the first axis is the batch."""
    found: dict[str, str] = {}
    for node in input_nodes(exported):
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                for symbol in size.node.expr.free_symbols:
                    free = axis == 0 and "batch" not in found.values()
                    found.setdefault(str(symbol), "batch" if free else f"dim_{len(found)}")
    return found


def _mend_symbols(exported: ExportedProgram) -> None:
    """Give each symbol its own size and range; torch's loader files them under `8*s1` instead.

    Lowering takes every entry for a symbol, and fails on one that is a product.
    """
    for node in input_nodes(exported):
        for size in node.meta["val"].shape:
            if not isinstance(size, torch.SymInt) or size.node.expr.is_Symbol:
                continue
            expression, known = size.node.expr, size.node.shape_env
            if len(expression.free_symbols) == 1:
                symbol, value = solve(size)
                known.backed_var_to_val.setdefault(symbol, value)
            known.var_to_range.pop(expression, None)


def _namespaces(exported: ExportedProgram) -> set[str]:
    return {
        node.target.namespace
        for node in exported.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }


def _import(imports: Sequence[str]) -> frozenset[str]:
    """Import what registers operators, and say which namespaces may now be used."""
    if not imports:
        return frozenset()
    for name in imports:
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise UsageError(
                f"Module {name!r}, which registers operators, cannot be imported: {e}.",
                "Install it, or put its folder on PYTHONPATH.",
            ) from e
    return frozenset(name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names())


def _write(path: Path, data: bytes) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} cannot be written: no such folder.", "Choose another.")
    try:
        write_atomically(path, data)
    except PermissionError as e:
        raise UsageError(f"{path.parent} cannot be written: {e}.", "Choose another folder.") from e
