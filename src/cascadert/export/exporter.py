"""From a stage in PyTorch to its semantic graph in ONNX."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from cascadert.errors import CascadertError, ExportError, PassError
from cascadert.export.functions import add_functions, translation_table
from cascadert.export.lowering import finish_passes, run_passes
from cascadert.export.onnx_io import graph_from_model
from cascadert.export.passes.adaptive_pool import SpecialiseAdaptivePool
from cascadert.export.passes.base import describe
from cascadert.export.passes.clean_up import CleanUp
from cascadert.export.passes.max_unpool import UnpoolWithoutIndices
from cascadert.export.passes.network_boundary import MarkNetworkBoundary, NameNetworkBoundary
from cascadert.export.passes.prelu import ScalarPReluToLeakyRelu
from cascadert.export.passes.reduction import StripReductionNone
from cascadert.export.passes.resize_by_scales import ResizeByScales
from cascadert.graph import Graph

# What PyTorch's exporter emits natively: any other version goes through a converter, and lower is more portable.
# TensorRT 8.x takes 17 at most and gets a conversion of its own.
OPSET = 18

# By input name and axis, the name of the size that may change.
DynamicAxes = Mapping[str, Mapping[int, str]]

_CHATTY_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says about itself; warnings that a network's own code raises pass through."""
    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _quiet_failure() -> Iterator[None]:
    """Drop what goes to stderr if the body fails: PyTorch prints its whole graph there, and our error says enough."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        yield
    sys.stderr.write(said.getvalue())


def _innermost(error: BaseException) -> str:
    """Return the first line that says something of the error everything else was raised from."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _axis(name: str, axis: int, label: str) -> str:
    return f"dynamic axis {axis} ('{label}') of input '{name}'"


def _check_request(inputs: Mapping[str, Tensor], outputs: Sequence[str], dynamic: DynamicAxes) -> None:
    for name in set(outputs) & set(inputs):
        raise ExportError(f"output '{name}'", "an input has the same name", "rename one; ONNX names each tensor once")
    for name, axes in dynamic.items():
        if name not in inputs:
            raise ExportError(f"dynamic['{name}']", f"inputs are {', '.join(inputs)}", "name one of them")
        for axis, label in axes.items():
            size = inputs[name].shape[axis]
            if size < 2:
                found = f"the example has size {size} there, which PyTorch would fix for good"
                raise ExportError(_axis(name, axis, label), found, "give an example of 2 or more")


def _capture(module: nn.Module, inputs: Mapping[str, Tensor], dynamic: DynamicAxes) -> torch.export.ExportedProgram:
    """Trace `module`; the same name means the same size wherever it appears."""
    sizes = {label: torch.export.Dim(label) for axes in dynamic.values() for label in axes.values()}
    shapes = tuple(
        {axis: sizes[label] for axis, label in dynamic[name].items()} if name in dynamic else None for name in inputs
    )
    parameters = inspect.signature(module.forward).parameters.values()
    takes_any_number = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    nested = (shapes,) if takes_any_number else shapes  # torch.export counts *args as one argument
    try:
        with _quiet_failure():
            return torch.export.export(module, tuple(inputs.values()), dynamic_shapes=nested, strict=False)
    except CascadertError:
        raise
    except Exception as error:
        remedy = "make the network traceable by torch.export (no control flow that depends on tensor values)"
        raise ExportError(f"module '{type(module).__name__}'", _innermost(error), remedy) from error


def _translate(
    program: torch.export.ExportedProgram, module: nn.Module, names: Sequence[str], outputs: Sequence[str]
) -> ir.Model:
    try:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            custom_translation_table=translation_table(),
            optimize=False,
            verbose=False,
        )
    except Exception as error:
        remedy = "replace the operator by one that ONNX has"
        raise ExportError(f"module '{type(module).__name__}'", _innermost(error), remedy) from error
    if onnx_program is None:
        raise ExportError(f"module '{type(module).__name__}'", "PyTorch exported nothing", "report this network")
    model: ir.Model = onnx_program.model
    return model


