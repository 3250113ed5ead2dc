from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

Feeds = Mapping[str, np.ndarray]


def copy_of(model: ir.Model) -> ir.Model:
    return ir.serde.deserialize_model(ir.serde.serialize_model(model))


def execute(model: ir.Model, feeds: Feeds) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


@pytest.fixture
def onnx_text() -> Callable[[str], ir.Model]:
    """Parse ONNX's text form: `agraph (float[2] x) => (float[2] y) { y = Relu(x) }`, with inferred types."""

    def parse(graph: str) -> ir.Model:
        model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 18, "cascadert" : 1]> {graph}')
        return ir.passes.common.ShapeInferencePass()(model).model

    return parse


@pytest.fixture
def run_model() -> Callable[[ir.Model, Feeds], list[np.ndarray]]:
    """Run a model in ONNX Runtime."""
    return execute


@pytest.fixture
def apply_checked() -> Callable[..., ir.Model]:
    """Apply a pass and hold it to its contract: true `modified`, same values in ONNX Runtime, nothing left to do."""

    def apply(step: Any, model: ir.Model, feeds: Feeds, *, modified: bool = True, atol: float = 0.0) -> ir.Model:
        before = execute(copy_of(model), feeds)
        serialized = ir.serde.serialize_model(model).SerializeToString()
        assert step(model).modified is modified
        changed = ir.serde.serialize_model(model).SerializeToString() != serialized
        assert changed is modified, "the flag and the graph disagree"
        for old, new in zip(before, execute(copy_of(model), feeds), strict=True):
            assert old.dtype == new.dtype
            assert old.shape == new.shape
            np.testing.assert_allclose(new, old, rtol=0, atol=atol)
        assert step(model).modified is False, "a second run found something to do"
        return model

    return apply


@pytest.fixture
def op_types() -> Callable[[ir.Model], list[str]]:
    """List a model's operators, without constants."""
    return lambda model: [node.op_type for node in model.graph.all_nodes() if node.op_type != "Constant"]
