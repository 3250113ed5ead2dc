"""The exit policy of experiment X12: its sweep is the product's, and its verdicts follow from the numbers."""

from typing import Any

import numpy as np
import pytest
from experiments.exits_findings import findings
from experiments.exits_heads import mean_iou
from experiments.exits_policy import (
    EDGES,
    MEAN,
    PLAIN,
    Sweep,
    image_draws,
    mean_gain,
    ranks,
    spearman,
    sweep,
    with_smoothing,
)

from cascadert.bundle import Bundle
from cascadert.calibration.exit_chain import exits_of
from cascadert.calibration.exit_measurement import ExitMeasurement
from cascadert.calibration.exits import PlannedExit, run_plan

IMAGES, CLASSES = 9, 3


@pytest.fixture
def found(exits_bundle: Bundle) -> ExitMeasurement:
    """Random confusions of the same truth, and confidences, of the three exits of a real bundle."""
    exits, rng = exits_of(exits_bundle.manifest), np.random.default_rng(0)
    truth = rng.integers(5, 50, (IMAGES, CLASSES))
    shape = (len(exits), IMAGES, CLASSES)
    confusion = np.stack([rng.multinomial(n, [1 / CLASSES] * CLASSES, shape[:2]) for n in truth[0]], axis=2)
    cost = {stage.name: stage.network.macs / 1e6 for stage in exits_bundle.manifest.stages}
    confidence = rng.random(shape[:2]).astype(np.float32)
    return ExitMeasurement(exits_bundle.manifest, exits, confidence, confusion, cost, "multiply-adds")


def test_a_sweep_is_the_plan_with_that_threshold_at_every_exit(found: ExitMeasurement) -> None:
    swept, records, costs = sweep(found, found.confidence), found.records(), found.costs(speculative=False)
    macs, miou = swept.curve(np.ones(IMAGES))
    rates = swept.rates(3)
    for place, threshold in enumerate(swept.thresholds):
        *early, final = found.candidates
        plan = [*(PlannedExit(one, float(threshold)) for one in early), PlannedExit(final, 0.0)]
        outcome = run_plan(plan, records, costs)
        assert outcome.rates == pytest.approx(rates[place].tolist())
        assert outcome.quality == pytest.approx(miou[place])
        assert outcome.latency_ms == pytest.approx(macs[place] / 1e6)
    assert rates[0].tolist() == [1, 0, 0]
    assert rates[-1].tolist() == [0, 0, 1]


def test_weights_are_repetitions(found: ExitMeasurement) -> None:
    swept = sweep(found, found.confidence)
    twice = np.ones(IMAGES)
    twice[:3] = 2
    kept = [0, 1, 2, *range(IMAGES)]
    repeated = Sweep(swept.thresholds, swept.leaves[:, kept], swept.counts[:, kept], swept.macs[:, kept])
    for one, other in zip(swept.curve(twice), repeated.curve(np.ones(len(kept))), strict=True):
        assert one == pytest.approx(other)


def test_gain_is_the_mean_height_between_two_curves(found: ExitMeasurement) -> None:
    swept = sweep(found, found.confidence)
    assert mean_gain(swept, swept, np.ones(IMAGES)) == 0
    perfect = Sweep(swept.thresholds, swept.leaves, swept.counts * np.eye(CLASSES, dtype=np.int64), swept.macs)
    miou = swept.curve(np.ones(IMAGES))[1]
    gain = mean_gain(perfect, swept, np.ones(IMAGES))
    assert 1 - miou.max() <= gain <= 1 - miou.min()


def test_rank_correlation() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0, 2.5, 1]
    one = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(one, np.exp(one)) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(1 - 6 * 4 / (5 * 24))


def test_mean_iou_counts_classes_that_occur() -> None:
    counts = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert mean_iou(counts) == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_draws_are_runs_of_neighbours() -> None:
    draws = image_draws(25, draws=3)
    assert draws.shape == (3, 25)
    assert set(np.unique(np.diff(draws[:, :10]) % 25)) == {1}
    assert np.array_equal(draws, image_draws(25, draws=3))


def test_smoothing_is_that_of_every_exit(exits_bundle: Bundle) -> None:
    before = {stage.name for stage in exits_bundle.spec.stages if stage.score is not None}
    spec = with_smoothing(exits_bundle.spec, "none")
    scores = {stage.name: stage.score for stage in spec.stages if stage.score is not None}
    assert set(scores) == before != set()
    assert {score.smoothing for score in scores.values()} == {"none"}


def numbers(**changes: Any) -> dict[str, Any]:
    """Numbers by which everything holds."""

    def levels(mean: float, spread: float) -> dict[str, list[float]]:
        return {"mean": [mean, mean], "range": [spread, spread]}

    row = {"times_fewer_macs": 1.5, "drop": 0.004, "exits": ["a", "b"], "rates": [0.25, 0.75]}
    gain = {"gain": 0.02, "standard_error": 0.005}
    heads = {"searched": [0.5, 0.4], "uniform": [0.4, 0.2], "cost_ratio": 2.0}
    rows = {MEAN: [0.2, 0.0], PLAIN: [0.3, 0.0], EDGES: [0.5, 0.0], "standard_error_of_difference": 0.1}
    return {
        "saving": [row],
        "confidence": {MEAN: levels(0.9, 0.1), PLAIN: levels(0.7, 0.2), EDGES: levels(0.8, 0.3)},
        "rank_correlation": rows,
        "gain_at_equal_cost": {PLAIN: gain, MEAN: gain},
        "heads": {"0": heads, "1": heads},
        **changes,
    }


def test_verdicts_follow_from_the_numbers() -> None:
    assert [one.verdict for one in findings(numbers())] == ["holds"] * 7
    assert "in the first, a 25 %, b 75 %" in findings(numbers())[0].found
    dear = numbers(saving=[{**numbers()["saving"][0], "drop": 0.02}])
    assert findings(dear)[0].verdict == "does not hold"
    noisy = numbers(rank_correlation={**numbers()["rank_correlation"], "standard_error_of_difference": 0.2})
    assert findings(noisy)[3].verdict == "not significant"
    worse = numbers(heads={"0": {"searched": [0.2], "uniform": [0.3], "cost_ratio": 0.5}})
    assert findings(worse)[6].verdict == "does not hold"
    assert "-10.0 points on average" in findings(worse)[6].found
