"""Parity passes where it should, and fails where it must."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
from onnx import numpy_helper

from cascadert.bundle import Bundle, BundleManifest, stage_part, write_bundle
from cascadert.calibration.doubt import Doubt
from cascadert.calibration.parity import ParityOptions, _is_excused, check_parity
from cascadert.errors import BundleError, ParityError, SpecError
from cascadert.export.compile import export_bundle
from cascadert.runtime.results import StageRun
from cascadert.spec import ThresholdPolicy

ONE = ParityOptions(frames=1, threads=1)


def rewritten(
    bundle: Bundle, path: Path, change: Callable[[dict[str, Any]], None], onnx_of: dict[str, bytes] | None = None
) -> Bundle:
    """Write a bundle with a changed manifest or changed graphs, all hashes in order."""
    graphs = {
        name: dataclasses.replace(graph, onnx=(onnx_of or {}).get(name, graph.onnx))
        for name, graph in bundle.graphs.items()
    }
    data = json.loads(bundle.manifest.to_json())
    for stage in data["stages"]:
        stage["graph"] = stage_part(stage["name"], graphs[stage["name"]]).model_dump()
    change(data)
    return write_bundle(path, BundleManifest.model_validate(data), graphs)


def perturbed(content: bytes, name: str, factor: float) -> bytes:
    model = onnx.load_model_from_string(content)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(name))
    weight.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(weight) * factor).astype(np.float32), weight.name))
    return model.SerializeToString()


def test_the_toy_cascade_passes(toy_bundle: Bundle) -> None:
    done: list[int] = []
    report = check_parity(toy_bundle, options=ParityOptions(frames=2, threads=1), progress=done.append)
    report.check()
    assert report.passed
    assert done == [1, 2]
    ports = [
        ("fast", "labels"),
        ("fast", "scores"),
        ("fast", "order"),
        ("accurate", "labels"),
        ("end to end", "labels"),
    ]
    assert [(row.stage, row.port) for row in report.rows] == ports
    assert all(row.elements == 2 * (15 if row.port in ("scores", "order") else 40 * 56) for row in report.rows)
    assert report.blocks == 15
    assert report.frames == 2
    assert len(report.selected["accurate"]) == 2
    assert all(0 < n < 15 for n in report.selected["accurate"])
    assert 1 < report.classes <= 4
    data = json.loads(report.to_json())
    assert data["passed"] is True
    assert [row["passed"] for row in data["rows"]] == [True] * 5


def test_chains_cameras_and_given_frames_pass(
    chain_bundle: Bundle, cameras_bundle: Bundle, toy_frames: np.ndarray
) -> None:
    chain = check_parity(chain_bundle, options=ONE)
    chain.check()
    assert ("middle", "scores") in {(row.stage, row.port) for row in chain.rows}
    pair = check_parity(cameras_bundle, [{"frame": toy_frames[:2]}, {"frame": toy_frames[2:4]}], ONE)
    pair.check()
    assert (pair.frames, pair.blocks) == (2, 30)


@pytest.mark.parametrize(
    ("stage", "name", "rows"),
    [
        ("fast", "3.weight", {("fast", "scores"), ("fast", "labels"), ("end to end", "labels")}),
        ("accurate", "3.weight", {("accurate", "labels"), ("end to end", "labels")}),
    ],
)
def test_a_graph_that_computes_something_else_fails(
    toy_bundle: Bundle, tmp_path: Path, stage: str, name: str, rows: set[tuple[str, str]]
) -> None:
    broken = perturbed(toy_bundle.graphs[stage].onnx, name, 1.5)
    bundle = rewritten(toy_bundle, tmp_path / "broken", lambda data: None, {stage: broken})
    report = check_parity(bundle, options=ONE)
    beyond = {(row.stage, row.port) for row in report.rows if not row.passed}
    assert not report.passed
    assert rows <= beyond | {("fast", "labels"), ("end to end", "labels")}
    assert beyond & rows
    assert not {row for row in beyond if row[0] not in (stage, "end to end")}  # the other stage is not blamed
    with pytest.raises(ParityError, match=rf"^parity of {stage}\.\w+: .* differ.*; the limit is "):
        report.check()


def test_a_difference_of_a_thousandth_is_found(toy_bundle: Bundle, tmp_path: Path) -> None:
    broken = perturbed(toy_bundle.graphs["fast"].onnx, "3.weight", 1.001)
    bundle = rewritten(toy_bundle, tmp_path / "broken", lambda data: None, {"fast": broken})
    report = check_parity(bundle, options=ONE)
    (scores,) = (row for row in report.rows if row.port == "scores")
    assert not scores.passed
    assert 1e-4 < scores.largest < 1e-2


def test_nothing_selected_is_vacuous(toy_bundle: Bundle, tmp_path: Path) -> None:
    def high(data: dict[str, Any]) -> None:
        data["stages"][1]["select"]["policy"]["theta"] = 99.0

    report = check_parity(rewritten(toy_bundle, tmp_path / "high", high), options=ONE)
    assert not report.passed
    assert report.selected == {"accurate": (0,)}
    assert all(row.passed for row in report.rows)
    with pytest.raises(
        ParityError, match=r"^parity: is vacuous: stage 'accurate' refined no block; give other frames or weights$"
    ):
        report.check()


def test_no_frames_are_vacuous(toy_bundle: Bundle) -> None:
    report = check_parity(toy_bundle, [], ONE)
    with pytest.raises(ParityError, match=r"^parity: is vacuous: there was no frame; "):
        report.check()


def test_one_class_everywhere_is_vacuous(toy_folder: Path, toy_data: dict[str, Any], save_spec, tmp_path: Path) -> None:
    toy_data["name"] = "constant"
    toy_data["stages"] = [{"name": "fast", "model": "networks.py:Constant", "weights": "nothing.safetensors"}]
    safetensors.torch.save_file({}, toy_folder / "nothing.safetensors")
    bundle = export_bundle(save_spec(toy_folder, toy_data), tmp_path / "constant")
    report = check_parity(bundle, options=ONE)
    assert not report.passed
    assert report.classes == 1
    with pytest.raises(ParityError, match=r"^parity: is vacuous: one class everywhere; give other frames or weights$"):
        report.check()


@pytest.fixture
def moved(toy_folder: Path, tmp_path: Path) -> Path:
    """The toy's folder, somewhere else; the path of its specification."""
    return shutil.copytree(toy_folder, tmp_path / "moved", ignore=shutil.ignore_patterns("__pycache__")) / "toy.toml"


