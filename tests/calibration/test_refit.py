"""Theta follows the scores of a precision, decision by decision."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.calibration.refit import Recording, measure_reference, refit_thetas
from cascadert.calibration.samples import collect
from cascadert.calibration.stage_runs import GraphRunner, run_cascade
from cascadert.export.lowering import lower
from cascadert.pixels import planes_from_rgb
from cascadert.scenes import SceneOptions, render
from cascadert.spec import ThresholdPolicy


class Shifted:
    """A stage whose scores are off by a factor and a shift, as those of another precision may be."""

    def __init__(self, runner: GraphRunner, factor: float, shift: float) -> None:
        self._runner, self._factor, self._shift = runner, factor, shift

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        found = self._runner.run(inputs)
        if "scores" in found:
            found["scores"] = found["scores"] * np.float32(self._factor) + np.float32(self._shift)
        return found


@pytest.fixture(scope="module")
def recording(toy_bundle: Bundle) -> Recording:
    frame = toy_bundle.spec.frame
    streets = [render(3, 5 * i, SceneOptions(height=64, width=64)).image for i in range(6)]
    rgb = [street[None, : frame.height, : frame.width] for street in streets]
    return Recording([planes_from_rgb(image, frame.pixel_format) for image in rgb])


def runners(bundle: Bundle) -> dict[str, GraphRunner]:
    return {name: GraphRunner(name, lower(graph, "onnxruntime"), 1) for name, graph in bundle.graphs.items()}


def blocks_of(
    bundle: Bundle, stages: Mapping[str, Any], recording: Recording, thetas: Mapping[str, float]
) -> list[Any]:
    policies = {name: ThresholdPolicy(theta=theta) for name, theta in thetas.items()}
    traces = [run_cascade(bundle.manifest, stages, planes, policies, {}) for planes in recording.frames]
    return [{name: sorted(found.tolist()) for name, found in trace.selected.items()} for trace in traces]


def thetas_of(bundle: Bundle) -> dict[str, float]:
    return {s.name: s.select.policy.theta for s in bundle.manifest.stages if s.select is not None}  # type: ignore[union-attr]


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (1.0, 0.07), (0.9, -0.02), (1.3, 0.1)])
def test_the_same_blocks_are_refined_again(
    toy_bundle: Bundle, recording: Recording, factor: float, shift: float
) -> None:
    reference = runners(toy_bundle)
    other = {name: Shifted(runner, factor, shift) for name, runner in reference.items()}
    fp32 = measure_reference(toy_bundle.manifest, reference, recording, "blocks")
    thetas = refit_thetas(toy_bundle.manifest, fp32, other, recording, "blocks")
    wanted = blocks_of(toy_bundle, reference, recording, thetas_of(toy_bundle))
    assert any(any(found.values()) for found in wanted)
    assert blocks_of(toy_bundle, other, recording, thetas) == wanted
    if shift:
        assert blocks_of(toy_bundle, other, recording, thetas_of(toy_bundle)) != wanted, "nothing had to be refitted"


def test_none_changes_nothing(toy_bundle: Bundle, recording: Recording) -> None:
    fp32 = measure_reference(toy_bundle.manifest, runners(toy_bundle), recording, "none")
    assert refit_thetas(toy_bundle.manifest, fp32, runners(toy_bundle), recording, "none") == {}


def test_what_sampling_saw_is_what_theta_is_refitted_against(toy_bundle: Bundle, recording: Recording) -> None:
    seen = collect(toy_bundle, recording.frames).selections
    measured = measure_reference(toy_bundle.manifest, runners(toy_bundle), recording, "blocks").scores
    assert seen.keys() == measured.keys() == {"accurate"}
    for one, scores in zip(seen["accurate"], measured["accurate"], strict=True):
        np.testing.assert_array_equal(one.scores, scores)


def test_for_miou_the_fewest_blocks_that_keep_it(toy_bundle: Bundle, recording: Recording) -> None:
    reference = runners(toy_bundle)
    policies = {s.name: s.select.policy for s in toy_bundle.manifest.stages if s.select is not None}
    truths = [run_cascade(toy_bundle.manifest, reference, f, policies, {}).labels for f in recording.frames]
    labelled = Recording(recording.frames, truths)
    fp32 = measure_reference(toy_bundle.manifest, reference, labelled, "miou")
    thetas = refit_thetas(toy_bundle.manifest, fp32, reference, labelled, "miou")
    (theta,) = thetas.values()
    found = blocks_of(toy_bundle, reference, recording, thetas)
    wanted = blocks_of(toy_bundle, reference, recording, thetas_of(toy_bundle))
    assert sum(len(b) for f in found for b in f.values()) <= sum(len(b) for f in wanted for b in f.values())
    assert np.isfinite(theta)
