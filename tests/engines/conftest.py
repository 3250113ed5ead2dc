"""A real two-stage bundle of two tiny networks, and graphs made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cascadert.bundle import (
    Bundle,
    BundleManifest,
    InputEntry,
    OutputEntry,
    calibration_part,
    stage_part,
    write_bundle,
)
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.graph import Graph, TensorSpec
from cascadert.precision import QuantizationPlan, StageCalibration

NETWORKS = """
from torch import nn

def fast():
    wide = nn.Conv2d(32, 32, 3, 1, 1)  # the others see pixels or make logits, and stay out of int8
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(32, 3, 3, 1, 1))

def accurate():
    wide = nn.Conv2d(16, 16, 3, 1, 1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), wide, nn.ReLU(), nn.ConvTranspose2d(16, 3, 2, 2))
"""

SPEC = """
name = "toy"
classes = { names = ["a", "b", "c"], palette = [[0, 0, 0], [255, 0, 0], [0, 255, 0]] }
frame = { height = 64, width = 128 }
grid = { block = 32 }

[[stages]]
name = "fast"
model = "nets.py:fast"

[[stages]]
name = "accurate"
model = "nets.py:accurate"
halo = 8
select = { policy = "threshold", theta = 0.5 }
"""


@pytest.fixture(autouse=True)
def own_lock_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep out of the way of real builds on this machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CASCADERT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "nets.py").write_text(NETWORKS)
    (folder / "spec.toml").write_text(SPEC)
    return export_bundle(folder / "spec.toml", folder / "bundle", ExportOptions(random_weights=0))


@pytest.fixture(scope="session")
def calibrated(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with ranges measured on noise, and a theta for each precision."""
    calibrations = {name: _calibrate(graph) for name, graph in bundle.graphs.items()}
    return write_bundle(
        tmp_path_factory.mktemp("calibrated") / "bundle",
        _with_calibration(bundle.manifest, calibrations),
        bundle.graphs,
        calibrations,
    )


def _calibrate(graph: Graph) -> StageCalibration:
    from cascadert.calibration.ranges import measure_ranges
    from cascadert.export.network import network_graph

    network, rng = network_graph(graph), np.random.default_rng(0)
    shapes = {spec.name: [4 if isinstance(size, str) else size for size in spec.shape] for spec in network.inputs}
    found = measure_ranges(network, {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()})
    plans = {
        dialect: QuantizationPlan(calibrator="min-max", ranges=found.ranges("min-max", dialect))
        for dialect in ("tensorrt", "cpu")
    }
    return StageCalibration(peaks=found.peaks, int8=plans)


def _with_calibration(manifest: BundleManifest, calibrations: dict[str, StageCalibration]) -> BundleManifest:
    stages = [
        stage.model_copy(
            update={
                "calibration": calibration_part(stage.name, calibrations[stage.name]),
                "select": stage.select and stage.select.model_copy(update={"thetas": THETAS}),
            }
        )
        for stage in manifest.stages
    ]
    return manifest.model_copy(update={"stages": tuple(stages)})


THETAS = {"fp16": 0.51, "int8-tensorrt": 0.6, "int8-cpu": 0.7}

MakeGraph = Callable[..., Graph]


@pytest.fixture(scope="session")
def make_graph() -> MakeGraph:
    return _make_graph


def _make_graph(nodes: list[onnx.NodeProto], input_shape: list[int | str], dialect: str = "tensorrt") -> Graph:
    """Wrap nodes that read `x` float32 and write `y` float32 of no stated shape; modules are `network.<node name>`."""
    for node in nodes:
        scopes = ["", "network", f"network.{node.name}", node.name]
        node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(scopes)))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "toy", [x], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    model = onnx.shape_inference.infer_shapes(model)
    sizes = tuple(dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim)
    inputs, outputs = (TensorSpec("x", "float32", tuple(input_shape)),), (TensorSpec("y", "float32", sizes),)
    return Graph(model.SerializeToString(), inputs, outputs, dialect)  # type: ignore[arg-type]


@pytest.fixture
def one_stage(bundle: Bundle, tmp_path: Path) -> Callable[[Graph], Bundle]:
    """Make a bundle whose only stage is the given graph."""

    def make(graph: Graph) -> Bundle:
        first = bundle.manifest.stages[0]
        (x,), (y,) = graph.inputs, graph.outputs
        stage = first.model_copy(
            update={
                "graph": stage_part(first.name, graph),
                "inputs": (InputEntry(name=x.name, dtype=x.dtype, shape=x.shape, source="frame.frame"),),
                "outputs": (OutputEntry(name=y.name, dtype=y.dtype, shape=y.shape),),
            }
        )
        manifest = bundle.manifest.model_copy(update={"stages": (stage,)})
        return write_bundle(tmp_path / "one_stage", manifest, {first.name: graph})

    return make