def test_weights_that_changed_since_export_are_noticed(toy_bundle: Bundle, moved: Path) -> None:
    check_parity(toy_bundle, options=dataclasses.replace(ONE, spec=moved)).check()
    path = moved.with_name("accurate.safetensors")
    state = safetensors.torch.load_file(path)
    state["3.bias"][0] += 1e-3
    safetensors.torch.save_file(state, path)
    message = (
        r"stage 'accurate': its weights in .*moved are not the ones that were exported; export again, or restore them$"
    )
    with pytest.raises(BundleError, match=message):
        check_parity(toy_bundle, options=dataclasses.replace(ONE, spec=moved))


def test_a_spec_that_is_gone_is_asked_for(toy_bundle: Bundle, moved: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    bundle = rewritten(toy_bundle, tmp_path / "out", lambda data: data.update(spec_folder=str(gone)))
    with pytest.raises(
        BundleError, match=rf"was exported from {gone}, which is not there; pass --spec with its present"
    ):
        check_parity(bundle, options=ONE)
    check_parity(bundle, options=dataclasses.replace(ONE, spec=moved)).check()
    with pytest.raises(SpecError, match=r"none\.toml: cannot be read"):
        check_parity(bundle, options=dataclasses.replace(ONE, spec=tmp_path / "none.toml"))


def test_random_weights_can_be_checked_too(
    toy_folder: Path, toy_data: dict[str, Any], toy_bundle: Bundle, tmp_path: Path
) -> None:
    """The seed is in the manifest: the same networks are built again, or the difference is noticed."""

    def seeded(data: dict[str, Any]) -> None:
        for stage in data["spec"]["stages"]:
            stage["weights"] = None
        for stage in data["stages"]:
            stage["network"].update(weights=None, random_seed=1)

    bundle = rewritten(toy_bundle, tmp_path / "seeded", seeded)
    with pytest.raises(BundleError, match="are not the ones that were exported"):
        check_parity(bundle, options=ONE)


def test_a_reference_that_doubts_itself_everywhere_is_vacuous(toy_bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    def everywhere(module: Any, inputs: Any, outputs: Any, margins: np.ndarray, perturbation: float = 0) -> Doubt:
        return Doubt(np.zeros_like(margins), {name: np.full_like(v, 9.0) for name, v in outputs.items() if v.ndim == 1})

    monkeypatch.setattr("cascadert.calibration.stage_parity.doubt_of", everywhere)
    broken = perturbed(toy_bundle.graphs["fast"].onnx, "3.weight", -1.0)
    report = check_parity(rewritten(toy_bundle, tmp_path / "broken", lambda data: None, {"fast": broken}), options=ONE)
    assert all(row.passed for row in report.rows if row.port == "labels")
    assert not report.passed
    with pytest.raises(ParityError, match=r"^parity: is vacuous: [\d.]+% of fast\.labels are ties"):
        report.check()


@pytest.mark.parametrize(("score", "excused"), [(0.50005, True), (0.49995, True), (0.6, False), (0.4, False)])
def test_another_decision_is_excused_at_the_threshold_alone(toy_bundle: Bundle, score: float, excused: bool) -> None:
    entry = toy_bundle.manifest.stages[1]
    assert entry.select is not None
    select = entry.select.model_copy(update={"policy": ThresholdPolicy(theta=0.5)})
    walk = SimpleNamespace(selected={"accurate": np.int32([0])})
    pairs = {"fast": SimpleNamespace(score_limit=1e-4)}
    scores = np.array([0.9, score, 0.1], np.float32)
    stage = entry.model_copy(update={"select": select})
    for n, expected in ((2, excused), (1, False)):
        assert _is_excused(stage, StageRun("accurate", 1.0, n, scores), walk, pairs) is expected  # type: ignore[arg-type]
