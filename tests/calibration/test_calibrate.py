"""From a bundle and frames to a bundle that can be built in fp16 and int8, on a small cascade of real networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle, read_bundle
from cascadert.calibration.calibrate import HELD_OUT, Calibrated, CalibrateOptions, calibrate, split
from cascadert.calibration.gate import INT8_LABEL_AGREEMENT_LIMIT, INT8_SQNR_LIMIT_DB
from cascadert.calibration.refit import Recording
from cascadert.calibration.samples import SampleOptions
from cascadert.errors import InvalidRequest
from cascadert.export.compile import export_bundle
from cascadert.export.precision import lower_to, quantized_operators
from cascadert.pixels import planes_from_rgb
from cascadert.precision import CALIBRATORS
from cascadert.scenes import SceneOptions, render

NETWORKS = """
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x):
        return (x + self.second(self.first(x))).relu()


def network(classes=4, width=16, stride=2):
    stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(stem, Residual(width), Residual(width), nn.Conv2d(width, classes, 1))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, save_spec: Any) -> Bundle:
    from cascadert.export.compile import ExportOptions

    folder = tmp_path_factory.mktemp("wide")
    (folder / "networks.py").write_text(NETWORKS)
    data = {
        "name": "wide",
        "classes": {"names": ["a", "b", "c", "d"], "palette": [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]]},
        "frame": {"height": 64, "width": 96},
        "grid": {"block": 16},
        "stages": [
            {"name": "fast", "model": "networks.py:network", "args": {"stride": 4}},
            {
                "name": "accurate",
                "model": "networks.py:network",
                "args": {"width": 24},
                "halo": 8,
                "select": {"policy": "threshold", "theta": 1.0},
            },
        ],
    }
    return export_bundle(save_spec(folder, data), folder / "bundle", ExportOptions(random_weights=3))


def streets(bundle: Bundle, count: int) -> list[dict[str, np.ndarray]]:
    frame = bundle.spec.frame
    options = SceneOptions(height=64, width=96)
    images = [render(20 + i % 3, 7 * i, options).image[None, : frame.height, : frame.width] for i in range(count)]
    return [dict(planes_from_rgb(image, frame.pixel_format)) for image in images]


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def calibrated(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> Calibrated:
    options = CalibrateOptions(source="streets", samples=SampleOptions(blocks=32, threads=1))
    return calibrate(bundle, Recording(streets(bundle, 12)), tmp_path_factory.mktemp("out") / "b", options, said.append)


def test_the_gate_holds_and_the_record_says_what_was_measured(calibrated: Calibrated) -> None:
    calibrated.report.check()
    entry = read_bundle(calibrated.bundle.path).manifest.calibration
    assert entry is not None
    assert (entry.source, entry.images, entry.seed) == ("streets", 9, 0)
    assert [row.numerics for row in entry.quality] == ["fp32", "fp16", "int8-tensorrt", "int8-cpu"]
    by_name = {row.numerics: row for row in entry.quality}
    assert by_name["fp16"].label_agreement > 0.99
    for name in ("int8-tensorrt", "int8-cpu"):
        row = by_name[name]
        assert row.label_agreement >= INT8_LABEL_AGREEMENT_LIMIT
        assert min(row.sqnr_db.values()) >= INT8_SQNR_LIMIT_DB
        assert row.sqnr_db["accurate"] < by_name["fp16"].sqnr_db["accurate"], "int8 cannot be quieter than fp16"


def test_every_calibrator_was_tried_and_the_best_was_taken(calibrated: Calibrated) -> None:
    for plans in calibrated.plans.values():
        for plan in plans.values():
            assert set(plan.tried) == set(CALIBRATORS)
            best = max(found.agreement for found in plan.tried.values())
            assert plan.tried[plan.plan.calibrator].agreement == best


@pytest.mark.parametrize("stage", ["fast", "accurate"])
@pytest.mark.parametrize("int8", ["tensorrt", "cpu"])
def test_int8_is_left_in_every_stage(calibrated: Calibrated, bundle: Bundle, stage: str, int8: Any) -> None:
    plan = calibrated.bundle.calibrations[stage].int8[int8]
    assert quantized_operators(bundle.graphs[stage], int8, plan)
    lower_to(bundle.graphs[stage], "tensorrt", "int8-tensorrt", calibrated.bundle.calibrations[stage], rest="fp16")


def test_theta_is_kept_for_each_precision(calibrated: Calibrated) -> None:
    select = calibrated.bundle.manifest.stages[1].select
    assert select is not None
    assert set(select.thetas) == {"fp16", "int8-tensorrt", "int8-cpu"}
    assert select.policy_for("fp32") == select.policy
    assert select.policy_for("int8-cpu") != select.policy


def test_the_graphs_are_those_of_the_bundle_that_was_calibrated(calibrated: Calibrated, bundle: Bundle) -> None:
    assert {name: graph.sha256 for name, graph in calibrated.bundle.graphs.items()} == {
        name: graph.sha256 for name, graph in bundle.graphs.items()
    }


def test_one_word_is_said_before_each_step(calibrated: Calibrated, said: list[str]) -> None:
    assert said[0] == "running the cascade in fp32"
    assert {"fast: ranges", "accurate: tensorrt, entropy", "int8-cpu: refitting theta", "comparing precisions"} <= set(
        said
    )


def test_every_fourth_frame_is_held_out() -> None:
    frames: list[Any] = [{"number": i} for i in range(10)]
    seen, held = split(Recording(frames, [np.zeros((1, 1, 1), np.uint8)] * 10))
    assert [frame["number"] for frame in held.frames] == [3, 7]
    assert [frame["number"] for frame in seen.frames] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert seen.truths is not None
    assert len(seen.truths) == 8


def test_bad_requests_are_refused_before_anything_runs(bundle: Bundle, tmp_path: Path, said: list[str]) -> None:
    frames = streets(bundle, 8)
    with pytest.raises(InvalidRequest, match=r"frames: are 7, of which every 4th is held out; give at least 8"):
        calibrate(bundle, Recording(frames[:7]), tmp_path / "out")
    with pytest.raises(InvalidRequest, match=r"labels: are 1 for 8 frames; give one for each frame"):
        calibrate(bundle, Recording(frames, [np.zeros((1, 64, 96), np.uint8)]), tmp_path / "out")
    with pytest.raises(InvalidRequest, match=r"refit 'miou': there are no labels; give labels, or refit for 'blocks'"):
        calibrate(bundle, Recording(frames), tmp_path / "out", CalibrateOptions(refit="miou"))
    with pytest.raises(InvalidRequest, match="exists already"):
        calibrate(bundle, Recording(frames), bundle.path)
    assert not (tmp_path / "out").exists()
    assert HELD_OUT == 4


def test_what_cannot_hold_in_int8_falls_back_until_it_does(bundle: Bundle, tmp_path: Path, monkeypatch: Any) -> None:
    from cascadert.calibration import stage_plans
    from cascadert.calibration.judge import Floor

    monkeypatch.setattr(stage_plans, "FLOOR", Floor(200.0, 1.0))
    options = CalibrateOptions(samples=SampleOptions(blocks=16, threads=1), calibrators=("min-max",), dialects=("cpu",))
    found = calibrate(bundle, Recording(streets(bundle, 8)), tmp_path / "out", options)
    for stage, plans in found.plans.items():
        assert plans["cpu"].fallback.exhausted
        assert not quantized_operators(bundle.graphs[stage], "cpu", plans["cpu"].fallback.plan)
        reasons = set(plans["cpu"].fallback.plan.keep.values())
        assert all(reason.startswith("sensitive: int8 in network") for reason in reasons)
