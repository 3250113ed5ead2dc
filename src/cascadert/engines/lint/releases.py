"""What each release of TensorRT's ONNX parser takes, as far as its documents and trials say.

Sources: docs/operators.md and docs/Changelog.md of onnx-tensorrt as of 8.5, 10.6 and 10.15; and for TensorRT-RTX 1.7.1
every case of ONNX's own operator tests, given to its parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cascadert.engines.facts import BackendFacts
from cascadert.errors import TargetError

_SERIES = {
    "tensorrt": ("8.5", "8.6", *(f"10.{minor}" for minor in range(17)), *(f"11.{minor}" for minor in range(5))),
    "tensorrt-rtx": ("1.7",),
}
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_PATCHES = range(10)

# The newest opset from some series on. operators.md of 8.5, 10.6 and 10.15; 8.6, 10.0 and 10.13 from platforms.md 4.4a.
# TensorRT-RTX 1.7 parses newer ones too, but none of the operators that are new there.
_OPSETS = {"tensorrt": {"8.5": 17, "10.0": 20, "10.6": 22, "10.13": 24}, "tensorrt-rtx": {"1.7": 24}}

_OPERATORS_OF_8_5 = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum
    Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If
    InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul
    Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow
    QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
"""
_SINCE_8_5 = frozenset(_OPERATORS_OF_8_5.split())

# The changelog names the release; CastLike, Gelu and Mish are in the table of 10.6 and not of 8.5 (the last two are of
# opsets that 8.6 does not read), the last four in that of 10.15 and not of 10.6.
_LATER = {
    **dict.fromkeys(("GroupNormalization", "IsInf", "LayerNormalization"), "8.6"),
    **dict.fromkeys(("CastLike", "Gelu", "Hardmax", "Mish"), "10.0"),
    "DeformConv": "10.1",
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), "10.4"),
    "STFT": "10.5",
    **dict.fromkeys(("Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"), "10.15"),
}

# Plugins in TensorRT, which TensorRT-RTX comes without (tried).
_NOT_IN_RTX = frozenset(("DeformConv", "NonZero", "RoiAlign"))
_ONLY_IN_RTX = frozenset(("Swish",))

_TYPES_8 = frozenset(("BOOL", "DOUBLE", "FLOAT", "FLOAT16", "INT32", "INT64", "INT8", "UINT8"))
_TYPES_10 = _TYPES_8 | {"BFLOAT16", "FLOAT8E4M3FN", "INT4"}


@dataclass(frozen=True)
class Builder:
    """The builder that a graph must suit: every release that a target allows.

    Attributes:
        facts: what the target says of it.
        releases: series of releases in the target's range, oldest first.
        compute_capability: of the GPU, as in "7.5", if known.
    """

    facts: BackendFacts
    releases: tuple[str, ...]
    compute_capability: str | None = None

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT-RTX."""
        return self.facts.name == "tensorrt-rtx"

    @property
    def full(self) -> tuple[str, ...]:
        """The releases, if they are of full TensorRT."""
        return () if self.rtx else self.releases

    def before(self, release: str) -> tuple[str, ...]:
        """Return the releases of full TensorRT that are older than one."""
        return tuple(series for series in self.full if Version(series) < Version(release))

    @property
    def opset(self) -> int:
        """The newest opset that all releases read."""
        known = _OPSETS[self.facts.name]
        ceilings = [max(opset for since, opset in known.items() if _reached(series, since)) for series in self.releases]
        return min([self.facts.opset, *ceilings])

    def lacking(self, op_type: str) -> tuple[str, ...]:
        """Return the releases without an operator."""
        if self.rtx:
            known = (op_type in _SINCE_8_5 or op_type in _LATER) and op_type not in _NOT_IN_RTX
            return () if known or op_type in _ONLY_IN_RTX else self.releases
        return () if op_type in _SINCE_8_5 else self.before(_LATER[op_type]) if op_type in _LATER else self.releases

    @property
    def types(self) -> frozenset[str]:
        """Element types that all releases know, as ONNX names them."""
        return _TYPES_8 if self.before("10.0") else _TYPES_10

    def named(self, releases: Sequence[str] = ()) -> str:
        """Name some releases, or all: `TensorRT 8.5 to 8.6`."""
        chosen = releases or self.releases
        span = chosen[0] if len(chosen) == 1 else f"{chosen[0]} to {chosen[-1]}"
        return f"{_TITLES[self.facts.name]} {span}"


def make_builder(facts: BackendFacts, compute_capability: str | None = None) -> Builder:
    """Find the releases that a target allows.

    Raises:
        TargetError: nothing is known of any of them.
    """
    allowed, known = SpecifierSet(facts.versions), _SERIES[facts.name]
    releases = tuple(series for series in known if any(f"{series}.{patch}" in allowed for patch in _PATCHES))
    if not releases:
        found = f"nothing is known of its parser; known are {known[0]} to {known[-1]}"
        raise TargetError(f"{_TITLES[facts.name]} {facts.versions}", found, "choose one of these versions")
    return Builder(facts, releases, compute_capability)


def _reached(series: str, since: str) -> bool:
    return Version(series) >= Version(since)
