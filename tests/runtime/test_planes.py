"""Frames as callers give them: numpy, DLPack on the host, device memory; and how long a borrowed frame is held."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from cascadert.device import Stream
from cascadert.errors import InvalidRequest
from cascadert.runtime.devices.host import HostBuffer, HostDevice
from cascadert.runtime.plan import make_plan
from cascadert.runtime.planes import sort_planes
from cascadert.runtime.results import Counts
from tests.runtime.faults import LONG_S, Faults, Hold, Raise, faulty_pipeline, numbered, take, wanted
from tests.runtime.plant import TWO

PLAN = make_plan(TWO)


class OnGpu:
    """An array in the memory of a GPU: all that the host may know of it, and what only its device sees."""

    dtype = "uint8"

    def __init__(self, values: np.ndarray) -> None:
        self.shape, self.values = values.shape, values

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("the host cannot read this")


class Gpu(HostDevice):
    """A device that takes them."""

    takes_device_arrays = True

    def import_array(self, array: Any, stream: Stream) -> HostBuffer:
        if array.values.flags.c_contiguous:
            return HostBuffer(array.values, "uint8")
        raise InvalidRequest("an array", "is not contiguous", "copy it")


@pytest.mark.parametrize("give", [np.asarray, torch.from_numpy, lambda f: f[0], lambda f: torch.from_numpy(f[0])])
@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_of_the_host_are_taken_as_they_are(give: Any, mapped: bool) -> None:
    image = numbered(1)
    plane = give(image)
    host, foreign = sort_planes({"frame": plane} if mapped else plane, PLAN, HostDevice())
    assert foreign == {}
    assert host["frame"].shape == (1, 4, 8, 3)
    assert np.shares_memory(host["frame"], image)


def test_tensors_of_torch_are_copied_before_submit_returns() -> None:
    with faulty_pipeline() as pipeline:
        for number in range(3):
            tensor = torch.from_numpy(numbered(number))
            pipeline.submit(tensor, context=number)
            tensor.zero_()
            assert take(pipeline).name == "delivered"


@pytest.mark.parametrize(
    ("plane", "message"),
    [
        (torch.zeros((1, 4, 8, 3)), r"^frame: is float32 \[1, 4, 8, 3\]; give uint8 \[1, 4, 8, 3\]"),
        (torch.zeros((4, 8), dtype=torch.uint8), r"^frame: is uint8 \[4, 8\]; give uint8"),
        (np.zeros((2, 4, 8, 3), np.uint8), r"^frame: is uint8 \[2, 4, 8, 3\]; give uint8 \[1, 4, 8, 3\]"),
        ([[1]], r"^frame: is a list; give uint8 \[1, 4, 8, 3\] as a numpy array"),
        ({"y": numbered(0)}, r"^frame: has the planes \['y'\]; give \['frame'\]"),
        (OnGpu(numbered(0)), r"^frame: is a OnGpu in the memory of a GPU, and the pipeline runs on host, \d"),
    ],
)
def test_what_does_not_fit_is_refused(plane: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        sort_planes(plane, PLAN, HostDevice())


def test_arrays_of_the_device_are_left_where_they_are() -> None:
    array = OnGpu(numbered(0))
    assert sort_planes(array, PLAN, Gpu()) == ({}, {"frame": array})
    with pytest.raises(InvalidRequest, match=r"^frame: is uint8 \[4, 8, 3\] on the GPU; give uint8 \[1, 4, 8, 3\]"):
        sort_planes(OnGpu(numbered(0)[0]), PLAN, Gpu())


@pytest.mark.parametrize("setup", [("overlapped", True), ("overlapped", False), ("serial", True), ("serial", False)])
def test_frames_on_the_device_give_the_same_labels(setup: Any) -> None:
    with faulty_pipeline(setup, device=Gpu(setup[1])) as pipeline:
        for number in range(8):
            image = numbered(number)
            result = pipeline.infer(OnGpu(image) if number % 3 else image)
            assert np.array_equal(result.labels, wanted(number))
            assert [span.name for span in result.spans].count("upload") == (number % 3 > 0 or not setup[1])


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_a_borrowed_frame_is_let_go_with_its_result(unified: bool, fails: bool) -> None:
    faults = Faults({"fast": Raise()} if fails else {})
    with faulty_pipeline(("overlapped", unified), faults, device=Gpu(unified)) as pipeline:
        array = OnGpu(numbered(1))
        gone = weakref.ref(array)
        pipeline.submit(array, context=1)
        del array
        error = take(pipeline).error
        assert (error is not None) == fails
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("unified", [True, False])
def test_a_borrowed_frame_is_held_while_a_stage_may_read_it(unified: bool) -> None:
    hold = Hold()
    with faulty_pipeline(("overlapped", unified), Faults({"accurate": hold}), device=Gpu(unified)) as pipeline:
        array = OnGpu(numbered(1))
        gone = weakref.ref(array)
        pipeline.submit(array, context=1)
        del array
        assert hold.entered.wait(LONG_S)
        gc.collect()
        assert gone() is not None
        hold.released.set()
        assert take(pipeline).name == "delivered"


def test_an_array_that_the_device_refuses_fails_its_frame() -> None:
    with faulty_pipeline(device=Gpu()) as pipeline:
        backwards = np.ascontiguousarray(numbered(0)[:, ::-1])[:, ::-1]
        pipeline.submit(OnGpu(backwards))
        fate = take(pipeline)
        assert fate.name == "InvalidRequest" and "is not contiguous" in str(fate.error)
        assert np.array_equal(pipeline.infer(OnGpu(numbered(2))).labels, wanted(2))
        assert pipeline.counts == Counts(2, 1, 1)