def _name_axes(model: ir.Model, dynamic: DynamicAxes) -> None:
    """Put the caller's names in the place of PyTorch's symbols (`s37`), in expressions too."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, label in dynamic.get(value.name or "", {}).items():
            size = value.shape[axis] if value.shape is not None else None
            if isinstance(size, int) or size is None or size.value is None:
                found = f"PyTorch fixed it at {size} while tracing"
                raise ExportError(_axis(str(value.name), axis, label), found, "do not branch on it")
            names[size.value] = label
    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names))
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values if names else ():
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None and value.shape is not None:
                value.shape[axis] = pattern.sub(lambda match: names[match[0]], size.value)


def semantic_passes(boundary: bool = True) -> list[ir.passes.PassBase]:
    """Return what turns PyTorch's export into the semantic graph, with a `boundary` around its network or without."""
    return [
        *([MarkNetworkBoundary()] if boundary else []),
        CleanUp(),
        common.ShapeInferencePass(),
        SpecialiseAdaptivePool(),
        UnpoolWithoutIndices(),
        ScalarPReluToLeakyRelu(),
        ResizeByScales(),
        StripReductionNone(),
        CleanUp(),
        NameNetworkBoundary(),
        *finish_passes(),
    ]


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: DynamicAxes | None = None,
) -> ir.Model:
    """Translate `module` without any pass: standard ONNX, and calls of the functions in `cascadert.export.functions`.

    Arguments and errors are those of `export_graph`.
    """
    dynamic = dynamic or {}
    _check_request(inputs, outputs, dynamic)
    with _quiet():
        program = _capture(module.eval(), inputs, dynamic)
        model = _translate(program, module, list(inputs), list(outputs))
    if len(model.graph.outputs) != len(outputs):
        found = f"the module returns {len(model.graph.outputs)} tensors"
        raise ExportError(f"outputs {', '.join(outputs)}", found, "name each of them")
    _name_axes(model, dynamic)
    add_functions(model)
    return model


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: DynamicAxes | None = None,
) -> Graph:
    """Export a stage: standard ONNX of opset 18 that ONNX Runtime runs as it is.

    Args:
        module: the stage; it is put into evaluation mode. Its attribute `network`, if it has one, is the bare network:
            the tensors that enter and leave it are named `pixels` and `logits` in the graph. One without weights is
            glue: it has no such tensors, and computes in float32 in every precision.
        inputs: an example of each input of `forward`, by its name in the graph, in order. An axis that is to be
            dynamic must have a size of 2 or more.
        outputs: a name for each tensor that `forward` returns, in order.
        dynamic: the name of each dynamic axis, by input and axis: `{"indices": {0: "n"}}`.

    Raises:
        ExportError: PyTorch cannot trace the module or translate one of its operators.
        PassError: an operator has no portable form; names the node and the module it came from.
        GraphError: the result breaks ONNX's rules.
    """
    model = trace(module, inputs, outputs, dynamic)
    with _quiet():
        run_passes(model, semantic_passes(_has_weights(module)))
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            raise PassError(describe(node), f"is of the domain '{node.domain}'", "use operators of standard ONNX")
    graph = graph_from_model(model, "semantic")
    _check_ports(graph, inputs, dynamic or {})
    return graph


def _has_weights(module: nn.Module) -> bool:
    network = getattr(module, "network", None)
    return not isinstance(network, nn.Module) or bool(network.state_dict())


def _check_ports(graph: Graph, inputs: Mapping[str, Tensor], dynamic: DynamicAxes) -> None:
    for spec, (name, example) in zip(graph.inputs, inputs.items(), strict=True):
        expected = tuple(dynamic.get(name, {}).get(axis, size) for axis, size in enumerate(example.shape))
        if (spec.name, spec.shape) != (name, expected):
            raise ExportError(f"input '{name}' {list(expected)}", f"was exported as {spec}", "report this network")
