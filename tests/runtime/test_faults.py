"""Faults of stages, copies, decisions and devices: the frame fails with its cause, and the others do not notice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cascadert.device import Buffer, Stream
from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.runtime.devices.host import HostDevice, HostEvent
from cascadert.runtime.results import Counts
from cascadert.runtime.selection import Decider
from cascadert.spec import LatencyPolicy, TopKPolicy
from tests.runtime.faults import (
    SETUPS,
    Fate,
    Faults,
    FaultyStage,
    Raise,
    faulty_pipeline,
    names,
    our_threads,
    run,
    submit,
    take,
)
from tests.runtime.plant import BLOCKS, PlantedStage

FRAMES = 8
setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup[0]}-{'one' if setup[1] else 'two'}")
stages = pytest.mark.parametrize("stage", ["fast", "accurate"])
policies = pytest.mark.parametrize("policy", [TopKPolicy(k=3), TopKPolicy(k=BLOCKS)], ids=["k3", "all"])


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert our_threads() == set()
    yield
    assert our_threads() == set()


def assert_frames_failed(
    setup: tuple[str, bool], faults: Faults, failed: set[int], message: str, cause: type | None = ValueError,
    device: HostDevice | None = None,
) -> list[Fate]:  # fmt: skip
    """Frames fail, in their turn, as the message says; all others are right, and the counts add up."""
    with faulty_pipeline(setup, faults, device=device) as pipeline:
        fates = run(pipeline, range(FRAMES))
        assert pipeline.counts == Counts(FRAMES, FRAMES - len(failed), len(failed))
        assert pipeline.broken is None
        assert pipeline.close() is True
    assert [fate.number for fate in fates] == list(range(FRAMES))
    assert {fate.number for fate in fates if fate.error is not None} == failed
    for fate in fates:
        if fate.error is not None:
            assert type(fate.error) is ExecutionError
            assert str(fate.error).startswith(message)
            assert cause is None or type(fate.error.__cause__) is cause
    return fates


@setups
@stages
@pytest.mark.parametrize("when", ["running", "queueing"])
@pytest.mark.parametrize("on", [(3,), (0, 1, FRAMES - 1), ()], ids=["one", "some", "every"])
def test_a_stage_that_raises_fails_its_frames(setup: Any, stage: str, when: str, on: tuple[int, ...]) -> None:
    faults = Faults(**{when: {stage: Raise(on=on)}})
    if stage == "accurate" and when == "running" and not on:
        on = tuple(range(FRAMES))
    failed = set(on or range(FRAMES))
    assert_frames_failed(setup, faults, failed, f"stage '{stage}': failed with ValueError('burnt'); see its cause")


@setups
@stages
def test_an_error_of_ours_is_passed_on_as_it_is(setup: Any, stage: str) -> None:
    raising = Raise(lambda: ExecutionError("engine", "is on fire", "call for help"), on=(2,))
    for when in ("running", "queueing"):
        faults = Faults(**{when: {stage: raising}})
        assert_frames_failed(setup, faults, {2}, "engine: is on fire; call for help", cause=None)


@setups
@policies
def test_a_stage_behind_one_that_failed_does_not_run_on_what_it_left(setup: Any, policy: TopKPolicy) -> None:
    """With a fixed k it is queued before anybody knows of the failure; the failure is still that of the first."""
    ran: list[int] = []
    faults = Faults({"fast": Raise(on=(1, 4)), "accurate": ran.append})
    with faulty_pipeline(setup, faults) as pipeline:
        pipeline.set_policy("accurate", policy)
        fates = []
        for number in range(6):
            pipeline.submit(np.full((1, 4, 8, 3), number, np.uint8))
            try:
                pipeline.next()
            except ExecutionError as error:
                fates.append((number, error.subject))
    assert fates == [(1, "stage 'fast'"), (4, "stage 'fast'")]
    assert ran == [0, 2, 3, 5]


class FailingCopies(HostDevice):
    """Copies to or from memory of a kind fail, one in `every`: at once, or when their turn comes."""

    def __init__(self, unified: bool, fails: Callable[[Buffer, Buffer], bool], at_once: bool, every: int = 3) -> None:
        super().__init__(unified)
        self.copies, self._fails, self._at_once, self._every = 0, fails, at_once, every

    def copy(self, source: Buffer, target: Buffer, stream: Stream) -> None:
        self.copies += self._fails(source, target)
        if not self._fails(source, target) or self.copies % self._every:
            super().copy(source, target, stream)
        elif self._at_once:
            raise OSError("bus error")
        else:
            stream.submit(Raise(lambda: OSError("bus error")))


def is_frame(source: Buffer, target: Buffer) -> bool:
    return source.shape[-1] == 3


def is_labels(source: Buffer, target: Buffer) -> bool:
    return len(source.shape) == 3


def is_scores(source: Buffer, target: Buffer) -> bool:
    return source.dtype == "float32"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("mode", ["overlapped", "serial"])
@pytest.mark.parametrize(
    ("fails", "what"), [(is_frame, "the upload"), (is_labels, "the download"), (is_scores, "stage 'fast'")]
)
def test_a_copy_that_fails_fails_its_frame(mode: str, fails: Any, what: str, at_once: bool) -> None:
    device = FailingCopies(False, fails, at_once)
    assert_frames_failed((mode, False), Faults(), {2, 5}, f"{what}: failed with OSError('bus error')", OSError, device)


@setups
def test_a_decision_that_raises_fails_its_frame(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions, choose = [0], Decider.choose

    def failing(self: Decider, policy: Any, scores: Any) -> int:
        decisions[0] += 1
        if decisions[0] == 4:
            raise ZeroDivisionError("no blocks")
        return choose(self, policy, scores)

    monkeypatch.setattr(Decider, "choose", failing)
    assert_frames_failed(
        setup, Faults(), {3}, "stage 'accurate': failed with ZeroDivisionError('no blocks')", ZeroDivisionError
    )


@setups
def test_a_policy_that_cannot_be_met_fails_its_frame(setup: Any) -> None:
    with faulty_pipeline(setup) as pipeline:
        submit(pipeline, 0)
        submit(pipeline, 1, policies={"accurate": LatencyPolicy(budget_ms=1.0)})
        submit(pipeline, 2)
        fates = [take(pipeline) for _ in range(3)]
        assert names(fates) == ["delivered", "InvalidRequest", "delivered"]
        assert "nothing was measured" in str(fates[1].error)
        assert pipeline.counts == Counts(3, 2, 1)


def test_more_blocks_than_a_stage_was_built_for_fail_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(self: PlantedStage, n: int) -> int:
        if n > 4:
            raise ExecutionError("stage 'accurate'", f"was built for 4 blocks and not {n}", "build it anew")
        return n

    monkeypatch.setattr(FaultyStage, "blocks", blocks)
    assert_frames_failed(
        ("overlapped", True), Faults(), set(range(FRAMES)), "stage 'accurate': was built for 4 blocks", None
    )


@setups
@pytest.mark.parametrize("policy", [None, TopKPolicy(k=3)], ids=["threshold", "top-k"])
def test_scores_that_are_no_numbers_fail_their_frame(setup: Any, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = PlantedStage._run

    def poison(self: PlantedStage, arrays: Any) -> None:
        compute(self, arrays)
        if self.name == "fast" and arrays["frame"].flat[0] == 2:
            arrays["scores"][5] = np.nan

    monkeypatch.setattr(PlantedStage, "_run", poison)
    with faulty_pipeline(setup) as pipeline:
        for number in range(4):
            submit(pipeline, number, policies={} if policy is None else {"accurate": TopKPolicy(k=BLOCKS)})
            fate = take(pipeline)
            assert fate.name == ("ExecutionError" if number == 2 else "delivered")
            assert number != 2 or str(fate.error).startswith("fast.scores: holds NaN")


class LostDevice(HostDevice):
    """A device that is lost when told so: whatever is queued from then on fails."""

    is_lost = False

    def copy(self, source: Buffer, target: Buffer, stream: Stream) -> None:
        if self.is_lost:
            raise RuntimeError("context is lost")
        super().copy(source, target, stream)


@setups
def test_on_a_device_that_is_lost_every_frame_fails_and_close_returns(setup: Any) -> None:
    device = LostDevice(setup[1])
    with faulty_pipeline(setup, device=device) as pipeline:
        assert names(run(pipeline, range(3))) == ["delivered"] * 3
        device.is_lost = True
        fates = run(pipeline, range(3, 9))
        assert names(fates) == ["ExecutionError"] * 6
        assert all("context is lost" in str(fate.error) for fate in fates)
        assert pipeline.counts == Counts(9, 3, 6)
        assert pipeline.close()


@setups
def test_times_that_cannot_be_read_fail_the_frame(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_pipeline(setup) as pipeline:
        with monkeypatch.context() as patch:
            patch.setattr(HostEvent, "milliseconds_since", lambda self, earlier: 1 / 0)
            submit(pipeline, 0)
            fate = take(pipeline)
        assert str(fate.error).startswith("the measurement: failed with ZeroDivisionError")
        assert names(run(pipeline, [1, 2])) == ["delivered"] * 2


def test_an_executable_that_cannot_be_closed_keeps_nobody_else_open(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = faulty_pipeline()
    accurate, fast = pipeline._executables["accurate"], pipeline._executables["fast"]
    monkeypatch.setattr(accurate, "close", Raise(lambda: OSError("stuck")))
    with pytest.raises(OSError, match="stuck"):
        pipeline.close()
    assert fast.closed


def test_a_frame_that_cannot_be_copied_leaves_its_room_to_others() -> None:
    class Unreadable(np.ndarray):
        def __array_function__(self, *args: Any, **options: Any) -> Any:
            raise OSError("unmapped")

    with faulty_pipeline() as pipeline:
        for _ in range(20):  # more than there is room for
            with pytest.raises(OSError, match="unmapped"):
                pipeline.submit(np.zeros((1, 4, 8, 3), np.uint8).view(Unreadable))
        assert pipeline.counts == Counts()
        assert names(run(pipeline, range(3))) == ["delivered"] * 3


def test_a_scheduler_that_fails_fails_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = faulty_pipeline()
    monkeypatch.setattr(pipeline._scheduler, "_advance", Raise(lambda: AssertionError("a bug")))
    with pipeline:
        submit(pipeline, 0)
        fate = take(pipeline)
        assert fate.name == "PipelineBroken" and "a bug" in str(fate.error)
        assert isinstance(fate.error.__cause__, AssertionError)
        for _ in range(2):
            with pytest.raises(type(fate.error), match="a bug"):
                submit(pipeline, 1)
        assert pipeline.counts == Counts(1, 0, 1)


def test_what_is_raised_again_is_not_the_same_error() -> None:
    pipeline = faulty_pipeline()
    pipeline.close()
    errors = []
    for _ in range(3):
        with pytest.raises(InvalidRequest, match=r"^pipeline: is closed; open it again$") as raised:
            submit(pipeline, 0)
        errors.append(raised.value)
    assert len({id(error) for error in errors}) == 3
