"""Post-training quantization: a float32 ONNX file becomes an int8 one in a target's own form.

NNCF is the engine: it chooses what to quantize, finds ranges, rounds weights and writes Q/DQ.
What it lacks for ONNX is done here: ranges by percentile, squared error and divergence
(`edgekit.quantize.ranges`), biases (`bias`), equalization (`equalize`), AdaRound (`adaround`).
Two dialects are made from what NNCF writes, because each is what measured best on its runtime:

- ONNX Runtime (`ort-x86-avx2`, `ort-x86-vnni`, `ort-arm64`): NNCF's placement as it is. On a
  ResNet-8 it turns every convolution, add and pooling into integer kernels; leaving out the adds
  makes the network slower than float32. Mended: one scale per activation, one dtype, and an integer
  bias for a Gemm whose output stays in float (`edgekit.quantize.dialect`).
- TensorRT: NNCF's weights, our placement, symmetric scales
  (`edgekit.quantize.placement`). ONNX Runtime's `quantize_static` can write symmetric int8 too, but
  it puts pairs on outputs and between convolutions and adds, and corrects no bias.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import PassError
from edgekit.lower import check
from edgekit.progress import Progress, Silent
from edgekit.quantize import (
    adaround,
    bias,
    calibration,
    dialect,
    engine,
    equalize,
    floats,
    lint,
    mend,
    placement,
    ranges,
    reuse,
    scales,
)
from edgekit.quantize.config import PtqConfig
from edgekit.quantize.graph import RECURRENT, Graph
from edgekit.quantize.prepare import exclusions, matching, prepare
from edgekit.quantize.shorten import shorten

if TYPE_CHECKING:
    import onnx

    from edgekit.target import IntegerScheme

_CHECKED = 16
_NOISY_DB = 10.0


@dataclass(frozen=True)
class QuantReport:
    """What was quantized, what was not, and how much noise it added.

    Attributes:
        scheme: the integer scheme's name.
        engine: the library and its version.
        quantized: layers (convolutions, matrix products with weights, recurrent cells) in int8.
        total: all of them.
        layers: names of the quantized ones.
        excluded: (node, reason) of the others.
        samples: calibration samples used.
        output_sqnr_db: signal to quantization noise ratio of each output on calibration samples,
            decibels; None where the outputs are equal.
        bias_uncorrected: quantized layers that have no place for a correction.
        post_passes: what was mended after NNCF, and in how many places.
        size_bytes: of the file written.
        float_size_bytes: of the file read.
        warnings: what the user should know.
    """

    scheme: str
    engine: str
    quantized: int
    total: int
    layers: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    samples: int
    output_sqnr_db: dict[str, float | None]
    bias_uncorrected: tuple[str, ...]
    post_passes: dict[str, int]
    size_bytes: int
    float_size_bytes: int
    warnings: tuple[str, ...] = field(default=())


def quantize_onnx(
    src: Path,
    dst: Path,
    *,
    scheme: "IntegerScheme",
    calibration: Iterable[Mapping[str, NDArray[Any]]],
    config: PtqConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    earlier: Path | None = None,
) -> QuantReport:
    """Quantize an ONNX file to int8.

    Args:
        src: float32 model.
        dst: the file to write; whole or not at all.
        scheme: how integers are written.
        calibration: batches of inputs by name, read once.
        config: what to quantize and how.
        seed: for the libraries' global generators.
        progress: where to say how far it is.
        earlier: the file made with the same configuration but fewer excluded layers: its ranges
            and weights are taken over (`edgekit.quantize.reuse`). None quantizes afresh.

    Returns:
        What was done.

    Raises:
        UsageError: no calibration data, data that does not fit or holds NaN, or an `exclude`
            pattern that matches nothing.
        UnavailableError: NNCF is not installed.
        PassError: NNCF failed, or the result breaks the scheme.
    """
    from edgekit.graph.onnx_model import read_onnx, specs, write_onnx

    config = config or PtqConfig()
    shown: Progress = Silent() if progress is None else progress
    np.random.seed(seed)  # noqa: NPY002 - NNCF draws from the global generator
    model, warnings = prepare(read_onnx(src))
    ignored = exclusions(model, config, scheme)
    inputs, _ = specs(model)
    if config.smooth_quant_alpha is not None:
        earlier = None  # the weights depend on the samples, through the layers that are left out
    before = None if earlier is None else Graph(read_onnx(earlier))
    with read_samples(inputs, calibration, config, shown, warnings) as samples:
        done: dict[str, int] = {}
        original = model
        if config.equalize:
            with shown.task("equalize", None):
                model, done = equalize.equalize(model, samples.first(_CHECKED))
        with shown.task("quantize", None):
            # TensorRT's activations get ranges of their own: NNCF's are taken out.
            few = scheme.skip_input_of_add and config.smooth_quant_alpha is None
            seen = 1 if few or before is not None else len(samples)
            made = engine.quantize(model, samples, config, _options(scheme), sorted(ignored), seen)
            done |= _mend(model, made, scheme, samples, config, before)
        if before is None:
            _round(model, made, samples, config, seed, shown, done)
        elif count := reuse.take_weights(Graph(made), before):
            done["layers rounded by their output"] = count
        uncorrected = _correct(model, made, samples, config, shown, done)
        if scheme.quantize_bias and (count := dialect.integer_gemm_bias(Graph(made))):
            done["Gemm biases to int32"] = count
        shorten(Graph(made))
        if floats.concerns(scheme) and (kept := floats.keep(Graph(made))):
            done["layers kept in float for ONNX Runtime"] = len(kept)
        _lint(made, scheme)
        sqnr = noise_db(original, made, samples)
    warnings += [
        f"Output {name!r} has a signal to noise ratio of {value} dB: most of it is noise."
        for name, value in sqnr.items()
        if value is not None and value < _NOISY_DB
    ]
    write_onnx(made, dst)
    return _report(
        original,
        made,
        scheme,
        ignored,
        uncorrected,
        samples.count,
        sqnr,
        done,
        (src, dst),
        warnings,
    )


def read_samples(
    inputs: Any,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    config: PtqConfig,
    progress: Progress,
    warnings: list[str],
) -> calibration.Samples:
    """Read and check calibration samples; what is odd about them is added to `warnings`."""
    samples = calibration.Samples(inputs)
    try:
        with progress.task("read calibration samples", config.samples) as task:
            samples.read(batches, config.samples, task)
    except BaseException:
        samples.close()
        raise
    if "samples" in config.model_fields_set and samples.count < config.samples:
        warnings.append(
            f"{samples.count} calibration samples were used; {config.samples} were asked for."
        )
    if samples.count == 1:
        warnings.append("There is one calibration sample: ranges taken from it say little.")
    warnings += [
        f"Input {name!r} is constant over all calibration samples: so is its range."
        for name in samples.constant
        if samples.count > 1
    ]
    return samples


def _options(scheme: "IntegerScheme") -> engine.EngineOptions:
    return engine.EngineOptions(
        symmetric=scheme.activation_symmetric, seven_bit_weights=scheme.weight_bits == 7
    )


def _round(
    model: "onnx.ModelProto",
    made: "onnx.ModelProto",
    samples: calibration.Samples,
    config: PtqConfig,
    seed: int,
    progress: Progress,
    done: dict[str, int],
) -> None:
    if not config.adaround:
        return
    only = None
    if not isinstance(config.adaround, bool):
        only = matching(model, config.adaround, "adaround")
    with progress.task("round weights", 1.0) as task:
        count = adaround.adaround(
            model, made, samples.first(config.bias_samples), only=only, seed=seed,
            advance=task.advance,
        )  # fmt: skip
    if count:
        done["layers rounded by their output"] = count


def _mend(
    model: "onnx.ModelProto",
    made: "onnx.ModelProto",
    scheme: "IntegerScheme",
    samples: calibration.Samples,
    config: PtqConfig,
    before: Graph | None,
) -> dict[str, int]:
    """Turn what NNCF wrote into the scheme, in place; what was done, in how many places."""
    graph = Graph(made)
    known = {} if before is None else reuse.levels(before)
    if scheme.skip_input_of_add:
        done = {"activation pairs taken out": placement.strip_activations(graph)}
        where = placement.places(graph)
        new = tuple(name for name in where if name not in known)
        found = _limits(model, made, new, samples, config, symmetric=True)
        magnitudes = {name: max(-low, high) for name, (low, high) in found.items()}
        magnitudes |= {n: float(known[n][0]) * placement.LEVELS for n in where if n in known}
        done["symmetric int8 pairs placed"] = placement.insert(graph, where, magnitudes)
    else:
        done = _mend_for_onnxruntime(model, graph, scheme, samples, config, known)
    if scheme.activation_symmetric and not scheme.skip_input_of_add:
        done |= mend.to_symmetric(graph, scheme)
    made.graph.ClearField("value_info")
    return {what: count for what, count in done.items() if count}


def _mend_for_onnxruntime(
    model: "onnx.ModelProto",
    graph: Graph,
    scheme: "IntegerScheme",
    samples: calibration.Samples,
    config: PtqConfig,
    known_levels: reuse.Levels,
) -> dict[str, int]:
    dtype, symmetric = scheme.activation, scheme.activation_symmetric
    done = {
        "activations to one scale": dialect.one_scale_per_activation(graph),
        "pairs shared": dialect.one_pair_per_activation(graph),
        f"activations to {dtype}": dialect.activation_dtype(graph, dtype),
    }
    tensors: tuple[str, ...] = ()
    if known_levels:
        tensors = reuse.take_levels(graph, known_levels)
    elif config.ranges not in engine.RANGES:
        known_tensors = {o for n in model.graph.node for o in n.output}
        known_tensors |= {i.name for i in model.graph.input}
        tensors = scales.quantized_tensors(graph, known_tensors)
    if tensors:
        found = _limits(model, graph.model, tensors, samples, config, symmetric=symmetric)
        done[f"ranges by {config.ranges}"] = scales.set_ranges(graph, found, symmetric=symmetric)
    where, known = dialect.between_integers(graph, dtype)
    done["pairs between integers"] = placement.insert_pairs(graph, where, known)
    where = dialect.float_convolution_outputs(graph)
    pairs = {n: known_levels[n] for n in where if n in known_levels}
    new = tuple(n for n in where if n not in pairs)
    found = _limits(model, graph.model, new, samples, config, symmetric=symmetric)
    pairs |= {n: dialect.parameters(*limits, dtype, symmetric) for n, limits in found.items()}
    done["convolution outputs quantized"] = placement.insert_pairs(graph, where, pairs)
    where, known = dialect.between_integers(graph, dtype)
    done["pairs between integers"] += placement.insert_pairs(graph, where, known)
    if scheme.weight_bits == 7:
        done["shared weights to 7 bits"] = dialect.seven_bit_weights(graph)
    return done


def _correct(
    model: "onnx.ModelProto",
    made: "onnx.ModelProto",
    samples: calibration.Samples,
    config: PtqConfig,
    progress: Progress,
    done: dict[str, int],
) -> list[str]:
    if not config.bias_correction:
        return []
    with progress.task("correct biases", 1.0) as task:
        count, left = bias.correct(model, made, samples.first(config.bias_samples), task.advance)
    if count:
        done["biases corrected"] = count
    return left


def _limits(
    model: "onnx.ModelProto",
    made: "onnx.ModelProto",
    tensors: tuple[str, ...],
    samples: calibration.Samples,
    config: PtqConfig,
    *,
    symmetric: bool,
) -> "dict[str, ranges.Limits]":
    """The range of each tensor over the calibration samples.

    Tensors that the engine added (scaled inputs of SmoothQuant) are looked at in its own model.
    """
    inputs = {i.name for i in model.graph.input}.intersection(tensors)
    inner = tuple(name for name in tensors if name not in inputs)
    known = {o for n in model.graph.node for o in n.output}
    source = model if known.issuperset(inner) else made
    found: dict[str, ranges.Limits] = {}
    if inner:
        # Unoptimized: ONNX Runtime's NCHWc fusions remove tensors that are outputs.
        runner = check.onnx_runner(bias.watch(source, inner), optimize=False)
        found = ranges.estimate(runner, samples, config, symmetric=symmetric)
    if inputs:
        found |= ranges.estimate(
            lambda feed: {name: feed[name] for name in inputs}, samples, config, symmetric=symmetric
        )
    return found


def _lint(model: "onnx.ModelProto", scheme: "IntegerScheme") -> None:
    errors = [f for f in lint.lint(model, scheme) if f.severity == "error"]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise PassError(
            f"The quantized model breaks scheme {scheme.name} at {first.node!r}: "
            f"{first.message}{more}",
            f"{first.mend} Exclude the layer (`exclude:`) to go on.",
        )


def noise_db(
    model: "onnx.ModelProto", made: "onnx.ModelProto", samples: calibration.Samples
) -> dict[str, float | None]:
    """Signal to noise ratio of each output on the first samples, decibels; None where equal."""
    feeds = samples.first(_CHECKED)
    reference, other = (check.onnx_runner(m.SerializeToString()) for m in (model, made))
    found = calibration.signal_to_noise_db(reference, other, feeds)
    return {name: round(v, 2) if np.isfinite(v) else None for name, v in found.items()}


def _report(
    model: "onnx.ModelProto",
    made: "onnx.ModelProto",
    scheme: "IntegerScheme",
    ignored: Mapping[str, str],
    uncorrected: list[str],
    count: int,
    sqnr: dict[str, float | None],
    done: dict[str, int],
    files: tuple[Path, Path],
    warnings: list[str],
) -> QuantReport:
    before, quantized = Graph(model), {n.name for n in placement.layers(Graph(made))}
    names, excluded = [], []
    for node in before.nodes:
        recurrent = node.op_type in RECURRENT
        if not recurrent and before.weight(node) is None:
            continue
        names.append(node.name)
        if node.name in quantized:
            continue
        why = f"{node.op_type} has no static int8 kernel" if recurrent else "NNCF left it in float"
        excluded.append((node.name, ignored.get(node.name, why)))
    if not quantized:
        warnings.append("No layer was quantized.")
    return QuantReport(
        scheme=scheme.name,
        engine=f"nncf {engine.version()}",
        quantized=len(quantized),
        total=len(names),
        layers=tuple(n for n in names if n in quantized),
        excluded=tuple(excluded),
        samples=count,
        output_sqnr_db=sqnr,
        bias_uncorrected=tuple(uncorrected),
        post_passes=done,
        size_bytes=files[1].stat().st_size,
        float_size_bytes=files[0].stat().st_size,
        warnings=tuple(warnings),
    )
