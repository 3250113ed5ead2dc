"""ONNX Runtime sessions for graphs that are no stage of a pipeline: parts of stages, and networks on their own."""

from __future__ import annotations

from typing import Any

from cascadert.errors import GraphError, import_extra


def open_session(name: str, content: bytes, threads: int = 0, optimize: bool = True) -> Any:
    """Load an ONNX model on the CPU as an `onnxruntime.InferenceSession`.

    Args:
        name: what the graph is, for errors.
        content: the ONNX model.
        threads: of ONNX Runtime; 0 leaves the choice to it.
        optimize: false computes every tensor as the graph says, for those who look at all of them.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses the graph.
    """
    ort = import_extra("onnxruntime", "cpu", "to calibrate")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    # Many sessions live side by side here, and each would keep the most that it ever needed.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise GraphError(name, f"ONNX Runtime refuses its graph: {error}", "report this network") from error
