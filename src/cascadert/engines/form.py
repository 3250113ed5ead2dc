"""The form that a stage takes in one precision for one builder: its graph, and what the builder is told besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascadert.engines.facts import BackendFacts
from cascadert.engines.lint import check_graph
from cascadert.engines.profiles import Target
from cascadert.errors import TargetError
from cascadert.graph import Graph
from cascadert.precision import FP16_SCALES_OPSET, Numerics, Precision, StageCalibration, numerics_of


@dataclass(frozen=True)
class StageForm:
    """How one stage is lowered and checked.

    Where a builder is strongly typed, precision is in the graph alone. Where it is not, the graph of fp16 is that of
    fp32 and flags say the rest; int8 is in the graph either way.
    """

    subject: str
    precision: Precision
    target: Target
    facts: BackendFacts
    calibration: StageCalibration | None

    def lower(self, graph: Graph) -> Graph:
        """Lower a semantic graph, and check it against what the target takes.

        Raises:
            BuildError: an operator that the target's parser refuses, or takes wrongly.
            TargetError: int8 that calibration left nothing of.
            GraphError: int8 without a calibration.
            PassError: an operator that has no form there.
        """
        lowered = self.unchecked(graph)
        if self.precision == "int8" and _has_network(lowered) and not _is_quantized(lowered):
            remedy = f"build it in {self._other}, as in --precision int8,NAME={self._other}"
            raise TargetError(f"{self.subject} in int8", self._why_nothing, remedy)
        check_graph(self.subject, lowered, self.facts, self.target.compute_capability)
        return lowered

    def unchecked(self, graph: Graph) -> Graph:
        """Lower a semantic graph, and do not ask whether the target takes it."""
        from cascadert.export.precision import lower_to

        dialect: Literal["onnxruntime", "tensorrt"] = "onnxruntime" if self._on_cpu else "tensorrt"
        rest: Literal["fp32", "fp16"] = "fp16" if self._half_beside_int8 else "fp32"
        return self._in_opset(lower_to(graph, dialect, self._numerics, self.calibration, rest))

    def flags(self, graph: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the builder's flags, and the operators of a lowered graph that it must keep in float32."""
        from cascadert.export.precision import float32_operators

        if self.precision == "tf32":
            return ("TF32",), ()
        if self.facts.strongly_typed or self.precision == "fp32":
            return (), ()
        # A builder that may use int8 and finds no Q/DQ asks for a calibrator.
        integer = ("INT8",) if self.precision == "int8" and _is_quantized(graph) else ()
        if self.precision == "int8" and not self._fast_half:
            return integer, ()
        return (*integer, "FP16"), float32_operators(graph, self.calibration)

    def _in_opset(self, graph: Graph) -> Graph:
        """Convert a graph that is newer than the parser."""
        from cascadert.export.onnx_io import model_from_graph
        from cascadert.export.opset import to_opset
        from cascadert.export.passes.older_opset import opset_of

        return to_opset(graph, min(opset_of(model_from_graph(graph)), self.facts.opset))

    @property
    def _why_nothing(self) -> str:
        """Why no operator is in int8."""
        plan = None if self.calibration is None else self.calibration.int8.get("cpu" if self._on_cpu else "tensorrt")
        if plan is not None and plan.keep:
            return f"calibration kept all of it in floating point ({next(iter(plan.keep.values()))})"
        return "its network has no convolution that int8 would make faster"

    @property
    def _other(self) -> str:
        return "fp32" if self._on_cpu or not self._fast_half else "fp16"

    @property
    def _on_cpu(self) -> bool:
        return self.facts.name == "onnxruntime"

    @property
    def _numerics(self) -> Numerics:
        """Those of the graph."""
        if self.precision == "fp16" and not self.facts.strongly_typed:
            return "fp32"
        return numerics_of(self.precision, self._on_cpu)

    @property
    def _fast_half(self) -> bool:
        return "fp16" in self.target.with_speed("fast")

    @property
    def _half_beside_int8(self) -> bool:
        typed = self.facts.strongly_typed and not self._on_cpu
        return typed and self._fast_half and self.facts.opset >= FP16_SCALES_OPSET


def _has_network(graph: Graph) -> bool:
    """Whether a stage computes anything that has a precision: the mean of an ensemble is glue, and stays float32."""
    from cascadert.export.network import network_nodes
    from cascadert.export.onnx_io import model_from_graph

    return bool(network_nodes(model_from_graph(graph)))


def _is_quantized(graph: Graph) -> bool:
    from cascadert.export.onnx_io import model_from_graph

    return any(node.op_type == "QuantizeLinear" for node in model_from_graph(graph).graph)
