import multiprocessing

import numpy as np
import pytest

from cascadert.errors import ExecutionError, SceneError
from cascadert.scenes import SceneOptions, clip, stream

SMALL = SceneOptions(64, 128, instances=True)


def workers() -> int:
    return len(multiprocessing.active_children())


def test_frames_come_in_order_and_are_those_of_the_clip() -> None:
    expected = list(clip(5, 7, SMALL))
    found = list(stream(5, 7, SMALL, workers=2, ahead=2))
    assert len(found) == 7
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.labels, b.labels)
        assert a.instances is not None
        assert b.instances is not None
        assert np.array_equal(a.instances, b.instances)


def test_closing_an_endless_stream_stops_its_workers() -> None:
    before = workers()
    source = stream(5, None, SMALL, workers=1)
    next(source)
    assert workers() == before + 1
    source.close()  # type: ignore[attr-defined]
    assert workers() == before


def test_no_more_frames_are_asked_for_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are taken, and `workers` times `ahead` wait: the stream asks for one when one is due."""
    asked: list[int] = []

    class Done:
        def __init__(self, value: int) -> None:
            self.value = value

        def result(self) -> int:
            return self.value

    class Pool:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def submit(self, _: object, seed: int, index: int, options: SceneOptions) -> Done:
            asked.append(index)
            return Done(index)

        def shutdown(self, **_: object) -> None:
            asked.append(-1)

    monkeypatch.setattr("cascadert.scenes.streaming.ProcessPoolExecutor", Pool)
    source = stream(5, None, SMALL, workers=2, ahead=3)
    assert asked == []
    assert [next(source) for _ in range(3)] == [0, 1, 2]  # type: ignore[comparison-overlap]
    assert asked == list(range(9))
    source.close()  # type: ignore[attr-defined]
    assert asked[-1] == -1


def test_an_error_in_a_worker_arrives() -> None:
    """Frames before 0 cannot be asked for, so the worker is handed options that no constructor would make."""
    broken = SceneOptions(64, 128)
    object.__setattr__(broken, "height", "tall")
    before = workers()
    with pytest.raises(TypeError):
        list(stream(5, 3, broken, workers=1))
    assert workers() == before


def test_a_worker_that_dies_is_an_error() -> None:
    source = stream(5, 500, SMALL, workers=1)
    next(source)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(ExecutionError, match="scene stream of street 5: a worker process died; look for its message"):
        list(source)


def test_without_workers_this_process_renders() -> None:
    before = workers()
    frames = list(stream(5, 2, SMALL, workers=0))
    assert workers() == before
    assert np.array_equal(frames[1].image, list(clip(5, 2, SMALL))[1].image)


@pytest.mark.parametrize(("name", "value"), [("frames", -1), ("workers", -1), ("ahead", 0)])
def test_too_few_are_refused_at_once(name: str, value: int) -> None:
    with pytest.raises(SceneError, match=f"scene stream with {name}={value}: too few; give"):
        stream(5, options=SMALL, **{name: value})
