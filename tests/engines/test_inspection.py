"""Real engines of TensorRT-RTX in every precision, for every compute capability, and what they say of themselves.

Built in this process: a process for each of them would take half a minute.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parent))

from hand_graphs import CONVOLUTIONS, QUANTIZED, SIZE, Kind, Maker, network, recipe

from cascadert.engines.build_request import BuildRequest
from cascadert.engines.builder import build
from cascadert.engines.inspection import EngineTypes, LayerTypes, engine_types
from cascadert.engines.recipe import EngineRecipe
from cascadert.errors import BuildError

TURING, LATER = "7.5", ("8.0", "8.6", "8.9", "12.0", "12.1")
EVERY = (TURING, *LATER)


@pytest.fixture(autouse=True)
def needs_the_builder() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")


@functools.cache
def built(kind: Kind, compute_capability: str, flags: tuple[str, ...] = ()) -> tuple[bytes, list[LayerTypes]]:
    graph = network(kind, 19)
    return build_here(recipe(graph, "tensorrt-rtx", compute_capability, strongly_typed=True, flags=flags))


def build_here(what: EngineRecipe) -> tuple[bytes, list[LayerTypes]]:
    with tempfile.TemporaryDirectory() as folder:
        request = BuildRequest.write(what, Path(folder))
        layers = build(request, lambda _: True).network
        return Path(request.engine).read_bytes(), layers


def types(kind: Kind, compute_capability: str, flags: tuple[str, ...] = ()) -> EngineTypes:
    return engine_types(built(kind, compute_capability, flags)[0])


def computes(engine: EngineTypes) -> list[str]:
    """What each convolution computes in; fails where the engine says nothing of one."""
    kernels = [engine.of_layer(name) for name in CONVOLUTIONS]
    return [kernel.computes_in for kernel in kernels if kernel is not None]


@pytest.mark.parametrize("compute_capability", EVERY)
def test_fp32_engines_hold_no_other_convolution(compute_capability: str) -> None:
    engine = types("fp32", compute_capability)
    assert engine.compute_capabilities == (compute_capability,)
    assert computes(engine) == ["float32"] * 5
    assert engine.counts() == {"float32": 5}
    assert not engine.tf32


@pytest.mark.parametrize("compute_capability", EVERY)
def test_tf32_is_a_precision_of_its_own(compute_capability: str) -> None:
    engine = types("fp32", compute_capability, ("TF32",))
    assert engine.tf32
    assert computes(engine) == ["float32"] * 5


@pytest.mark.parametrize("compute_capability", EVERY)
def test_fp16_engines_compute_in_float16(compute_capability: str) -> None:
    engine = types("fp16", compute_capability)
    assert computes(engine) == ["float16"] * 5
    assert engine.counts() == {"float16": 5}


@pytest.mark.parametrize("rest", ["int8", "int8-fp16"])
@pytest.mark.parametrize("compute_capability", LATER)
def test_int8_engines_compute_in_int8_from_ampere_on(compute_capability: str, rest: Kind) -> None:
    other = "float16" if rest == "int8-fp16" else "float32"
    engine = types(rest, compute_capability)
    # There is no int8 deconvolution: it is dequantized first, its weights too, in every run.
    assert computes(engine) == [other, "int8", "int8", other, other]
    # Sums are written as float32, and quantized again by kernels of their own.
    assert [kernel.output for kernel in engine.kernels if kernel.computes_in == "int8"] == ["float32"] * 2


@pytest.mark.parametrize("rest", ["int8", "int8-fp16"])
def test_int8_on_turing_is_float_with_extra_work(rest: Kind) -> None:
    """Why int8 is no gain on an RTX 20: TensorRT-RTX dequantizes first, activations and weights, in every run."""
    engine, layers = built(rest, TURING)
    assert [layer.inputs for layer in layers if layer.name in QUANTIZED] == [("int8", "int8")] * 3
    assert computes(engine_types(engine)) == ["float16" if rest == "int8-fp16" else "float32"] * 5


@pytest.mark.parametrize(
    ("kind", "first", "quantized"),
    [
        ("fp32", ("float32",), ("float32",)),
        ("fp16", ("float16",), ("float16",)),
        ("int8", ("float32",), ("int8", "int8")),
        ("int8-fp16", ("float16",), ("int8", "int8")),
    ],
)
def test_parsed_network_says_what_was_asked_for(kind: Kind, first: tuple[str, ...], quantized: tuple[str, ...]) -> None:
    layers = built(kind, "8.6")[1]
    assert [layer.name for layer in layers] == list(CONVOLUTIONS)
    assert [layer.kind for layer in layers] == [*["convolution"] * 3, "deconvolution", "convolution"]
    assert [layer.inputs for layer in layers] == [first, quantized, quantized, quantized, first]
    assert {layer.precision for layer in layers} == {""}


def test_thin_convolutions_are_found_in_generated_code() -> None:
    """From Ampere on, a 1 × 1 convolution of so few channels becomes products and sums."""
    maker = Maker("fp16")
    half = maker.cast("x", "half", TensorProto.FLOAT16)
    weights = maker.constant("weights", np.ones((16, 4, 1, 1), np.float16))
    maker.cast(maker.node("Conv", "net.thin", [half, weights], "thin"), "y", TensorProto.FLOAT)
    graph = maker.graph({"x": (1, 4, SIZE, SIZE), "y": (1, 16, SIZE, SIZE)}, 19)
    engine = engine_types(build_here(recipe(graph, "tensorrt-rtx", strongly_typed=True))[0])
    kernel = engine.of_layer("net.thin")
    assert engine.counts() == {}
    assert kernel is not None
    assert (kernel.kind, kernel.computes_in) == ("function", "float16")


def test_fusions_are_read_too() -> None:
    """A convolution that is fused with what TensorRT-RTX compiles on the GPU is in a program of its own."""
    engine = built("fp32", "8.6")[0]
    assert engine.count(b"header {\n") > engine.count(b"tf32=") == 1


def test_layers_that_the_engine_does_not_name() -> None:
    assert types("fp32", "8.6").of_layer("net.other") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda engine: b"ftrt" + engine[4:], r"^engine: begins with b'ftrt'; give one of TensorRT-RTX 1\.7\.1"),
        (lambda engine: engine[:25] + b"\x08" + engine[26:], r"^engine: is of TensorRT-RTX 1\.8\.1; give one of"),
        (lambda engine: engine[:20], "^engine: begins with b'vtrt'"),
        (lambda engine: engine[:1000], "^engine: describes itself in an unknown form"),
        (lambda engine: engine.replace(b"type=float", b"kind=float"), "unknown form"),
        (lambda engine: engine.replace(b" input={", b" inputs={"), "unknown form"),
        (lambda engine: engine.replace(b"tf32=", b"tf=32"), "unknown form"),
    ],
)
def test_engines_whose_text_is_not_understood(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BuildError, match=message):
        engine_types(change(built("fp32", "8.6")[0]))
