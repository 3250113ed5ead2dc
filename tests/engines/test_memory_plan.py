"""What a cascade takes, precision by precision, and on which target it fits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.bundle import Bundle, BundleManifest, calibration_part, read_bundle, write_bundle
from cascadert.engines.memory_plan import (
    OWN_RESERVE_BYTES,
    SHARED_RESERVE_BYTES,
    MemoryPlan,
    plan_artefact,
    plan_memory,
    quantized_shares,
)
from cascadert.engines.profiles import Target, list_targets, load_target
from cascadert.errors import InvalidRequest, TargetError
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.lowering import lower
from cascadert.export.network import network_nodes
from cascadert.export.onnx_io import model_from_graph
from cascadert.graph import Graph
from cascadert.precision import PRECISIONS, Precision, QuantizationPlan, StageCalibration
from cascadert.runtime.open import open_pipeline

TARGETS = [target for target in list_targets() if target.refused is None]

WIDE = """
from torch import nn


def wide(classes=4):
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, classes, 1),
    )
"""
SPEC = """
name = "wide"
classes = { names = ["a", "b", "c", "d"], palette = [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]] }
frame = { height = 32, width = 64 }
grid = { block = 16 }
stages = [
  { name = "fast", model = "nets.py:wide" },
  { name = "accurate", model = "nets.py:wide", select = { policy = "threshold", theta = 0.5 } },
]
"""


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Networks wide enough to be quantized."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "nets.py").write_text(WIDE)
    (folder / "spec.toml").write_text(SPEC)
    return export_bundle(folder / "spec.toml", folder / "bundle", ExportOptions(random_weights=0))


def convolutions(graph: Graph) -> dict[str, int]:
    """The bytes of weights and bias of each convolution, by its output."""
    nodes = [node for node in network_nodes(model_from_graph(lower(graph, "tensorrt"))) if node.op_type == "Conv"]
    constants = {str(node.outputs[0].name): [v.const_value for v in node.inputs if v is not None] for node in nodes}
    return {name: sum(c.nbytes for c in values if c is not None) for name, values in constants.items()}


def calibrate(bundle: Bundle, path: Path, keep: int) -> Bundle:
    """Write the bundle with a calibration of its first stage that keeps some of the inner convolutions in float."""
    graph = bundle.graphs["fast"]
    values = [
        v for node in network_nodes(model_from_graph(graph)) for v in (*node.inputs, *node.outputs) if v is not None
    ]
    ranges = {str(value.name): (-1.0, 1.0) for value in values}
    kept = dict.fromkeys(list(convolutions(graph))[1 : 1 + keep], "to see what it takes")
    plan = QuantizationPlan(calibrator="min-max", ranges=ranges, keep=kept)
    calibration = StageCalibration(peaks={}, int8={"tensorrt": plan})
    first, *others = bundle.manifest.stages
    stages = (first.model_copy(update={"calibration": calibration_part("fast", calibration)}), *others)
    manifest = bundle.manifest.model_copy(update={"stages": stages})
    write_bundle(path, manifest, bundle.graphs, {"fast": calibration})
    return read_bundle(path)


def plan(manifest: BundleManifest, precision: Precision, target: Target | None = None) -> MemoryPlan:
    return plan_memory(manifest, dict.fromkeys((stage.name for stage in manifest.stages), precision), target)


def test_it_is_the_manifests_estimate_in_float32(toy_bundle: Bundle) -> None:
    found = plan(toy_bundle.manifest, "fp32")
    for stage, memory in zip(toy_bundle.manifest.stages, found.stages, strict=True):
        assert memory.weights_bytes == stage.memory.weights_bytes
        assert memory.activation_bytes == stage.memory.activations(1)
        assert memory.largest_activation_bytes == stage.memory.activations(15)
    assert found.total_bytes == (
        sum(stage.memory.weights_bytes + stage.memory.activations(15) for stage in toy_bundle.manifest.stages)
        + found.slots * (40 * 56 * (3 + 1 + 1) + 15 * (4 + 4))
    )
    assert plan(toy_bundle.manifest, "tf32").total_bytes == found.total_bytes


def test_there_are_as_many_slots_as_the_runtime_makes(toy_bundle: Bundle, chain_bundle: Bundle) -> None:
    for bundle in (toy_bundle, chain_bundle):
        with open_pipeline(bundle) as pipeline:
            assert plan(bundle.manifest, "fp32").slots == pipeline.slots


def test_smaller_types_take_less(toy_bundle: Bundle) -> None:
    fp32, fp16, int8 = (plan(toy_bundle.manifest, precision) for precision in ("fp32", "fp16", "int8"))
    assert fp16.weights_bytes == math.ceil(fp32.weights_bytes / 2)
    assert fp16.activation_bytes == math.ceil(fp32.activation_bytes / 2)
    assert int8.weights_bytes == math.ceil(fp32.weights_bytes / 4)
    assert int8.activation_bytes == fp32.activation_bytes
    assert fp32.slots * fp32.slot_bytes == fp16.slots * fp16.slot_bytes


def test_stages_may_differ(toy_bundle: Bundle) -> None:
    found = plan_memory(toy_bundle.manifest, {"fast": "int8", "accurate": "fp32"})
    assert [stage.precision for stage in found.stages] == ["int8", "fp32"]
    assert found.stages[1] == plan(toy_bundle.manifest, "fp32").stages[1]


@given(st.floats(0, 1), st.floats(0, 1))
def test_what_is_quantized_takes_a_quarter(toy_bundle: Bundle, one: float, other: float) -> None:
    whole = toy_bundle.manifest.stages[0].memory.weights_bytes
    less, more = (
        plan_memory(toy_bundle.manifest, {"fast": "int8", "accurate": "int8"}, quantized={"fast": share}).stages[0]
        for share in sorted((one, other))
    )
    assert more.weights_bytes <= less.weights_bytes <= whole
    assert more.quantized == max(one, other)
    assert abs(more.weights_bytes - whole * (1 - 0.75 * max(one, other))) < 1 + 1e-6 * whole


def test_the_share_is_that_of_the_calibration(wide_bundle: Bundle, tmp_path: Path) -> None:
    _, second, third, _ = convolutions(wide_bundle.graphs["fast"]).values()
    whole = wide_bundle.manifest.stages[0].memory.weights_bytes
    some, more = (calibrate(wide_bundle, tmp_path / str(keep), keep) for keep in (1, 0))
    shares = [quantized_shares(bundle, "tensorrt") for bundle in (some, more)]
    assert [list(share) for share in shares] == [["fast"], ["fast"]]
    assert shares[1]["fast"] - shares[0]["fast"] == pytest.approx(second / whole, rel=0.02)
    assert shares[0]["fast"] >= third / whole * 0.98
    assert quantized_shares(more, "cpu") == quantized_shares(wide_bundle, "tensorrt") == {}
    (int8,) = plan_artefact(more, precision="int8")
    assert [stage.quantized for stage in int8.stages] == [shares[1]["fast"], None]


def test_where_nothing_reads_onnx_no_share_is_known(
    wide_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated = calibrate(wide_bundle, tmp_path / "calibrated", 0)
    monkeypatch.setattr("cascadert.engines.memory_plan.find_spec", lambda name: None)
    assert quantized_shares(calibrated, "tensorrt") == {}


def enlarged(manifest: BundleManifest, nbytes: int) -> BundleManifest:
    """The manifest with a first stage of that many bytes of weights, and nothing else of note."""
    first, *others = manifest.stages
    memory = first.memory.model_copy(update={"weights_bytes": nbytes})
    return manifest.model_copy(update={"stages": (first.model_copy(update={"memory": memory}), *others)})


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_it_fits_up_to_the_reserve_of_the_smallest_device(toy_bundle: Bundle, target: Target) -> None:
    found = plan(toy_bundle.manifest, "fp32", target)
    if target.compute_capability is None:
        assert (found.fits, found.memory_bytes, found.reserve_bytes) == (None, None, 0)
        return
    reserve = SHARED_RESERVE_BYTES if target.integrated else OWN_RESERVE_BYTES
    assert (found.target, found.memory_bytes, found.reserve_bytes) == (target.name, target.memory_bytes[0], reserve)
    rest = found.total_bytes - found.stages[0].weights_bytes
    room = target.memory_bytes[0] - reserve - rest
    assert plan(enlarged(toy_bundle.manifest, room), "fp32", target).fits is True
    assert plan(enlarged(toy_bundle.manifest, room + 1), "fp32", target).fits is False


def test_a_bundle_is_planned_in_each_precision(toy_bundle: Bundle) -> None:
    def planned(*args: str | None) -> list[str]:
        return [stage.precision for found in plan_artefact(toy_bundle, *args) for stage in found.stages[:1]]  # type: ignore[arg-type]

    assert planned() == ["fp32", "fp16", "int8"]
    assert planned("gtx-1080-ti") == ["fp32", "int8"]
    assert planned("orin-nano-8gb") == ["fp32", "fp16", "int8"]
    assert all(planned(None, precision) == [precision] for precision in PRECISIONS)
    assert plan_artefact(toy_bundle)[0].fits is None
    assert plan_artefact(toy_bundle, "orin-nano-8gb")[0].fits is True


def test_a_bundle_is_planned_with_a_precision_of_each_stage(toy_bundle: Bundle) -> None:
    (found,) = plan_artefact(toy_bundle, None, {"fast": "fp16", "accurate": "fp32"})
    assert dict(found.precisions) == {"fast": "fp16", "accurate": "fp32"}
    fp32, fp16, _ = plan_artefact(toy_bundle)
    assert found.stages == (fp16.stages[0], fp32.stages[1])
    with pytest.raises(InvalidRequest, match="says nothing of stage 'accurate'"):
        plan_artefact(toy_bundle, None, {"fast": "fp16"})
    with pytest.raises(InvalidRequest, match="precision 'fp8': is not known"):
        plan_artefact(toy_bundle, None, "fp8")
    with pytest.raises(TargetError, match="stage 'accurate' in fp16 for gtx-1080-ti: Pascal"):
        plan_artefact(toy_bundle, "gtx-1080-ti", {"fast": "fp32", "accurate": "fp16"})


def test_what_a_target_refuses_is_not_planned(toy_bundle: Bundle) -> None:
    with pytest.raises(TargetError, match="stage 'fast' in fp16 for gtx-1080-ti: Pascal"):
        plan_artefact(toy_bundle, "gtx-1080-ti", "fp16")
    with pytest.raises(TargetError, match="target 'tx2': is refused"):
        plan_artefact(toy_bundle, "tx2")
    with pytest.raises(TargetError, match="target 'voodoo': is not known"):
        plan_artefact(toy_bundle, "voodoo")
    assert load_target("gtx-1080-ti").precisions["fp16"].speed == "refused"


def test_a_deployment_has_its_own_target_and_precisions(toy_bundle: Bundle, tmp_path: Path) -> None:
    from cascadert.engines.build import build_engine

    deployment = build_engine(toy_bundle, "cpu", tmp_path / "cpu")
    (found,) = plan_artefact(deployment)
    assert (found.target, dict(found.precisions)) == ("cpu", {"fast": "fp32", "accurate": "fp32"})
    with pytest.raises(
        InvalidRequest, match=r"cpu: is a deployment, which has its .*; leave --target and --precision out"
    ):
        plan_artefact(deployment, "rtx-30")


def test_a_deployment_takes_no_more_than_its_engines_do(toy_bundle: Bundle, tmp_path: Path) -> None:
    from cascadert.engines.build import BuildOptions, build_engine

    deployment = build_engine(toy_bundle, "rtx-30", tmp_path / "rtx", BuildOptions(max_blocks=2))
    (limited,), (bundle, *_) = plan_artefact(deployment), plan_artefact(toy_bundle)
    assert (limited.blocks, bundle.blocks) == (2, toy_bundle.spec.blocks)
    assert limited.activation_bytes < bundle.activation_bytes
