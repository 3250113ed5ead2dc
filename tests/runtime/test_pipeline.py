"""The serial pipeline against torch, end to end: decisions, skipped stages, ownership of arrays, refusals."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from cascadert.bundle import Bundle
from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.export.compile import reference_stages
from cascadert.export.stages import Stage
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.open import load_executables, open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import Placement
from cascadert.runtime.results import Result
from cascadert.spec import ThresholdPolicy, TopKPolicy

NEVER, ALWAYS = ThresholdPolicy(theta=9), ThresholdPolicy(theta=-1)


@pytest.fixture(scope="module")
def pipeline(toy_bundle: Bundle) -> Iterator[Pipeline]:
    with open_pipeline(toy_bundle, RuntimeOptions(threads=1, tensors="all")) as opened:
        yield opened


@pytest.fixture(scope="module")
def chain(chain_bundle: Bundle) -> Iterator[Pipeline]:
    with open_pipeline(chain_bundle, RuntimeOptions(threads=1, tensors="all")) as opened:
        yield opened


@pytest.fixture(scope="module")
def chain_stages(chain_bundle: Bundle, toy_folder: Path) -> tuple[Stage, ...]:
    return reference_stages(chain_bundle.spec, toy_folder)


def nv12(frame: np.ndarray) -> dict[str, np.ndarray]:
    return planes_from_rgb(frame[None], "nv12")


@torch.inference_mode()
def torch_labels(
    stages: tuple[Stage, ...], planes: Mapping[str, np.ndarray], counts: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the modules themselves with the given numbers of blocks, and how clear each was."""
    tensors = [torch.from_numpy(plane) for plane in planes.values()]
    labels, _, order = stages[0](*tensors)
    margins = stages[0].margins(*tensors)
    for stage, n in zip(stages[1:], counts, strict=True):
        if n:
            margin = stage.margins(*tensors, order[:n], labels)
            labels, *rest = stage(*tensors, order[:n], labels)
            margins, order = torch.where(margin.isinf(), margins, margin), rest[1] if rest else order
    return labels.numpy(), margins.numpy()


def assert_same_labels(result: Result, wanted: np.ndarray, margins: np.ndarray) -> None:
    assert result.labels.dtype == np.uint8
    assert result.labels.shape == wanted.shape
    assert not ((result.labels != wanted) & (margins > 1e-3)).any()


@pytest.mark.parametrize("theta", [-1, 0.5, 0.9, 1.0, 1.1, 9])
def test_the_cascade_equals_torch(
    pipeline: Pipeline, toy_bundle: Bundle, toy_folder: Path, toy_frames: np.ndarray, theta: float
) -> None:
    stages = reference_stages(toy_bundle.spec, toy_folder)
    for frame in toy_frames:
        result = pipeline.infer(frame, {"accurate": ThresholdPolicy(theta=theta)})
        fast, accurate = result.runs
        assert (fast.stage, fast.n, fast.scores, fast.order) == ("fast", None, None, None)
        assert accurate.n == int((accurate.scores > theta).sum())
        assert_same_labels(result, *torch_labels(stages, {"frame": frame[None]}, [accurate.n]))


def test_decisions_differ_between_frames(pipeline: Pipeline, toy_frames: np.ndarray) -> None:
    counts = {result.runs[1].n for result in pipeline.stream(list(toy_frames))}
    assert len(counts) > 1
    assert counts != {0}


@pytest.mark.parametrize(
    ("middle", "last"),
    [(NEVER, ALWAYS), (ALWAYS, NEVER), (ALWAYS, ALWAYS), (NEVER, NEVER), (TopKPolicy(policy="top-k", k=5), ALWAYS)],
)
def test_three_stages_on_nv12_equal_torch(chain: Pipeline, chain_stages, toy_frames: np.ndarray, middle, last) -> None:
    result = chain.infer(nv12(toy_frames[0]), {"middle": middle, "accurate": last})
    counts = [run.n for run in result.runs[1:]]
    refined = {id(NEVER): 0, id(ALWAYS): 16}.get(id(middle), 5)
    assert counts == [refined, refined if last is ALWAYS else 0]  # blocks the middle left alone never go further
    assert_same_labels(result, *torch_labels(chain_stages, nv12(toy_frames[0]), counts))


def test_a_skipped_middle_hands_on_labels_and_nothing_to_refine(chain: Pipeline, toy_frames: np.ndarray) -> None:
    result = chain.infer(nv12(toy_frames[0]), {"middle": NEVER, "accurate": TopKPolicy(policy="top-k", k=3)})
    assert np.array_equal(result.labels, result.tensors["fast.labels"])
    assert set(result.tensors) == {"fast.labels", "fast.scores", "fast.order"}
    last = result.runs[2]
    assert (last.n, last.scores.size, last.order.size) == (0, 0, 0)
    assert (last.scores.dtype, last.order.dtype) == (np.float32, np.int32)


