"""What finished frames say about the next: a profile, corrected by what is measured while the stream runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cascadert.errors import ExecutionError
from cascadert.runtime.costs import StageCosts

GAIN = 0.05  # of a deviation, what one measurement corrects: a memory of 20 frames
LEAST_JUMP = 0.1  # a relative deviation of the median from which a level jumps
LEAST_MARGIN = 0.04  # twice what GAIN leaves of 5 % of noise
REMEMBERED = 5  # measurements: a jump takes three of them, and two outliers are none
TRIM_GAIN, TRIM_LEAST, TRIM_STEP, TRIM_SLACK = 0.05, 0.5, 0.2, 0.01


@dataclass(frozen=True)
class Observation:
    """One finished frame, as measured.

    Attributes:
        n: blocks that were refined.
        before_ms: its t_f.
        refine_ms: its t_b(n); 0 where n = 0.
        busy_ms: what it cost the busiest stream (overlapped: the largest over streams; serial: the sum): the period
            that such frames can sustain.
    """

    n: int
    before_ms: float
    refine_ms: float
    busy_ms: float


@dataclass(frozen=True)
class Model:
    """What is expected of a stage: `refine_ms[n]` is t_b(n) as its engine rounds n, for every n it can refine.

    `margin` (above 1) is how much must be to spare before n rises, `jump` the relative change that noise does not
    explain; both grow with the profile's own error.
    """

    refine_ms: tuple[float, ...]
    margin: float
    jump: float

    @staticmethod
    def of(costs: StageCosts, blocks: int, rounded: Callable[[int], int]) -> Model:
        """Return the model for up to `blocks` blocks, or as many as the engine was built for."""
        times = [costs.refine_ms(0)]
        for n in range(1, blocks + 1):
            try:
                times.append(costs.refine_ms(rounded(n)))
            except ExecutionError:  # more than it was built for: that does not fit either
                break
        return Model(tuple(times), 1 + max(LEAST_MARGIN, costs.spread), max(LEAST_JUMP, 2 * costs.spread))


@dataclass(frozen=True)
class Level:
    """A positive quantity that is measured again and again: a slow mean of clipped deviations that can jump.

    It jumps where the median of the last measurements lies too far off for noise. An expectation counts as two of them.
    """

    value: float
    recent: tuple[float, ...]

    @staticmethod
    def expected(value: float) -> Level:
        """Return a level that nothing was measured of."""
        return Level(value, (value, value))

    def follow(self, measured: float, jump: float) -> Level:
        """Return the level after one more measurement; `jump` is relative."""
        recent = (*self.recent, measured)[-REMEMBERED:]
        ordered, most = sorted(recent), jump * self.value
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        if abs(middle - self.value) > most:
            return Level(middle, recent)
        return Level(self.value + GAIN * clip(measured - self.value, -most, most), recent)

    def scaled(self, factor: float) -> Level:
        """Return the level, and what it remembers, times a factor."""
        return Level(self.value * factor, tuple(factor * value for value in self.recent))


@dataclass(frozen=True)
class History:
    """What the frames so far leave to the next decision.

    Attributes:
        before: t_f in milliseconds.
        refine: measured over expected t_b(n).
        rest: milliseconds of the busiest stream that are not this stage's.
        in_turn: whether frames showed stages in turn (1) or side by side (0); none before the first that could.
        limit: the largest n that fits, as it was decided last.
        theta: of the controller, where it is in use.
        period_ms: of the controller, where it is in use.
        trim: share of that period that single frames may fill, so that their mean fits it.
        starved, probes: decisions since the last that had time for a block, and attempts since.
    """

    before: Level
    refine: Level
    rest: Level
    in_turn: float | None = None
    limit: int = 0
    theta: float | None = None
    period_ms: float | None = None
    trim: float = 1.0
    starved: int = 0
    probes: int = 0

    @staticmethod
    def expected(costs: StageCosts) -> History:
        """Return the history before the first frame: it goes as the profile says."""
        before = Level.expected(costs.before_ms)
        return History(before, Level.expected(1.0), before)

    @property
    def serial(self) -> bool:
        """Whether stages run in turn, as is supposed until frames show otherwise."""
        return _is_serial(self.in_turn)


def observed(history: History, model: Model, seen: Observation) -> History:
    """Return the history after one more finished frame."""
    before = history.before.follow(seen.before_ms, model.jump)
    if seen.n and seen.refine_ms > 0:
        refine = history.refine.follow(seen.refine_ms / model.refine_ms[seen.n], model.jump)
        in_turn: float | None = _in_turn(history, seen)
    else:  # nothing to measure, but a machine that changes its speed changes it for every stage
        speed = before.value / history.before.value if before.value and history.before.value else 1.0
        refine, in_turn = history.refine.scaled(speed), history.in_turn
    rest = history.rest.follow(_rest_ms(history, in_turn, seen), model.jump)
    trim = _trim(history, rest.value, seen.busy_ms)
    return replace(history, before=before, refine=refine, rest=rest, in_turn=in_turn, trim=trim)


def _in_turn(history: History, seen: Observation) -> float:
    """Return whether the busiest stream did both sides of the decision.

    Copies, which other streams do, blur it: the half, and frames where one side is small are asked only at first.
    """
    less, more = sorted((seen.before_ms, seen.refine_ms))
    found = float(seen.busy_ms - more > less / 2)
    if history.in_turn is None:
        return found
    return history.in_turn if less < more / 4 else (history.in_turn + found) / 2


def _is_serial(in_turn: float | None) -> bool:
    return in_turn is None or in_turn > 0.5


def _rest_ms(history: History, in_turn: float | None, seen: Observation) -> float:
    """Return what the busiest stream did besides refining."""
    if not seen.n:
        return seen.busy_ms
    if _is_serial(in_turn):
        return max(seen.busy_ms - seen.refine_ms, 0.0)
    rest = min(seen.busy_ms, seen.before_ms)
    hidden = seen.refine_ms > 0.9 * seen.busy_ms  # other streams are no busier than this one: an upper bound
    return min(rest, history.rest.value) if hidden else rest


def _trim(history: History, rest_ms: float, busy_ms: float) -> float:
    """Integrate what frames take beyond the period; a rest that exceeds it is none of the controller's fault."""
    if history.period_ms is None:
        return history.trim
    goal = max(history.period_ms, rest_ms)
    step = clip(1 + TRIM_SLACK - busy_ms / goal, -TRIM_STEP, TRIM_STEP)
    return clip(history.trim + TRIM_GAIN * step, TRIM_LEAST, 1.0)


def clip(value: float, least: float, most: float) -> float:
    """Return the nearest value between the two."""
    return min(max(value, least), most)
