from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes import common

from cascadert.export.passes.matrix_convolution import MatrixProductToConvolution


def product_model(shape: tuple[int, ...], matrix: np.ndarray, from_left: bool) -> ir.Model:
    tape = ir.tape.Tape()
    maps = ir.Value(name="maps", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    weight = tape.op("Constant", [], {"value": ir.tensor(matrix)})
    result = tape.op("MatMul", [weight, maps] if from_left else [maps, weight])
    result.name, result.type = "result", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([maps], [result], nodes=tape.nodes, opset_imports={"": 18}, name="product")
    model = ir.Model(graph, ir_version=10)
    common.ShapeInferencePass()(model)
    return model


def run(model: ir.Model, maps: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"maps": maps})[0]


@pytest.mark.parametrize("from_left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("size", [(5, 7), (24, 24), (45, 60)])
def test_the_convolution_equals_the_product(from_left: bool, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    maps = random.standard_normal((2, 3, *size), np.float32)
    matrix = random.random((6, size[0]) if from_left else (size[1], 6), np.float32)
    model = product_model(maps.shape, matrix, from_left)
    before = run(model, maps)
    result = MatrixProductToConvolution()(model)
    assert result.modified
    assert "MatMul" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model, maps), before, rtol=1e-5, atol=1e-5)
    assert not MatrixProductToConvolution()(model).modified


def test_other_products_are_left_alone() -> None:
    model = product_model((3, 8), np.ones((8, 4), np.float32), from_left=False)
    assert not MatrixProductToConvolution()(model).modified
    assert "MatMul" in {node.op_type for node in model.graph}
