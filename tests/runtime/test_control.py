"""Control of a planted load: a simulated machine whose frames cost what they cost, seen some decisions late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.runtime.control import Scores
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.selection import Decider, Observation
from cascadert.spec import FrameRatePolicy, LatencyPolicy, SelectPolicy

BLOCKS = 32
DELAYS = (0, 2, 4)
PERIOD_MS = 40.5
BUDGET, RATE = LatencyPolicy(budget_ms=PERIOD_MS), FrameRatePolicy(fps=1000 / PERIOD_MS)


def linear(n: int) -> float:
    return 2.0 * n


def batched(n: int) -> float:
    return 2.5 + 1.5 * n if n else 0.0


def crowded(n: int) -> float:
    return n + 0.05 * n * n


@dataclass
class Plant:
    """Costs in milliseconds, multiplicative noise, and how many times slower the machine is than it was.

    `copies_ms` is a part of `before_ms` that no stream of a stage does; `fronts` is how many streams share the rest.
    """

    before_ms: float = 10.0
    refine_ms: Callable[[int], float] = linear
    overlapped: bool = False
    noise: float = 0.0
    delay: int = 2
    seed: int = 0
    slow: float = 1.0
    slow_refine: float = 1.0
    outlier: float = 1.0
    copies_ms: float = 0.0
    fronts: int = 1
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def frame(self, n: int) -> Observation:
        before = self.before_ms * self._factor()
        refine = self.refine_ms(n) * self._factor() * self.slow_refine
        front = (before - self.copies_ms) / self.fronts
        return Observation(n, before, refine, max(front, refine) if self.overlapped else front + refine)

    def _factor(self) -> float:
        return self.slow * self.outlier * (1 + self.noise * self._rng.uniform(-1, 1))


@dataclass(frozen=True)
class Frame:
    seen: Observation
    theta: float | None
    infeasible: bool

    @property
    def n(self) -> int:
        return self.seen.n

    @property
    def latency_ms(self) -> float:
        return self.seen.before_ms + self.seen.refine_ms


class Stream:
    """Frames on a plant; what was measured of one reaches the decider `delay` decisions later."""

    def __init__(self, plant: Plant, decider: Decider) -> None:
        self.plant, self.decider = plant, decider
        self._late: deque[Observation] = deque()

    def run(self, policy: SelectPolicy, frames: Iterable[Scores]) -> list[Frame]:
        return [self._step(policy, scores) for scores in frames]

    def _step(self, policy: SelectPolicy, scores: Scores) -> Frame:
        n = self.decider.choose(policy, scores)
        frame = Frame(self.plant.frame(n), self.decider.theta, self.decider.infeasible)
        self._late.append(frame.seen)
        if len(self._late) > self.plant.delay:
            self.decider.observe(self._late.popleft())
        return frame


def measured(
    before_ms: float = 10.0, refine_ms: Callable[[int], float] = linear, *, off: float = 1.0, spread: float = 0.0
) -> StageCosts:
    """A profile of a plant, `off` from the truth by a factor."""
    return StageCosts(before_ms * off, tuple((n, refine_ms(n) * off) for n in (1, 2, 4, 8, 16, 32)), spread)


def still(count: int, hardest: float = 2.0, wobble: float = 0.0, blocks: int = BLOCKS) -> Iterator[Scores]:
    """Sorted scores of a scene that does not change but for the noise of its camera, from `hardest` down to 0."""
    rng = np.random.default_rng(count)
    for _ in range(count):
        values = np.linspace(hardest, 0, blocks) * (1 + wobble * rng.uniform(-1, 1, blocks))
        yield np.sort(values)[::-1].astype(np.float32)


def changes(frames: Iterable[Frame]) -> int:
    """By how many blocks n differs between frames."""
    counts = [frame.n for frame in frames]
    return max(counts) - min(counts)


def settled_after(frames: list[Frame]) -> int:
    """After how many frames n stays within one block of where it ends."""
    return max((i + 1 for i, frame in enumerate(frames) if abs(frame.n - frames[-1].n) > 1), default=0)


def mean_busy_ms(frames: Iterable[Frame]) -> float:
    return float(np.mean([frame.seen.busy_ms for frame in frames]))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    before=st.floats(0.5, 40),
    block=st.floats(0.8, 20),
    budget=st.floats(20, 80),
    error=st.floats(-0.08, 0.08),
    noise=st.floats(0, 0.04),
    delay=st.integers(0, 4),
    overlapped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_under_any_steady_load_n_settles_and_keeps_the_budget_but_for_error_and_noise(
    before: float, block: float, budget: float, error: float, noise: float, delay: int, overlapped: bool, seed: int
) -> None:
    plant = Plant(before, lambda n: block * n, overlapped, noise, delay, seed)
    decider = Decider(BLOCKS, measured(before, plant.refine_ms, off=1 / (1 + error), spread=abs(error)))
    frames = Stream(plant, decider).run(LatencyPolicy(budget_ms=budget), still(300, wobble=0.02))
    assert changes(frames[100:]) <= 1
    most = budget * (1 + abs(error)) * (1 + noise) / (1 - noise)
    assert all(frame.latency_ms <= most for frame in frames if frame.n)
    ideal = int((budget / 1.04 - before) / block) if budget > before else 0
    assert frames[-1].n >= min(BLOCKS, max(ideal, 0)) * (1 - abs(error) - 2 * noise) - 1


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    before=st.floats(0.5, 60),
    block=st.floats(0.8, 20),
    period=st.floats(20, 80),
    noise=st.floats(0, 0.04),
    delay=st.integers(0, 4),
    overlapped=st.booleans(),
    profiled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_under_any_steady_load_theta_settles_and_holds_the_frame_rate(
    before: float, block: float, period: float, noise: float, delay: int, overlapped: bool, profiled: bool, seed: int
) -> None:
    plant = Plant(before, lambda n: block * n, overlapped, noise, delay, seed)
    decider = Decider(BLOCKS, measured(before, plant.refine_ms) if profiled else None)
    frames = Stream(plant, decider).run(FrameRatePolicy(fps=1000 / period), still(400, wobble=0.02))
    assert changes(frames[150:]) <= 1
    attainable = max(period, before)
    assert mean_busy_ms(frames[150:]) <= attainable * (1.02 + noise)
    everything = before * (not overlapped) + block * (BLOCKS - 1)  # the last scores 0, which is above nothing
    assert mean_busy_ms(frames[150:]) >= min(attainable * (0.95 - noise) - block, everything * (0.999 - noise))


@pytest.mark.parametrize(("noise", "spread"), [(0.04, 0.0), (0.15, 0.12)])
@pytest.mark.parametrize("policy", [BUDGET, RATE])
def test_blocks_of_one_percent_of_the_time_do_not_come_and_go_with_the_noise(
    policy: SelectPolicy, noise: float, spread: float
) -> None:
    costs = StageCosts(10, ((1, 0.4), (128, 51.2)), spread)
    for seed in range(3):
        stream = Stream(Plant(refine_ms=lambda n: 0.4 * n, noise=noise, delay=4, seed=seed), Decider(128, costs))
        assert changes(stream.run(policy, still(600, wobble=0.02, blocks=128))[200:]) <= 1


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("slow", [0.5, 1.5, 2.0, 6.0])
def test_a_machine_that_changes_its_speed_is_followed(slow: float, overlapped: bool, delay: int) -> None:
    for policy, frames_to_follow in ((BUDGET, 3), (RATE, 30)):
        plant = Plant(overlapped=overlapped, noise=0.03, delay=delay)
        stream = Stream(plant, Decider(BLOCKS, measured()))
        steady = stream.run(policy, still(100))
        plant.slow = slow
        other = stream.run(policy, still(200))
        assert settled_after(other) <= frames_to_follow + delay
        assert (other[-1].n < steady[-1].n) == (slow > 1)
        assert other[-1].infeasible == (slow == 6)
        plant.slow = 1
        again = stream.run(policy, still(200))
        assert settled_after(again) <= frames_to_follow + delay
        assert abs(again[-1].n - steady[-1].n) <= 1


@pytest.mark.parametrize("delay", DELAYS)
def test_a_machine_that_warms_up_slowly_stays_within_the_budget(delay: int) -> None:
    plant = Plant(noise=0.02, delay=delay)
    stream = Stream(plant, Decider(BLOCKS, measured()))
    for slow in np.linspace(1, 1.5, 500):  # 0.1 % a frame, seen 20 frames and the delay late
        plant.slow = float(slow)
        assert stream.run(BUDGET, still(1))[0].latency_ms <= PERIOD_MS * 1.03 * 1.02 / 0.98
    assert stream.run(BUDGET, still(1))[0].n in (7, 8)


@pytest.mark.parametrize("policy", [BUDGET, RATE])
def test_single_frames_that_hang_do_not_move_n(policy: SelectPolicy) -> None:
    plant = Plant(noise=0.02, delay=3)
    stream = Stream(plant, Decider(BLOCKS, measured()))
    stream.run(policy, still(50))
    frames = []
    for index in range(400):
        plant.outlier = 10 if index % 20 == 0 else 1
        frames += stream.run(policy, still(1))
    assert changes(frames) <= 1


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("truth", [batched, crowded])
@pytest.mark.parametrize("policy", [BUDGET, RATE])
def test_a_profile_of_the_wrong_shape_is_corrected_to_the_n_that_fits(
    policy: SelectPolicy, truth: Callable[[int], float], delay: int
) -> None:
    frames = Stream(Plant(refine_ms=truth, delay=delay), Decider(BLOCKS, measured())).run(policy, still(200))
    assert changes(frames[80:]) == 0
    fits = StageCosts(10, tuple((n, truth(n)) for n in range(1, 33))).largest(PERIOD_MS, BLOCKS)
    assert fits - 1 <= frames[-1].n <= fits


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("delay", DELAYS)
def test_theta_rises_with_a_hard_scene_and_falls_with_an_easy_one(delay: int, overlapped: bool) -> None:
    stream = Stream(Plant(noise=0.02, delay=delay, overlapped=overlapped), Decider(BLOCKS, measured()))
    easy = stream.run(RATE, still(100, hardest=0.5))
    hard = stream.run(RATE, still(100, hardest=9))
    assert hard[-1].theta > 10 * easy[-1].theta
    assert settled_after(hard) <= 40 + delay
    assert max(frame.seen.busy_ms for frame in hard) <= 1.5 * PERIOD_MS * 1.02
    assert mean_busy_ms(hard) <= PERIOD_MS * 1.02  # what the first frames took is given back
    again = stream.run(RATE, still(100, hardest=0.5))
    assert settled_after(again) <= 30 + delay
    assert again[-1].theta == pytest.approx(easy[-1].theta, rel=0.1)


@pytest.mark.parametrize("theta_min", [0.0, 0.3])
def test_where_everything_fits_theta_falls_to_its_floor(theta_min: float) -> None:
    values = np.array([1.5, 1, 0.5, 0.295] + [0.0] * 28, np.float32)
    stream = Stream(Plant(), Decider(BLOCKS, measured()))
    stream.run(RATE, still(50))
    frames = stream.run(FrameRatePolicy(fps=1000 / PERIOD_MS, theta_min=theta_min), [values] * 60)
    assert frames[-1].theta == pytest.approx(theta_min, abs=1e-4)
    assert frames[-1].n == (4 if theta_min == 0 else 3)
    assert settled_after(frames) <= 15


@pytest.mark.parametrize(("before", "overlapped"), [(19, False), (19, True), (24.5, True)])
def test_scenes_that_keep_changing_fit_the_period_in_the_mean(before: float, overlapped: bool) -> None:
    rng, difficulty, frames = np.random.default_rng(0), 0.0, []
    stream = Stream(Plant(before, noise=0.03, delay=4, overlapped=overlapped), Decider(BLOCKS))
    for _ in range(1500):
        difficulty = 0.9 * difficulty + 0.2 * rng.normal()
        frames += stream.run(FrameRatePolicy(fps=40), still(1, hardest=float(np.exp(difficulty))))
    assert changes(frames) > 5  # theta follows slowly enough to spend on the harder frames
    assert 0.85 * 25 <= mean_busy_ms(frames) <= 1.02 * 25


def test_side_by_side_blocks_that_cost_no_time_are_refined_though_the_rate_is_out_of_reach() -> None:
    for before in (19.9, 20.1, 30.0):  # at 20 ms nothing changes suddenly
        stream = Stream(Plant(before, noise=0.01, overlapped=True), Decider(BLOCKS, measured(before)))
        frames = stream.run(FrameRatePolicy(fps=50), still(200))
        assert frames[-1].infeasible == (before > 20)
        assert frames[-1].n == int(max(before, 20) / 1.04 / 2)
        assert mean_busy_ms(frames[50:]) <= before * 1.01
    serial = Stream(Plant(30), Decider(BLOCKS, measured(30))).run(FrameRatePolicy(fps=50), still(200))
    assert [frame.n for frame in serial[10:]] == [0] * 190
    assert serial[-1].infeasible


@pytest.mark.parametrize("profiled", [False, True])
def test_stages_before_the_decision_on_streams_of_their_own_do_not_add_up(profiled: bool) -> None:
    plant = Plant(60, overlapped=True, fronts=2, delay=4, noise=0.01)  # 30 ms each: less than the period
    stream = Stream(plant, Decider(BLOCKS, measured(60) if profiled else None))
    frames = stream.run(RATE, still(100))
    assert settled_after(frames) <= 30
    assert frames[-1].n in (19, 20)
    assert not frames[-1].infeasible
    plant.slow_refine = 2  # refinement hides the other streams, and has to become shorter
    assert stream.run(RATE, still(100))[-1].n in (9, 10)


@pytest.mark.parametrize("profiled", [False, True])
def test_copies_do_not_hide_that_stages_run_in_turn(profiled: bool) -> None:
    plant = Plant(12, copies_ms=2, delay=4)  # as long as a block
    frames = Stream(plant, Decider(BLOCKS, measured(12) if profiled else None)).run(FrameRatePolicy(fps=70), still(200))
    assert changes(frames[60:]) <= 1
    assert mean_busy_ms(frames[60:]) <= 1000 / 70


@pytest.mark.parametrize("overlapped", [False, True])
def test_without_a_profile_one_block_is_tried_until_costs_are_known(overlapped: bool) -> None:
    frames = Stream(Plant(overlapped=overlapped, delay=4), Decider(BLOCKS)).run(RATE, still(60))
    assert [frame.n for frame in frames[:5]] == [1] * 5
    assert frames[5].n == frames[-1].n == (19 if overlapped else 14)


def test_a_stage_that_became_too_slow_is_tried_ever_more_seldom_and_found_again_when_it_is_not() -> None:
    plant = Plant(slow_refine=25, delay=4)
    stream = Stream(plant, Decider(BLOCKS, measured()))
    slow = stream.run(BUDGET, still(600))
    tried = [index for index, frame in enumerate(slow) if frame.n]
    assert tried[:7] == list(range(7))
    assert [b - a for a, b in pairwise(tried[6:])] == [33, 65, 129, 257]
    assert all(frame.n == 1 for frame in slow[7:] if frame.n)
    assert not slow[-1].infeasible  # n = 0 keeps the budget
    plant.slow_refine = 1
    assert stream.run(BUDGET, still(600))[-1].n == 14


def test_sliders_move_n_at_once_and_cost_no_history() -> None:
    plant = Plant(slow=1.5, delay=4)
    stream = Stream(plant, Decider(BLOCKS, measured()))
    stream.run(BUDGET, still(50))
    counts = {}
    for budget in (30.0, 60.0, 16.0, 90.0, 30.0):
        frames = stream.run(LatencyPolicy(budget_ms=budget), still(10))
        assert changes(frames) == 0
        assert all(frame.latency_ms <= budget for frame in frames)
        counts[budget] = frames[-1].n
    assert counts == {30.0: 5, 60.0: 14, 16.0: 0, 90.0: 23}
    for fps in (30.0, 15.0, 60.0):
        frames = stream.run(FrameRatePolicy(fps=fps), still(60))
        assert settled_after(frames) <= 20
        assert mean_busy_ms(frames[20:]) <= 1000 / fps
