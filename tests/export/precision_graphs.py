"""A small stage made by hand for the tests of precision: a network with a residual addition and a Concat, in glue."""

from functools import cache

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cascadert.export.lowering import run_passes
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.graph import Graph, TensorSpec
from cascadert.precision import QuantizationPlan, Range, StageCalibration

CHANNELS, CLASSES, SIZE = 16, 3, 12

# name, operator, inputs; every convolution reads weights `<name>.w` and a bias
_CONVOLUTIONS = {"stem": 3, "wide": CHANNELS, "residual": CHANNELS, "joined": 2 * CHANNELS, "head": CHANNELS}


def _nodes() -> list[onnx.NodeProto]:
    def convolution(name: str, source: str, made: str) -> onnx.NodeProto:
        weights = [f"{name}.w", f"{name}.b"]
        return helper.make_node("Conv", [source, *weights], [made], name=f"network/{made}", pads=[1, 1, 1, 1])

    def plain(kind: str, sources: list[str], made: str, place: str = "network", **attributes: int) -> onnx.NodeProto:
        return helper.make_node(kind, sources, [made], name=f"{place}/{made}", **attributes)

    return [
        plain("Cast", ["frame"], "cast", "glue", to=TensorProto.FLOAT),
        plain("Div", ["cast", "scale"], "pixels", "glue"),
        convolution("stem", "pixels", "stem_sum"),
        plain("Relu", ["stem_sum"], "stem"),
        convolution("wide", "stem", "wide_sum"),
        plain("Relu", ["wide_sum"], "wide"),
        convolution("residual", "wide", "residual_sum"),
        plain("Add", ["residual_sum", "stem"], "added"),
        plain("Relu", ["added"], "block"),
        plain("Concat", ["block", "stem"], "both", axis=1),
        convolution("joined", "both", "joined_sum"),
        plain("Relu", ["joined_sum"], "joined"),
        plain("Resize", ["joined", "", "factors"], "larger"),
        convolution("head", "larger", "logits"),
        plain("ArgMax", ["logits"], "best", "glue", axis=1, keepdims=0),
        plain("Cast", ["best"], "labels", "glue", to=TensorProto.UINT8),
        plain("ReduceMax", ["logits", "axes"], "peak", "glue", keepdims=0),
    ]


@cache
def stage_graph(dialect: str = "semantic", seed: int = 0) -> Graph:
    """`frame` uint8 `[2, 3, 12, 12]` to `labels` uint8 and `peak` float32 `[2, 24, 24]`."""
    rng = np.random.default_rng(seed)
    constants = {
        "scale": np.float32(64),
        "factors": np.float32([1, 1, 2, 2]),
        "axes": np.int64([1]),
    }
    for name, read in _CONVOLUTIONS.items():
        made = CLASSES if name == "head" else CHANNELS
        constants[f"{name}.w"] = (rng.standard_normal((made, read, 3, 3)) / np.sqrt(9 * read)).astype(np.float32)
        constants[f"{name}.b"] = rng.standard_normal(made).astype(np.float32) / 10
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [2, 3, SIZE, SIZE])
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [2, 2 * SIZE, 2 * SIZE]),
        helper.make_tensor_value_info("peak", TensorProto.FLOAT, [2, 2 * SIZE, 2 * SIZE]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    proto = helper.make_model(
        helper.make_graph(_nodes(), "stage", [frame], outputs, initializers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    proto = onnx.shape_inference.infer_shapes(proto)
    ports = (TensorSpec("frame", "uint8", (2, 3, SIZE, SIZE)),)
    sizes = (2, 2 * SIZE, 2 * SIZE)
    made_by = (TensorSpec("labels", "uint8", sizes), TensorSpec("peak", "float32", sizes))
    return Graph(proto.SerializeToString(), ports, made_by, dialect)  # type: ignore[arg-type]


def frames(seed: int = 1) -> np.ndarray:
    """Smooth random frames, uint8 `[2, 3, 12, 12]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 3, SIZE // 3, SIZE // 3), dtype=np.uint8)
    return coarse.repeat(3, axis=2).repeat(3, axis=3)


def session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(graph: Graph, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a graph by name, in ONNX Runtime."""
    made = session(graph.onnx).run(None, feeds or {"frame": frames()})
    return dict(zip([output.name for output in graph.outputs], made, strict=True))


@cache
def all_tensors() -> dict[str, np.ndarray]:
    """Every float32 tensor of the stage by name, on `frames()`."""
    model = onnx.load_model_from_string(stage_graph().onnx)
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(v for v in known.values() if v.type.tensor_type.elem_type == TensorProto.FLOAT)
    runner = session(model.SerializeToString())
    made = runner.run(None, {"frame": frames()})
    return {o.name: value for o, value in zip(runner.get_outputs(), made, strict=True) if value.dtype == np.float32}


def min_max() -> dict[str, Range]:
    """Range of every tensor."""
    return {name: (float(min(a.min(), 0)), float(max(a.max(), 0))) for name, a in all_tensors().items()}


def calibration(**keep: str) -> StageCalibration:
    """Min-max plans for both dialects; `keep` names operators that stay in floating point, with the reason."""
    plan = QuantizationPlan(calibrator="min-max", ranges=min_max(), keep=keep)
    peaks = {name: float(np.abs(a).max()) for name, a in all_tensors().items()}
    return StageCalibration(peaks=peaks, int8={"tensorrt": plan, "cpu": plan})


def passed(graph: Graph, *steps: object) -> Graph:
    """The graph after some passes."""
    model = model_from_graph(graph)
    run_passes(model, steps)  # type: ignore[arg-type]
    return graph_from_model(model, graph.dialect)


def nodes(graph: Graph, *kinds: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_model_from_string(graph.onnx).graph.node if node.op_type in kinds]


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    error = float(np.square(wanted - found, dtype=np.float64).sum())
    return float("inf") if error == 0 else 10 * np.log10(float(np.square(wanted, dtype=np.float64).sum()) / error)
