"""The pipeline on PyTorch: on the CPU, and on CUDA where there is a GPU. Overlap changes no bit."""

from collections.abc import Iterator

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.export.torch_executable import load_torch_stages
from cascadert.runtime.devices.choose import open_device
from cascadert.runtime.devices.cuda_probe import why_no_gpu
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import Mode, RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Result, Submission
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy

FRAMES = 24
NO_GPU = why_no_gpu()


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_GPU)])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def policy(i: int) -> SelectPolicy:
    return TopKPolicy(k=i % 6) if i % 3 == 0 else ThresholdPolicy(theta=0.9 + i % 8 / 30)


def submissions(frames: np.ndarray) -> Iterator[Submission]:
    for i in range(FRAMES):
        yield Submission(np.roll(frames[i % 6], i, axis=0), policies={"accurate": policy(i)})


def run(bundle: Bundle, frames: np.ndarray, backend: str, mode: Mode) -> list[Result]:
    device = open_device("host" if backend == "cpu" else backend)
    stages = load_torch_stages(bundle, device=backend)
    with Pipeline(bundle.manifest, stages, device, RuntimeOptions(mode)) as pipeline:
        return list(pipeline.stream(submissions(frames)))


def test_overlapped_equals_serial_bit_for_bit(toy_bundle: Bundle, toy_frames: np.ndarray, backend: str) -> None:
    serial = run(toy_bundle, toy_frames, backend, "serial")
    overlapped = run(toy_bundle, toy_frames, backend, "overlapped")
    assert [r.runs[1].n for r in serial] == [r.runs[1].n for r in overlapped]
    assert all(a.labels.tobytes() == b.labels.tobytes() for a, b in zip(serial, overlapped, strict=True))
    assert len({r.runs[1].n for r in serial}) > 3


def test_labels_are_those_of_onnx_runtime(toy_bundle: Bundle, toy_frames: np.ndarray, backend: str) -> None:
    found = run(toy_bundle, toy_frames, backend, "overlapped")
    with open_pipeline(toy_bundle, RuntimeOptions(threads=1)) as pipeline:
        wanted = list(pipeline.stream(submissions(toy_frames)))
    agree = [np.mean(a.labels == b.labels) for a, b in zip(found, wanted, strict=True)]
    assert min(agree) > 0.995  # a pixel whose two best classes are equal may be either