def test_policies_hold_for_one_frame_or_from_now_on(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    with open_pipeline(toy_bundle) as pipeline:
        own = pipeline.infer(toy_frames[0]).runs[1].n
        assert pipeline.infer(toy_frames[0], {"accurate": TopKPolicy(policy="top-k", k=own - 2)}).runs[1].n == own - 2
        assert pipeline.infer(toy_frames[0]).runs[1].n == own
        pipeline.set_policy("accurate", NEVER)
        assert pipeline.infer(toy_frames[0]).runs[1].n == 0
        assert [r.runs[1].n for r in pipeline.stream(toy_frames[:2], {"accurate": ALWAYS})] == [15, 15]
        assert pipeline.infer(toy_frames[0]).runs[1].n == 0


def test_the_same_frame_twice_gives_the_same_bits(pipeline: Pipeline, toy_frames: np.ndarray) -> None:
    first, _, again = pipeline.stream([toy_frames[0], toy_frames[1], toy_frames[0]])
    assert (
        set(first.tensors)
        == set(again.tensors)
        == {f"fast.{n}" for n in ("labels", "scores", "order")} | {"accurate.labels"}
    )
    for name, array in first.tensors.items():
        assert array.tobytes() == again.tensors[name].tobytes(), name
    assert first.labels.tobytes() == again.labels.tobytes()


def test_two_cameras_equal_two_times_one_bit_for_bit(
    pipeline: Pipeline, cameras_bundle: Bundle, toy_frames: np.ndarray
) -> None:
    blocks = 15
    with open_pipeline(cameras_bundle, RuntimeOptions(threads=1, tensors="all")) as both:
        for policy in (ALWAYS, NEVER, ThresholdPolicy(theta=1.0)):
            pair = both.infer(toy_frames[:2], {"accurate": policy})
            alone = [pipeline.infer(frame, {"accurate": policy}) for frame in toy_frames[:2]]
            assert pair.runs[1].n == sum(one.runs[1].n for one in alone)
            for camera, one in enumerate(alone):
                assert pair.labels[camera].tobytes() == one.labels[0].tobytes()
                mine = pair.runs[1].order // blocks == camera
                assert (pair.runs[1].order[mine] % blocks).tolist() == one.runs[1].order.tolist()
                assert pair.runs[1].scores[mine].tobytes() == one.runs[1].scores.tobytes()


def test_arrays_belong_to_the_caller(pipeline: Pipeline, toy_frames: np.ndarray) -> None:
    frame = toy_frames[0].copy()
    result = pipeline.infer(frame, {"accurate": ALWAYS})
    arrays = [result.labels, result.runs[1].scores, result.runs[1].order, *result.tensors.values()]
    kept = [array.copy() for array in arrays]
    pipeline.infer(toy_frames[1], {"accurate": NEVER})
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, kept, strict=True))
    for array in arrays:
        array[...] = 1  # writable, and nobody else's
    frame[...] = 0
    assert np.array_equal(pipeline.infer(toy_frames[0], {"accurate": ALWAYS}).labels, kept[0])


def test_frames_need_not_be_contiguous_nor_have_a_camera_axis(pipeline: Pipeline, toy_frames: np.ndarray) -> None:
    wanted = pipeline.infer(toy_frames[0]).labels
    sideways = np.asfortranarray(toy_frames[0])
    mirrored = np.ascontiguousarray(toy_frames[0][:, ::-1])[:, ::-1]
    for frame in (toy_frames[:1], sideways, mirrored, {"frame": toy_frames[0]}):
        assert np.array_equal(pipeline.infer(frame).labels, wanted)


