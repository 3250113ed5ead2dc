"""Proof of precision without a GPU: what convolutions were asked to compute in, and what the engine says they do.

The size of an engine proves nothing: TensorRT stores int8 weights and computes in float where it has no int8 kernel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cascadert.errors import BuildError

_NETWORK_KINDS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_NETWORK_TYPES = {"FLOAT": "float32", "HALF": "float16"}

_MAGIC, _VERSION = b"vtrt", (1, 7, 1)
_PROGRAM = re.compile(rb"header \{\n[^\0]*")
_TENSOR = re.compile(r'^  (?:sub_)?tensor=\{.* name="([^"]+)" .*\btype=(\w+) \}$', re.M)
_KERNEL = re.compile(r'^  (corrltn|deconvolution|fully_connected)=\{ name="([^"]+)"(.*?) \}$', re.M | re.S)
_FUNCTION = re.compile(r"^  function=\{ name=(\S+)(.*?) \}$", re.M | re.S)
_KERNEL_KINDS = {"corrltn": "convolution", "deconvolution": "deconvolution", "fully_connected": "matrix_multiply"}
_ENGINE_TYPES = {"float": "float32", "half": "float16"}


@dataclass(frozen=True)
class LayerTypes:
    """Element types of one layer of a parsed network, as in "float16".

    `kind` is "convolution", "deconvolution" or "matrix_multiply". An input that a DequantizeLinear makes counts as what
    it is made from: that is how a graph asks for int8. Weights are an input only where the graph computes them.
    `precision` is what a weakly typed TensorRT was told to compute in, empty where it may choose.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: str = ""


@dataclass(frozen=True)
class KernelTypes:
    """Element types of one kernel of an engine; `layers` are the ONNX nodes that it stands for.

    `kind` is that of `LayerTypes`, or "function" for generated code, whose `input` and `weights` name the types of all
    its arguments.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    input: str
    weights: str
    output: str

    @property
    def computes_in(self) -> str:
        """What it multiplies: the type of its operands."""
        return self.input if self.input == self.weights else f"{self.input} × {self.weights}"


@dataclass(frozen=True)
class EngineTypes:
    """What an engine says about itself.

    Attributes:
        compute_capabilities: what it was built for, as in "8.6".
        tf32: whether float32 operands may be rounded to TF32.
        kernels: those that stand for convolutions, deconvolutions and matrix products.
        functions: generated code that stands for other nodes, or for parts of them.
    """

    compute_capabilities: tuple[str, ...]
    tf32: bool
    kernels: tuple[KernelTypes, ...]
    functions: tuple[KernelTypes, ...]

    def counts(self) -> dict[str, int]:
        """Count kernels by what they compute in."""
        return dict(Counter(kernel.computes_in for kernel in self.kernels))

    def of_layer(self, name: str) -> KernelTypes | None:
        """Return the kernel that stands for an ONNX node, none where the engine names none.

        A convolution of few channels may be a function: some products and sums.
        """
        return next((kernel for kernel in (*self.kernels, *self.functions) if name in kernel.layers), None)


def network_types(trt: Any, network: Any) -> list[LayerTypes]:
    """List the types of the convolutions and products of a network that TensorRT has parsed.

    Args:
        trt: the TensorRT module.
        network: its network.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dequantized = {
        layer.get_output(0).name: layer.get_input(0).dtype for layer in layers if layer.type.name == "DEQUANTIZE"
    }

    def type_of(tensor: Any) -> str:
        return _network_type(dequantized.get(tensor.name, tensor.dtype))

    def describe(layer: Any) -> LayerTypes:
        inputs = tuple(type_of(layer.get_input(i)) for i in range(layer.num_inputs))
        outputs = tuple(type_of(layer.get_output(i)) for i in range(layer.num_outputs))
        told = hasattr(layer, "precision_is_set") and layer.precision_is_set
        precision = _network_type(layer.precision) if told else ""
        return LayerTypes(layer.name, layer.type.name.lower(), inputs, outputs, precision)

    return [describe(layer) for layer in layers if layer.type.name in _NETWORK_KINDS]


def engine_types(engine: bytes) -> EngineTypes:
    """Read from an engine of TensorRT-RTX what its convolutions compute in.

    An engine of TensorRT-RTX carries its program as text: tensors with their types, and the kernel calls that take
    them. The form is undocumented, so only the version it was read from is accepted. It proves which operands every
    convolution is given, and that the compiler really kept int8 or float16 up to there. It does not prove which
    instructions are used: those kernels are compiled on the GPU, when the engine is loaded.

    Raises:
        BuildError: an engine of another builder or version, or text that does not say it.
    """
    _check_version(engine)
    programs = [match.group().decode("latin-1") for match in _PROGRAM.finditer(engine)]
    try:
        # One program is the engine's; the others are fusions that it calls, each with a convolution and what follows.
        (main,) = (program for program in programs if "\n  tf32=" in program)
        built_for = sorted(re.findall(r"\bsm(\d+)", _setting(main, "accelerators")))
        kernels = tuple(kernel for program in programs for kernel in _kernels(program))
        functions = tuple(function for program in programs for function in _functions(program))
        tf32 = _setting(main, "tf32") == "1"
    except (KeyError, ValueError) as error:
        raise BuildError("engine", f"describes itself in an unknown form: {error!r}", "report it with it") from error
    return EngineTypes(tuple(f"{sm[:-1]}.{sm[-1]}" for sm in built_for), tf32, kernels, functions)


def _check_version(engine: bytes) -> None:
    found = f"begins with {engine[:4]!r}"
    if engine.startswith(_MAGIC) and len(engine) > 28:
        if tuple(engine[24:27]) == _VERSION:
            return
        found = f"is of TensorRT-RTX {'.'.join(map(str, engine[24:27]))}"
    wanted = ".".join(map(str, _VERSION))
    raise BuildError("engine", found, f"give one of TensorRT-RTX {wanted}, whose text is understood")


def _setting(program: str, name: str) -> str:
    match = re.search(rf"^  {name}=(.*)$", program, re.M)
    if match is None:
        raise ValueError(f"no '{name}'")
    return match.group(1)


def _kernels(program: str) -> Iterator[KernelTypes]:
    types = _tensor_types(program)
    for kind, name, call in _KERNEL.findall(program):
        operand, weights = (types[tensor] for tensor in _list(call, "input")[:2])
        output = types[_list(call, "output")[0]]
        yield KernelTypes(name, _KERNEL_KINDS[kind], _layers(call), operand, weights, output)


def _functions(program: str) -> Iterator[KernelTypes]:
    types = _tensor_types(program)
    for name, call in _FUNCTION.findall(program):
        inputs, outputs = (
            ", ".join(sorted({types[tensor] for tensor in _list(call, f"{way}_args")})) for way in ("input", "output")
        )
        yield KernelTypes(name, "function", _layers(call), inputs, inputs, outputs)


def _tensor_types(program: str) -> dict[str, str]:
    return {name: _ENGINE_TYPES.get(kind, kind) for name, kind in _TENSOR.findall(program)}


def _layers(call: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", call))


def _list(call: str, name: str) -> list[str]:
    match = re.search(rf" {name}=\{{(.*?)\}}", call)
    if match is None:
        raise ValueError(f"no '{name}'")
    return re.findall(r'"([^"]+)"', match.group(1))


def _network_type(dtype: Any) -> str:
    name: str = dtype.name
    return _NETWORK_TYPES.get(name, name.lower())
