"""ONNX Runtime's own format, for its small builds on phones and boards.

A reduced build holds only the operators that a list names; the list is read from the `.ort` file,
whose operators are those that run, after fusion.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.errors import PassError

# Blocked layouts of x86: with them the file would not run on other processors.
NOT_PORTABLE = ["NchwcTransformer"]


@dataclass(frozen=True)
class Mobile:
    """How much of a network an accelerator of phones takes, by ONNX Runtime's own tables.

    Attributes:
        provider: `NNAPI` (Android), or Core ML in one of its two forms.
        verdict: `yes`, `maybe` or `no`: is it worth trying, as the file is?
        verdict_fixed: the same if every input had a fixed shape.
        nodes: of the network.
        supported: nodes that the provider takes, as the file is.
        partitions: into how many pieces they fall; each boundary copies.
        unsupported: operators that it does not take.
        caveats: conditions of its operators that were not checked.
    """

    provider: str
    verdict: str
    verdict_fixed: str
    nodes: int
    supported: int
    partitions: int
    unsupported: tuple[str, ...]
    caveats: tuple[str, ...]


def write_ort(src: Path, dst: Path) -> str:
    """Write an ONNX file in ONNX Runtime's format, optimized for any CPU.

    Returns:
        ONNX Runtime's name and version.

    Raises:
        PassError: ONNX Runtime does not take the file, or cannot write it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(dst)
    options.add_session_config_entry("session.save_model_format", "ORT")
    # As ONNX Runtime's own converter has it, unless it is told that the file is for arm alone.
    options.add_session_config_entry("session.qdqisint8allowed", "0")
    try:
        ort.InferenceSession(
            str(src),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=NOT_PORTABLE,
        )
    except Exception as e:  # the library's errors have no common base
        raise PassError(
            f"ONNX Runtime cannot write {src} in its format: {str(e).strip().splitlines()[0]}",
            "Look at the operator that the message names; the format ends at 2 GiB.",
        ) from e
    return f"ONNX Runtime {ort.__version__}"


def required_operators(model: Path) -> dict[str, tuple[str, ...]]:
    """The operators in a `.ort` file, by `domain;opset` as a reduced build's list has them."""
    found: dict[str, dict[int, set[str]]] = {}
    with _quiet_tools():
        from onnxruntime.tools.ort_format_model import OrtFormatModelProcessor

        OrtFormatModelProcessor(str(model), found, None).process()
    return {
        f"{domain};{opset}": tuple(sorted(names))
        for domain, opsets in sorted(found.items())
        for opset, names in sorted(opsets.items())
        if names
    }


def mobile_report(src: Path) -> tuple[tuple[Mobile, ...], tuple[str, ...]]:
    """Ask ONNX Runtime's usability checker about phones.

    Args:
        src: the ONNX file.

    Returns:
        One entry for each accelerator; and warnings: the checker does not take every network, and
        the `.ort` file is good without it.
    """
    try:
        with _quiet_tools(), tempfile.TemporaryDirectory() as folder:
            from onnxruntime.tools import onnx_model_utils as utils
            from onnxruntime.tools.mobile_helpers import usability_checker as checker

            optimized = Path(folder) / "model.onnx"
            utils.optimize_model(src, optimized, use_external_initializers=True)
            model = utils.ModelProtoWithShapeInfo(optimized).model_with_shape_info
            return (
                _mobile("NNAPI", partial(checker.check_nnapi_partitions, model)),
                *(
                    _mobile(f"CoreML {form}", partial(_ask_coreml, checker, model, form))
                    for form in ("NeuralNetwork", "MLProgram")
                ),
            ), ()
    except Exception as e:  # noqa: BLE001 - whatever it stumbles on, the file is usable without it
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        return (), (f"ONNX Runtime's mobile checker does not take the network: {reason}",)


def _ask_coreml(checker: Any, model: Any, form: str, need_fixed: bool) -> Any:
    return checker.check_coreml_partitions(
        model, need_fixed, f"coreml_supported_{form.lower()}_ops.md"
    )


def _mobile(provider: str, ask: Callable[[bool], Any]) -> Mobile:
    """Ask about the network as it is (fixed shapes are needed), and as if they were fixed."""
    now, fixed = ask(True), ask(False)
    return Mobile(
        provider=provider,
        verdict=now.suitability().name.lower(),
        verdict_fixed=fixed.suitability().name.lower(),
        nodes=now.num_nodes,
        supported=now.num_supported_nodes,
        partitions=now.num_partitions,
        unsupported=tuple(sorted(now.unsupported_ops)),
        caveats=tuple(now.supported_ops_checker.get_caveats()),
    )


@contextmanager
def _quiet_tools() -> Iterator[None]:
    """Take back what ONNX Runtime's tools do to a process: a root log handler, files left open."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            root.handlers[:] = handlers