def test_times_are_plausible(pipeline: Pipeline, toy_frames: np.ndarray) -> None:
    result = pipeline.infer(toy_frames[0], {"accurate": ALWAYS})
    parts = [run.milliseconds for run in result.runs]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= result.latency_ms


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f: f[:, :40],
            r"^frame: is uint8 \[40, 40, 3\]; give uint8 \[1, 40, 56, 3\], or have the source fitted",
        ),
        (lambda f: f.astype(np.float32), r"^frame: is float32 \[40, 56, 3\]; give uint8 \[1, 40, 56, 3\]"),
        (lambda f: f[..., :1], r"^frame: is uint8 \[40, 56, 1\]; give uint8"),
        (lambda f: f[..., 0], r"^frame: is uint8 \[40, 56\]; give uint8"),
        (lambda f: np.stack([f, f]), r"^frame: is uint8 \[2, 40, 56, 3\]; give uint8 \[1, 40, 56, 3\]"),
        (lambda f: {}, r"^frame: has the planes \[\]; give \['frame'\]$"),
        (lambda f: nv12(f), r"^frame: has the planes \['frame\.uv', 'frame\.y'\]; give \['frame'\]$"),
        (lambda f: f.tolist(), r"^frame: is a list; give uint8 \[1, 40, 56, 3\] as a numpy array$"),
        (lambda f: None, r"^frame: is a NoneType; give uint8"),
    ],
)
def test_frames_that_do_not_fit_are_refused(pipeline: Pipeline, toy_frames: np.ndarray, make, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pipeline.infer(make(toy_frames[0]))
    assert pipeline.infer(toy_frames[0]).labels.shape == (1, 40, 56)


def test_nv12_planes_that_do_not_fit_are_refused(chain: Pipeline, toy_frames: np.ndarray) -> None:
    planes = nv12(toy_frames[0])
    with pytest.raises(InvalidRequest, match=r"^frame: has the planes \['frame'\]; give \['frame\.uv', 'frame\.y'\]$"):
        chain.infer(toy_frames[0])
    with pytest.raises(InvalidRequest, match=r"^frame\.uv: is uint8 \[1, 40, 56, 1\]; give uint8 \[1, 20, 28, 2\]"):
        chain.infer({**planes, "frame.uv": planes["frame.y"]})


@pytest.mark.parametrize("stage", ["fast", "refine"])
def test_policies_for_stages_without_a_decision_are_refused(
    pipeline: Pipeline, toy_frames: np.ndarray, stage: str
) -> None:
    message = rf"^policy for stage '{stage}': makes no decision; stages that do: accurate$"
    with pytest.raises(InvalidRequest, match=message):
        pipeline.infer(toy_frames[0], {stage: NEVER})
    with pytest.raises(InvalidRequest, match=message):
        pipeline.set_policy(stage, NEVER)


class Faulty:
    """An executable that fails."""

    inputs = outputs = ()

    def blocks(self, n: int) -> int:
        return n

    def enqueue(self, bindings, stream) -> None:
        raise ExecutionError("stage 'accurate'", "burnt", "wait")

    def close(self) -> None:
        self.closed = True


def test_a_stage_that_fails_fails_the_frame_and_not_the_next(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    with open_pipeline(toy_bundle) as good:
        wanted = good.infer(toy_frames[0], {"accurate": NEVER}).labels
    faulty, alone = Faulty(), RuntimeOptions(threads=1)
    fast = load_executables({"fast": toy_bundle.graphs["fast"]}, Placement({"fast": 1}))
    with Pipeline(toy_bundle.manifest, {**fast, "accurate": faulty}, HostDevice(), alone) as pipeline:
        with pytest.raises(ExecutionError, match=r"^stage 'accurate': burnt; wait$"):
            pipeline.infer(toy_frames[0], {"accurate": ALWAYS})
        assert np.array_equal(pipeline.infer(toy_frames[0], {"accurate": NEVER}).labels, wanted)
    assert faulty.closed


def test_a_closed_pipeline_says_so(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    pipeline = open_pipeline(toy_bundle)
    pipeline.close()
    with pytest.raises(InvalidRequest, match=r"^pipeline: is closed; open it again$"):
        pipeline.infer(toy_frames[0])


def test_one_stream_at_a_time(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    with open_pipeline(toy_bundle) as pipeline:
        one, other = pipeline.stream(toy_frames), pipeline.stream(toy_frames)
        next(one)
        with pytest.raises(InvalidRequest, match=r"^stream: another one is being read; read it to its end, or close"):
            next(other)
        with pytest.raises(InvalidRequest, match=r"^infer: a stream is being read; "):
            pipeline.infer(toy_frames[0])
        assert len(list(one)) == 5
        assert len(list(pipeline.stream(toy_frames))) == 6
        assert pipeline.infer(toy_frames[0]).labels.shape == (1, 40, 56)


def test_who_comes_in_while_others_are_given_up_is_run(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    with open_pipeline(toy_bundle) as pipeline:
        for _ in range(pipeline.slots + 1):
            pipeline.submit(toy_frames[0])
        cancel = pipeline._scheduler.cancel

        def cancel_and_submit(before: int) -> None:
            pipeline._scheduler.cancel = cancel
            cancel(before)
            pipeline.submit(toy_frames[1])

        pipeline._scheduler.cancel = cancel_and_submit
        assert pipeline.give_up(10)
        assert pipeline.next(10).ticket.number == pipeline.slots + 1


def test_a_policy_that_is_none_is_refused_at_once(pipeline: Pipeline) -> None:
    message = r"^policy for stage 'accurate': is a float; give one of cascadert\.spec, as ThresholdPolicy$"
    with pytest.raises(InvalidRequest, match=message):
        pipeline.set_policy("accurate", 0.8)


def test_serial_stages_are_not_held_apart() -> None:
    with pytest.raises(InvalidRequest, match=r"^pin: is asked for in serial mode; "):
        RuntimeOptions("serial", pin=True)


@pytest.mark.parametrize("options", [{"mode": "overlaped"}, {"overflow": "drop"}, {"queue": 0}, {"timeout_s": 0}])
def test_options_that_mean_nothing_are_refused(options) -> None:
    (name,) = options
    with pytest.raises(InvalidRequest, match=f"^{name}: is '?{options[name]}'?; "):
        RuntimeOptions(**options)
