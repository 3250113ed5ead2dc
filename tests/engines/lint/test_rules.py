"""Each rule on the smallest graph that breaks it: the whole message, and what TensorRT-RTX itself says of the graph."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cascadert.engines.lint import lint_graph

EVERYWHERE = ("8", "10", "11", "rtx")


@dataclass(frozen=True)
class Case:
    """A graph, the first finding in it, for which builders, and who of TensorRT-RTX refuses it.

    `rtx` is "parser" or "builder"; or "takes it", where the graph becomes something else than it says; or empty, where
    the rule is not for TensorRT-RTX.
    """

    graph: str
    at: str
    says: str
    rtx: str
    on: tuple[str, ...] = EVERYWHERE
    opset: int = 17
    compute_capability: str = "8.6"

    def message(self, builder: str) -> str:
        """The whole finding; `at` is a port, or the node as `output = operator`."""
        name, _, op_type = self.at.partition(" = ")
        where = f"node '{name}' ({op_type}, from module 'network.head')" if op_type else self.at
        return f"{where} {self.says.format(builder=BUILDERS[builder])}"


CASES = {
    "unknown operator": Case(
        "(float[1,2,2,2] x, int32[1,2,2,2] i) => (float[1,2,a,b] y) { j = Cast <to = 7> (i) y = MaxUnpool"
        " <kernel_shape = [2, 2]> (x, j) }",
        "y = MaxUnpool",
        "is an operator TensorRT does not have; choose by TopK, Where or masks of fixed size",
        "parser",
    ),
    "operator of no release": Case(
        "(float[4,4] x) => (float y) { y = Det(x) }",
        "y = Det",
        "is an operator that {builder} does not have; replace that operation in the network",
        "parser",
    ),
    "operator of later releases": Case(
        "(float[4,4] x) => (float[4,4] y) <float[4] s = {1.0, 1.0, 1.0, 1.0}> { y = LayerNormalization(x, s) }",
        "y = LayerNormalization",
        "is an operator that TensorRT 8.5 does not have; replace that operation in the network",
        "",
        on=("8",),
    ),
    "plugin that RTX lacks": Case(
        "(float[1,1,4,4] x, float[2,4] r, int64[2] i) => (float[2,1,a,b] y) { y = RoiAlign(x, r, i) }",
        "y = RoiAlign",
        "is an operator that TensorRT-RTX 1.7 does not have; replace that operation in the network",
        "parser",
        on=("rtx",),
    ),
    "second output": Case(
        "(float[4,4] x) => (float[4,4] y, float[4,1] m) <float[4] s = {1.0, 1.0, 1.0, 1.0}> { y, m ="
        " LayerNormalization(x, s) }",
        "y = LayerNormalization",
        "returns more than its first output, which TensorRT does not; replace that operation in the network",
        "parser",
        on=("10", "11", "rtx"),
    ),
    "foreign domain": Case(
        "(float[2] x) => (float[2] y) { y = mine.Thing(x) }",
        "y = Thing",
        "is of the domain 'mine'; use standard ONNX operators",
        "parser",
    ),
    "pool indices": Case(
        "(float[1,1,4,4] x) => (float[1,1,2,2] y, int32[1,1,2,2] j) { y, i = MaxPool <kernel_shape = [2, 2],"
        " strides = [2, 2]> (x) j = Cast <to = 6> (i) }",
        "y = MaxPool",
        "returns indices, which TensorRT does not; pair it with nn.MaxUnpool2d of the same kernel and stride",
        "parser",
    ),
    "480 x 480 average pool": Case(
        "(float[1,1,480,960] x) => (float[1,1,1,2] y) { y = AveragePool <kernel_shape = [480,480], strides ="
        " [480,480]> (x) }",
        "y = AveragePool",
        "has a kernel of more than 99,856 pixels, which is TensorRT's limit; average by reshape and mean",
        "parser",
    ),
    "317 x 317 maximum pool": Case(
        "(float[1,1,317,317] x) => (float[1,1,1,1] y) { y = MaxPool <kernel_shape = [317, 317]> (x) }",
        "y = MaxPool",
        "has a kernel of more than 99,856 pixels, which is TensorRT's limit; reduce by reshape and maximum",
        "parser",
    ),
    "dilated pool": Case(
        "(float[1,1,16,16] x) => (float[1,1,12,12] y) { y = MaxPool <kernel_shape = [3, 3], dilations = [2, 2]> (x) }",
        "y = MaxPool",
        "pools with dilations [2, 2], which TensorRT does not; replace that operation in the network",
        "parser",
    ),
    "scatter with reduction": Case(
        "(float[4] x, int32[1,1] i, float[1] v) => (float[4] y) { j = Cast <to = 7> (i) y = ScatterND"
        ' <reduction = "add"> (x, j, v) }',
        "y = ScatterND",
        "has the attribute 'reduction', which TensorRT ignores or refuses;"
        " scatter without it, or accumulate by gather and sum",
        "parser",
    ),
    "scatter elements with reduction": Case(
        "(float[4] x, int32[1] i, float[1] v) => (float[4] y) { j = Cast <to = 7> (i) y = ScatterElements"
        ' <reduction = "add"> (x, j, v) }',
        "y = ScatterElements",
        "has the attribute 'reduction', which TensorRT ignores or refuses;"
        " scatter without it, or accumulate by gather and sum",
        "parser",
    ),
    "antialias": Case(
        "(float[1,1,4,4] x) => (float[1,1,2,2] y) <float[4] s = {1.0, 1.0, 0.5, 0.5}> { y = Resize <mode ="
        ' "linear", antialias = 1> (x, , s) }',
        "y = Resize",
        "resizes with antialiasing, which TensorRT does not; resize without, or before the graph",
        "parser",
        opset=18,
    ),
    "cubic": Case(
        "(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] s = {1.0, 1.0, 2.0, 2.0}> { y = Resize <mode ="
        ' "cubic"> (x, , s) }',
        "y = Resize",
        "resizes by cubic interpolation, which {builder} does not; use bilinear",
        "",
        on=("8", "10", "11"),
    ),
    "coordinates": Case(
        "(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] s = {1.0, 1.0, 2.0, 2.0}> { y = Resize <mode ="
        ' "linear", coordinate_transformation_mode = "tf_crop_and_resize"> (x, , s) }',
        "y = Resize",
        "resizes with coordinates 'tf_crop_and_resize', which TensorRT does not have; use half_pixel or align_corners",
        "parser",
    ),
    "aspect ratio": Case(
        '(float[1,1,4,4] x) => (float[1,1,6,6] y) <int64[4] s = {1, 1, 8, 6}> { y = Resize <mode = "linear",'
        ' keep_aspect_ratio_policy = "not_larger"> (x, , , s) }',
        "y = Resize",
        "resizes with the policy 'not_larger', which TensorRT does not have; use 'stretch'",
        "parser",
        opset=18,
    ),
    "axes at run time": Case(
        "(float[2,3] x, int32[1] a) => (float[b,c] y) { l = Cast <to = 7> (a) y = ReduceSum(x, l) }",
        "y = ReduceSum",
        "computes its axes at run time, which {builder} must know when it builds; make it a constant of the network",
        "parser",
    ),
    "slice axes at run time": Case(
        "(float[4] x, int32[1] a) => (float[b] y) <int64[1] s = {0}, int64[1] e = {2}> { l = Cast <to = 7> (a)"
        " y = Slice(x, s, e, l) }",
        "y = Slice",
        "computes its axes at run time, which TensorRT 8.5 to 8.6 must know when it builds; make it a constant"
        " of the network",
        "",
        on=("8",),
    ),
    "K at run time": Case(
        "(float[50] x, int32[1] k) => (float[a] y) { l = Cast <to = 7> (k) y, i = TopK(x, l) }",
        "y = TopK",
        "has a K that is computed at run time, which TensorRT must know when it builds;"
        " sort all and take a prefix outside",
        "builder",
    ),
    "K above 3840": Case(
        "(float[5000] x) => (float[3841] y) <int64[1] k = {3841}> { y, i = TopK(x, k) }",
        "y = TopK",
        "sorts 3841 values where TensorRT's limit is 3840; use larger blocks or fewer cameras",
        "builder",
    ),
    "unsorted": Case(
        "(float[50] x) => (float[5] y) <int64[1] k = {5}> { y, i = TopK <sorted = 0> (x, k) }",
        "y = TopK",
        "does not sort, which {builder} always does; let it sort",
        "",
        on=("8", "10", "11"),
    ),
    "branches of different rank": Case(
        "(float[2] x, bool c) => (float y) <int64[2] s = {1, 2}> { y = If (c) <then_branch = g1 () =>"
        " (float[2] a) { a = Relu(x) }, else_branch = g2 () => (float[1,2] b) { b = Reshape(x, s) }> }",
        "y = If",
        "has branches of different rank, which TensorRT refuses; replace that operation in the network",
        "builder",
    ),
    "branches with one name": Case(
        "(float[2] x, bool c) => (float[2] y) { y = If (c) <then_branch = g1 () => (float[2] a) { a = Relu(x)"
        " }, else_branch = g2 () => (float[2] a) { a = Neg(x) }> }",
        "y = If",
        "gives the outputs of both branches the name 'a', which {builder} refuses; rename one",
        "",
        on=("8", "10", "11"),
    ),
    "loop that collects": Case(
        "(int32 n, bool c, float[2] x) => (float[k,2] y) { m = Cast <to = 7> (n) y = Loop (m, c) <body = g"
        " (int64 i, bool k) => (bool kk, float[2] o) { kk = Identity(k) o = Neg(x) }> }",
        "y = Loop",
        "collects outputs over a number of rounds that {builder} must know when it builds; replace that"
        " operation in the network",
        "",
        on=("8", "10", "11"),
    ),
    "uint8 gather": Case(
        "(uint8[4] x, int32[2] i) => (float[2] y) { g = Gather(x, i) y = Cast <to = 1> (g) }",
        "g = Gather",
        "handles uint8 inside the graph, which TensorRT takes at the boundary only; cast to float32 at the boundary",
        "parser",
    ),
    "uint8 made inside": Case(
        "(float[4] x) => (float[4] y) { g = Cast <to = 2> (x) y = Cast <to = 1> (g) }",
        "g = Cast",
        "handles uint8 inside the graph, which TensorRT takes at the boundary only; cast to float32 at the boundary",
        "parser",
    ),
    "unknown port": Case(
        "(int16[2] x) => (float[2] y) { y = Cast <to = 1> (x) }",
        "input 'x'",
        "has the type INT16, which {builder} does not take there; use uint8, int32, float16, float32 or bool",
        "parser",
    ),
    "float64 port": Case(
        "(double[2] x) => (float[2] y) { y = Cast <to = 1> (x) }",
        "input 'x'",
        "has the type DOUBLE, which {builder} makes float32 without a word; use uint8, int32, float16, float32 or bool",
        "takes it",
    ),
    "int64 port": Case(
        "(float[2] x) => (int64[2] y) { y = Cast <to = 7> (x) }",
        "output 'y'",
        "has the type INT64, which TensorRT 8.5 to 8.6 makes int32 without a word; use uint8, int32, float16,"
        " float32 or bool",
        "",
        on=("8",),
    ),
    "float64 inside": Case(
        "(float[2] x) => (float[2] y) { d = Cast <to = 11> (x) e = Mul(d, d) y = Cast <to = 1> (e) }",
        "d = Cast",
        "computes in float64, which {builder} makes float32 without a word; use float32 in the network",
        "takes it",
    ),
    "unknown type": Case(
        "(float[2] x) => (float[2] y) { d = Cast <to = 5> (x) y = Cast <to = 1> (d) }",
        "d = Cast",
        "makes int16, which {builder} does not know; use uint8, int32, float16, float32 or bool",
        "parser",
    ),
    "bfloat16": Case(
        "(float[2] x) => (float[2] y) { d = Cast <to = 16> (x) y = Cast <to = 1> (d) }",
        "d = Cast",
        "makes bfloat16, which TensorRT 8.5 to 8.6 does not know; use uint8, int32, float16, float32 or bool",
        "",
        on=("8",),
    ),
    "fp16 without types": Case(
        "(float[2] x) => (float[2] y) { h = Cast <to = 10> (x) e = Mul(h, h) y = Cast <to = 1> (e) }",
        "h = Cast",
        "begins float16 in the graph where TensorRT 8.5 to 8.6 is not strongly typed; give it the float32"
        " graph and the flag FP16",
        "",
        on=("8",),
    ),
    "fp16 port without types": Case(
        "(float16[2] x) => (float16[2] y) { y = Relu(x) }",
        "input 'x'",
        "has the type FLOAT16 where TensorRT 8.5 to 8.6 is not strongly typed; use uint8, int32, float16,"
        " float32 or bool",
        "",
        on=("8",),
    ),
    "matrix product on Turing": Case(
        "(float[4,2] x) => (float[4,2] y) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}> { y = MatMul(x, w) }",
        "y = MatMul",
        "is a float32 matrix product, which TensorRT-RTX 1.7 does not compile for compute capability 7.5;"
        " write it as a 1x1 convolution, or build fp16",
        "builder",
        on=("rtx",),
        compute_capability="7.5",
    ),
    "asymmetric zero point": Case(
        "(float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {3}> { q = QuantizeLinear(x, s, z) d ="
        " DequantizeLinear(q, s, z) y = Relu(d) }",
        "q = QuantizeLinear",
        "has the zero point 3, where TensorRT has none but 0; quantize symmetrically to int8: QInt8,"
        " ActivationSymmetric, WeightSymmetric",
        "parser",
    ),
    "asymmetric uint8": Case(
        "(float[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {128}> { q = QuantizeLinear(x, s, z) d ="
        " DequantizeLinear(q, s, z) y = Relu(d) }",
        "q = QuantizeLinear",
        "has the zero point 128, where TensorRT has none but 0; quantize symmetrically to int8: QInt8,"
        " ActivationSymmetric, WeightSymmetric",
        "parser",
    ),
    "uint8 with zero point 0": Case(
        "(float[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {0}> { q = QuantizeLinear(x, s, z) d ="
        " DequantizeLinear(q, s, z) y = Relu(d) }",
        "q = QuantizeLinear",
        "quantizes to uint8, which TensorRT refuses or makes int8: what is above 127 saturates without a word;"
        " quantize symmetrically to int8: QInt8, ActivationSymmetric, WeightSymmetric",
        "takes it",
    ),
    "no zero point": Case(
        "(float[4] x) => (float[4] y) <float s = {0.1}> { q = QuantizeLinear(x, s) d = DequantizeLinear(q, s)"
        " y = Relu(d) }",
        "q = QuantizeLinear",
        "quantizes to uint8, which TensorRT refuses or makes int8: what is above 127 saturates without a word;"
        " quantize symmetrically to int8: QInt8, ActivationSymmetric, WeightSymmetric",
        "takes it",
    ),
    "int32 bias": Case(
        "(float[1,1,4,4] x) => (float[1,1,4,4] y) <float[1,1,1,1] w = {1.0}, int32[1] b = {5}, float s ="
        " {0.1}, int32 z = {0}> { bd = DequantizeLinear(b, s, z) y = Conv(x, w, bd) }",
        "bd = DequantizeLinear",
        "reads int32, which TensorRT does not dequantize; keep biases in floating point: QuantizeBias=False",
        "parser",
    ),
    "scale of zero": Case(
        "(float[4] x) => (float[4] y) <float s = {0.0}, int8 z = {0}> { q = QuantizeLinear(x, s, z) d ="
        " DequantizeLinear(q, s, z) y = Relu(d) }",
        "q = QuantizeLinear",
        "has a scale that is not positive, which TensorRT refuses; calibrate again",
        "parser",
    ),
    "scale at run time": Case(
        "(float[4] x, float s) => (float[4] y) <int8 z = {0}> { q = QuantizeLinear(x, s, z) d ="
        " DequantizeLinear(q, s, z) y = Relu(d) }",
        "q = QuantizeLinear",
        "computes its scale at run time, which {builder} must know when it builds; calibrate, and quantize"
        " with constant scales",
        "",
        on=("8", "10", "11"),
    ),
    "activation per channel": Case(
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] s = {0.1, 0.2}, int8[2] z = {0, 0}> { q ="
        " QuantizeLinear <axis = 1> (x, s, z) d = DequantizeLinear <axis = 1> (q, s, z) y = Relu(d) }",
        "q = QuantizeLinear",
        "quantizes an activation with 2 scales, which no int8 kernel of TensorRT reads; use one scale for an"
        " activation",
        "takes it",
    ),
    "weights along inputs": Case(
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) <int8[2,2,1,1] w = {1, 2, 3, 4}, float[2] s = {0.1, 0.2},"
        " int8[2] z = {0, 0}> { d = DequantizeLinear <axis = 1> (w, s, z) y = Conv(x, d) }",
        "y = Conv",
        "reads weights quantized along axis 1, where TensorRT's int8 kernels take axis 0; quantize weights"
        " along the axis of output channels",
        "takes it",
    ),
}
BUILDERS = {"8": "TensorRT 8.5 to 8.6", "10": "TensorRT 10.3", "11": "TensorRT 11.4", "rtx": "TensorRT-RTX 1.7"}


@pytest.mark.parametrize("name", CASES)
def test_the_first_finding_says_where_what_and_what_to_do(name, graph_of, facts):
    case = CASES[name]
    graph = graph_of(case.graph, case.opset)
    for builder in BUILDERS:
        found = lint_graph(graph, facts[builder], case.compute_capability)
        messages = [str(finding) for finding in found if finding.rule != "opset"]
        if builder in case.on:
            assert messages[:1] == [case.message(builder)]
        else:
            assert case.message(builder) not in messages


def test_tensorrt_rtx_refuses_what_its_rules_say(graph_of, rtx_verdicts):
    """Or takes it for something else; what rules for other builders say is not asked."""
    for capability in ("7.5", "8.6"):
        cases = {name: case for name, case in CASES.items() if case.rtx and case.compute_capability == capability}
        graphs = [graph_of(case.graph, case.opset) for case in cases.values()]
        verdicts = rtx_verdicts(*graphs, compute_capability=capability)
        assert {name: case.rtx for name, case in cases.items()} == {
            name: who for name, (who, _) in zip(cases, verdicts, strict=True)
        }


def test_what_tensorrt_rtx_takes_becomes_something_else(graph_of, rtx_verdicts):
    names = ("uint8 with zero point 0", "no zero point", "float64 inside")
    verdicts = rtx_verdicts(*(graph_of(CASES[name].graph, CASES[name].opset) for name in names))
    for name, (_, types) in zip(names, verdicts, strict=True):
        assert "UINT8" not in types and "DOUBLE" not in types, name
        assert ("INT8" in types) is (name != "float64 inside")


GOOD = {
    "symmetric int8": (
        "(float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {0}> { q = QuantizeLinear(x, s, z) d ="
        " DequantizeLinear(q, s, z) y = Relu(d) }"
    ),
    "316 x 316 average pool": (
        "(float[1,1,316,316] x) => (float[1,1,1,1] y) { y = AveragePool <kernel_shape = [316, 316]> (x) }"
    ),
    "scatter": (
        "(float[4] x, int32[1,1] i, float[1] v) => (float[4] y) { j = Cast <to = 7> (i) y = ScatterND(x, j, v) }"
    ),
    "K of 3840": ("(float[5000] x) => (float[3840] y) <int64[1] k = {3840}> { y, i = TopK(x, k) }"),
    "uint8 at the boundary": (
        "(uint8[4] x) => (uint8[4] y) { f = Cast <to = 1> (x) g = Relu(f) y = Cast <to = 2> (g) }"
    ),
    "weights along outputs": (
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) <int8[2,2,1,1] w = {1, 2, 3, 4}, float[2] s = {0.1, 0.2},"
        " int8[2] z = {0, 0}> { d = DequantizeLinear <axis = 0> (w, s, z) y = Conv(x, d) }"
    ),
}


def test_what_is_within_the_limits_passes_and_builds(graph_of, facts, rtx_verdicts):
    graphs = [graph_of(text) for text in GOOD.values()]
    for name, graph in zip(GOOD, graphs, strict=True):
        for builder in BUILDERS:
            assert lint_graph(graph, facts[builder]) == (), name
    assert [who for who, _ in rtx_verdicts(*graphs)] == ["takes it"] * len(GOOD)


def test_every_rule_has_a_case(graph_of, facts):
    """Both ways: no rule without a graph that breaks it."""
    import re
    from pathlib import Path

    import cascadert.engines.lint
    import cascadert.export.passes.tensorrt_ops as universal

    sources = [*Path(cascadert.engines.lint.__file__).parent.glob("*.py"), Path(universal.__file__)]
    known = {rule for path in sources for rule in re.findall(r'Objection\(\s*"([a-z0-9-]+)"', path.read_text())}
    seen = {
        finding.rule
        for case in CASES.values()
        for builder in case.on
        for finding in lint_graph(graph_of(case.graph, case.opset), facts[builder], case.compute_capability)
    }
    assert known <= seen
