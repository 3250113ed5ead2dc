"""Calibration of cascades that are more than a chain of blocks: samples, int8 and thetas of every kind of stage."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cascadert.bundle import Bundle
from cascadert.calibration.calibrate import Calibrated, CalibrateOptions, calibrate
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions
from cascadert.calibration.quality import at_fault
from cascadert.calibration.refit import Recording
from cascadert.calibration.samples import SampleOptions, collect
from cascadert.errors import InvalidRequest
from cascadert.export.compile import rebuild_stages
from cascadert.export.precision import float32_operators, lower_to, quantized_operators
from tests.calibration.conftest import with_theta

System = Callable[[str], Bundle]
Frames = list[dict[str, np.ndarray]]
FEW = SampleOptions(frames=3, blocks=5, threads=1)
WITHOUT_WEIGHTS = ("reduce",)


SEEN: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "exits": {
        "segment1": {"pixels": (3, 3, 64, 96)},
        "exit1": {"pixels": (3, 16, 16, 24)},
        "segment2": {"pixels": (3, 16, 16, 24)},
        "exit2": {"pixels": (3, 16, 16, 24)},
    },
    "context": {
        "low": {"pixels": (3, 3, 32, 48)},
        "patches": {"pixels": (5, 3, 32, 32), "pixels_2": (5, 16, 8, 8)},
    },
    "columns": {
        "half": {"pixels": (3, 3, 64, 96)},
        "crops": {"pixels": (5, 3, 32, 32)},
        "fuse": {"pixels": (3, 1, 2, 3), "pixels_2": (3, 16, 16, 24), "pixels_3": (3, 16, 8, 12)},
    },
    "ensemble": {
        "wide": {"pixels": (3, 3, 64, 96)},
        "narrow": {"pixels": (3, 3, 64, 96)},
        "reduce": {},
        "accurate": {"pixels": (5, 3, 32, 32)},
    },
}


@pytest.mark.parametrize("kind", list(SEEN))
def test_samples_have_everything_that_a_network_sees(system: System, system_frames: Frames, kind: str) -> None:
    samples = collect(system(kind), system_frames, FEW)
    found = {
        stage: {name: (array.shape, array.dtype) for name, array in seen.items()}
        for stage, seen in samples.seen.items()
    }
    wanted = {
        stage: {name: (shape, np.dtype(np.float32)) for name, shape in seen.items()}
        for stage, seen in SEEN[kind].items()
    }
    for stage, seen in wanted.items():  # the order in which the graph first reads them is the network's own affair
        assert sorted(map(str, found[stage].values())) == sorted(map(str, seen.values())), stage


def test_rows_of_one_sample_belong_together(system: System, system_frames: Frames) -> None:
    """A patch and the context that lies under it: the network gives the logits that it gave in the cascade."""
    bundle = system("context")
    stage = dict(zip(("low", "patches"), rebuild_stages(bundle), strict=True))["patches"]
    samples = collect(bundle, system_frames[:2], SampleOptions(blocks=500, threads=1))
    low = dict(zip(("low", "patches"), rebuild_stages(bundle), strict=True))["low"]
    wanted = []
    with torch.inference_mode():
        for number, planes in enumerate(system_frames[:2]):
            frame = torch.from_numpy(planes["frame"])
            made = dict(zip(low.output_names, low(frame), strict=True))
            selection = samples.selections["patches"][number]
            chosen = torch.from_numpy(selection.order[: selection.n])
            given = {
                "frame": frame,
                "indices": chosen,
                "low.features": made["features"],
                "prior_labels": made["labels"],
            }
            wanted.append(stage.answer(*(given[name] for name in stage.input_names))["logits"].numpy())
        pair = sorted(samples.seen["patches"].values(), key=lambda array: array.shape[1])
        found = stage.network(*map(torch.from_numpy, pair)).numpy()
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=1e-4)


def test_a_stage_behind_an_exit_that_is_always_taken_is_an_error(
    system: System, system_frames: Frames, tmp_path: Path
) -> None:
    message = (
        r"^calibration of stage 'segment2': it never ran on 2 frames, all of which ended before stage 'segment2'; "
        r"lower theta of 'segment2', give other frames, or export with --until an earlier stage$"
    )
    with pytest.raises(InvalidRequest, match=message):
        collect(with_theta(system("exits"), tmp_path / "high", 1.1), system_frames[:2], FEW)


def test_weighting_by_uncertainty_needs_logits(system: System, system_frames: Frames) -> None:
    collect(system("exits"), system_frames[3::4], SampleOptions(weighting="uncertainty", threads=1))
    message = r"^weighting 'uncertainty': needs logits, and stage 'reduce' has no network of its own; choose 'classes'$"
    with pytest.raises(InvalidRequest, match=message):
        collect(system("ensemble"), system_frames[:1], SampleOptions(weighting="uncertainty", threads=1))


@pytest.mark.parametrize("kind", list(SEEN))
def test_half_precision_is_near_in_every_kind(system: System, system_frames: Frames, kind: str) -> None:
    report = compare_precisions(system(kind), system_frames[3::4], PrecisionOptions(numerics=("fp16",), threads=1))
    report.check()
    torch_row, fp16 = report.row("torch"), report.row("fp16")
    for stage in SEEN[kind]:
        assert torch_row.sqnr_db[stage] > 100
        if stage in WITHOUT_WEIGHTS:
            assert fp16.sqnr_db[stage] == np.inf
        else:
            assert 40 < fp16.sqnr_db[stage] < 90


def test_a_network_without_weights_is_float32_in_every_precision(system: System) -> None:
    graph = system("ensemble").graphs["reduce"]
    lowered = lower_to(graph, "tensorrt")
    assert lower_to(graph, "tensorrt", "fp16").onnx == lowered.onnx
    assert len(float32_operators(lowered)) == len(set(float32_operators(lower_to(graph, "tensorrt", "fp16")))) > 10


@pytest.fixture(scope="module", params=list(SEEN))
def calibrated(
    request: pytest.FixtureRequest, system: System, system_frames: Frames, tmp_path_factory: pytest.TempPathFactory
) -> Calibrated:
    """Both dialects, one calibrator."""
    options = CalibrateOptions(samples=SampleOptions(blocks=16, threads=1), calibrators=("entropy",))
    out = tmp_path_factory.mktemp("calibrated") / "bundle"
    return calibrate(system(request.param), Recording(system_frames), out, options)


@pytest.mark.slow
def test_the_gate_holds_for_every_kind(calibrated: Calibrated) -> None:
    calibrated.report.check()
    names = [stage.name for stage in calibrated.bundle.manifest.stages]
    for row in calibrated.report.rows:
        assert list(row.sqnr_db) == names
        assert row.label_agreement > 0.9
    for dialect in ("tensorrt", "cpu"):
        plans = {name: found.int8[dialect] for name, found in calibrated.bundle.calibrations.items()}
        graphs = calibrated.bundle.graphs.items()
        int8 = [name for name, graph in graphs if quantized_operators(graph, dialect, plans[name])]
        assert int8, "something is left in int8"
        assert not set(int8) & set(WITHOUT_WEIGHTS)


@pytest.mark.slow
def test_thetas_follow_in_the_unit_of_the_score(calibrated: Calibrated) -> None:
    for stage in calibrated.bundle.manifest.stages:
        if stage.select is not None and stage.select.policy.policy == "threshold":
            assert set(stage.select.thetas) == {"fp16", "int8-tensorrt", "int8-cpu"}
            for theta in stage.select.thetas.values():
                assert theta == pytest.approx(stage.select.policy.theta, abs=0.1)


@pytest.mark.slow
def test_what_scores_are_made_of_is_blamed_for_them(calibrated: Calibrated) -> None:
    row, manifest = calibrated.report.row("fp16"), calibrated.bundle.manifest
    worse = {name: dataclasses.replace(error, mean=1.0) for name, error in row.score_errors.items()}
    blamed = at_fault(dataclasses.replace(row, score_errors=worse), manifest)
    assert (
        blamed
        == {
            "exits": ["segment1", "exit1"],
            "context": ["low"],
            "columns": ["half"],
            "ensemble": ["wide", "narrow", "reduce"],
        }[manifest.spec.name]
    )
