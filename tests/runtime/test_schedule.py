"""Overlap changes no bit: random delays in every stage and copy, and every rule of the schedule taken away in turn."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.runtime import slots
from cascadert.runtime.job import Job
from cascadert.runtime.ledger import Ledger
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Submission
from cascadert.runtime.scheduler import Scheduler
from cascadert.runtime.slots import Slot
from cascadert.spec import ThresholdPolicy, TopKPolicy
from tests.runtime.plant import THREE, TWO, Disturbed, Jitter, JitteryDevice, expected, frame, planted

Named = Callable[[str], bool]
SCHEDULES = 200
POLICIES = [*(ThresholdPolicy(theta=theta) for theta in (-1.0, 0.2, 0.5, 0.9, 2.0)), TopKPolicy(k=3), TopKPolicy(k=8)]


def disturbances(
    seed: int, *, unified: bool | None = None, slots: int = 0, frames: int = 10, **jitter: Any
) -> list[str]:
    """Run a random schedule, and say what is wrong with its results."""
    chance = random.Random(seed)
    manifest = chance.choice([TWO, THREE])
    delays = Jitter(seed, **{"likelihood": 0.3, "longest_s": 0.0015, **jitter})
    device = JitteryDevice(unified=chance.random() < 0.5 if unified is None else unified, jitter=delays)
    options = RuntimeOptions(slots=chance.choice([1, 2, 3]), queue=chance.choice([1, 2]), timeout_s=20)
    names = [stage.name for stage in manifest.stages[1:]]
    policies = [{name: chance.choice(POLICIES) for name in names} for _ in range(frames)]
    first = chance.randrange(1000)
    wrong = []
    with Pipeline(manifest, planted(manifest, delays), device, options) as pipeline:
        submissions = (Submission(frame(first + i), policies=policies[i]) for i in range(frames))
        try:
            for i, result in enumerate(pipeline.stream(submissions)):
                labels, counts = expected(manifest, frame(first + i), policies[i])
                if [run.n for run in result.runs[1:]] != counts:
                    wrong.append(f"frame {i}: n")
                elif not np.array_equal(result.labels, labels):
                    wrong.append(f"frame {i}: labels")
        except Exception as error:
            wrong.append(repr(error.__cause__ if isinstance(error.__cause__, Disturbed) else error))
    return wrong


@pytest.mark.parametrize("part", range(4))
def test_random_delays_change_no_bit(part: int) -> None:
    for seed in range(part, SCHEDULES, 4):
        assert not disturbances(seed), f"schedule {seed}"


def without_wait(
    kind: str, of: Callable[[str], bool], by: Callable[[str], bool]
) -> Callable[[pytest.MonkeyPatch], None]:
    """Take away the waits of streams `by` for work on streams `of`, before reading or before writing."""

    def before_reading(self: Slot, names: Any, stream: Any) -> Any:
        kept = [self._writes[name] for name in names if name in self._writes]
        return slots._others([use for use in kept if not (of(use.stream.name) and by(stream.name))], stream)

    def before_writing(self: Slot, names: Any, stream: Any) -> Any:
        kept = [use for name in names for use in self._reads.get(name, ())]
        return slots._others([use for use in kept if not (of(use.stream.name) and by(stream.name))], stream)

    method = {"before_reading": before_reading, "before_writing": before_writing}[kind]
    return lambda patch: patch.setattr(Slot, kind, method)


def is_copy(name: str) -> bool:
    return name in ("upload", "download")


def is_stage(name: str) -> bool:
    return not is_copy(name)


class Everything(set):
    """A set that is said to hold everything."""

    def __contains__(self, item: object) -> bool:
        return True


def decide_at_once(patch: pytest.MonkeyPatch) -> None:
    original = Job.__init__

    def start(self: Job, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self.arrived = Everything()

    patch.setattr(Job, "__init__", start)


def reuse_staging_at_once(patch: pytest.MonkeyPatch) -> None:
    original = Ledger.enter

    def enter(self: Ledger, job: Job) -> None:
        original(self, job)
        self._free.appendleft(job.staging)

    patch.setattr(Ledger, "enter", enter)


RULES = {
    "a stage waits for the upload of its frame": without_wait("before_reading", "upload".__eq__, is_stage),
    "a stage waits for the stage whose tensor it reads": without_wait("before_reading", is_stage, is_stage),
    "the download waits for the stage that made the labels": without_wait("before_reading", is_stage, is_copy),
    "an upload waits for those who read the last frame": without_wait("before_writing", is_stage, "upload".__eq__),
    "a stage waits for stages that read the last frame": without_wait("before_writing", is_stage, is_stage),
    "a stage waits for the download of the last frame": without_wait("before_writing", "download".__eq__, is_stage),
    "a slot is taken once its last frame is all queued": lambda patch: patch.setattr(
        Scheduler, "_is_open", lambda self, slot: True
    ),
    "a decision waits for its scores": decide_at_once,
    "a staging is used again once its result was taken": reuse_staging_at_once,
}
SLOW = {
    "a stage waits for stages that read the last frame": {"inside accurate": 0.004},
    "an upload waits for those who read the last frame": {"inside accurate": 0.004},
    "a stage waits for the download of the last frame": {"download": 0.004},
    "a stage waits for the upload of its frame": {"upload": 0.002},
    "a slot is taken once its last frame is all queued": {"inside fast": 0.002},
}

# Where the host's memory is not the device's, a frame is uploaded after those stages, and all wait for the upload.
UNIFIED = {"a stage waits for stages that read the last frame"}


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_results_are_wrong(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES[rule](monkeypatch)
    for seed in range(SCHEDULES):
        if disturbances(seed, unified=rule in UNIFIED, slow=SLOW.get(rule, {}), frames=6):
            return
    pytest.fail(f"{SCHEDULES} schedules did not notice that it is gone")


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("rule", SLOW)
def test_with_every_rule_the_same_schedules_are_right(rule: str, unified: bool) -> None:
    for seed in range(5):
        assert not disturbances(seed, unified=unified, slow=SLOW[rule], frames=6)


def test_overlapped_equals_serial_on_300_frames_with_changing_thresholds(
    chain_bundle: Bundle, toy_frames: np.ndarray
) -> None:
    from cascadert.pixels import planes_from_rgb

    def submissions():
        for i in range(300):
            shift = np.roll(toy_frames[i % 6], i, axis=1)
            policies = {
                "middle": ThresholdPolicy(theta=0.8 + 0.4 * (i * 7 % 11) / 11),
                "accurate": ThresholdPolicy(theta=0.7 + i % 5 / 10) if i % 3 else TopKPolicy(k=i % 7),
            }
            yield Submission(planes_from_rgb(shift[None], "nv12"), policies=policies)

    results = {}
    for mode in ("serial", "overlapped"):
        with open_pipeline(chain_bundle, RuntimeOptions(mode, threads=1, tensors="all")) as pipeline:
            results[mode] = list(pipeline.stream(submissions()))
    assert len(results["serial"]) == 300
    for one, other in zip(results["serial"], results["overlapped"], strict=True):
        assert [run.n for run in one.runs] == [run.n for run in other.runs]
        assert one.labels.tobytes() == other.labels.tobytes()
        assert {n: t.tobytes() for n, t in one.tensors.items()} == {n: t.tobytes() for n, t in other.tensors.items()}
    assert len({run.n for result in results["serial"] for run in result.runs}) > 5
