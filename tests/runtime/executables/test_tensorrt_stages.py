"""Deployments loaded with TensorRT: all stages or none, and only on the GPU they were built for."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorrt_double import DoubleGpu, make_plan, make_tensorrt
from tensorrt_runs import ANY_N, BLOCKS, dynamic, fill, outputs, reference, run, same

from cascadert.bundle import CREATED_BY, Bundle
from cascadert.deployment import (
    DEPLOYMENT_SCHEMA,
    BuiltFor,
    Deployment,
    DeploymentManifest,
    EngineEntry,
    GpuFingerprint,
    engine_part,
    write_deployment,
)
from cascadert.device import Stream
from cascadert.errors import BundleError, DeploymentError, InvalidRequest
from cascadert.graph import Graph
from cascadert.runtime.devices.cuda_probe import why_no_gpu
from cascadert.runtime.executables.tensorrt import check_device, check_version, load_tensorrt_stages
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Submission
from cascadert.spec import ThresholdPolicy

BUILT_FOR = BuiltFor(target="rtx-30", backend="tensorrt-rtx", compute_capability="8.6", blocks=(1, 4, BLOCKS))


@pytest.fixture
def deploy(toy_bundle: Bundle, tmp_path: Path) -> Callable[..., Deployment]:
    """`deploy(plans, built_for)` writes a deployment of the toy bundle."""

    def deploy(plans: dict[str, bytes], built_for: BuiltFor = BUILT_FOR) -> Deployment:
        entries = tuple(
            EngineEntry(
                stage=name,
                engine=engine_part(name, "engine", plan),
                precision="fp32",
                graph_sha256=toy_bundle.graphs[name].sha256,
                lowered_sha256=toy_bundle.graphs[name].sha256,
                build_seconds=0.5,
            )
            for name, plan in plans.items()
        )
        manifest = DeploymentManifest(
            schema=DEPLOYMENT_SCHEMA,
            created_by=CREATED_BY,
            bundle=toy_bundle.manifest,
            built_for=built_for,
            builder={"tensorrt-rtx": "double"},
            engines=entries,
        )
        return write_deployment(tmp_path / "deployment", manifest, plans)

    return deploy


@pytest.fixture
def plans(gpu: DoubleGpu, graphs: dict[str, Graph], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Plans of the toy's stages, with the double in the place of TensorRT-RTX."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", make_tensorrt("rtx", gpu))
    return {name: make_plan(graph, ANY_N if dynamic(graph) else ()) for name, graph in graphs.items()}


Deploy = Callable[..., Deployment]


def test_a_deployment_is_loaded_and_runs(
    gpu: DoubleGpu, stream: Stream, graphs: dict[str, Graph], plans: dict[str, bytes], deploy: Deploy
) -> None:
    stages = load_tensorrt_stages(deploy(plans), gpu)
    assert list(stages) == ["fast", "accurate"]
    for name, executable in stages.items():
        bindings = fill(gpu, graphs[name], 3, 0)
        run(executable, bindings, stream)
        assert same(outputs(graphs[name], bindings), reference(gpu, graphs[name], bindings, stream))
        assert (executable.engine_bytes, executable.memory_bytes) == (len(plans[name]), 4096)
        executable.close()


def test_all_stages_are_loaded_or_none(gpu: DoubleGpu, plans: dict[str, bytes], deploy: Deploy) -> None:
    message = r"^stage 'accurate': tensorrt_rtx 1\.7\.1 refuses its engine: "
    with pytest.raises(DeploymentError, match=message) as caught:
        load_tensorrt_stages(deploy({**plans, "accurate": b"broken"}), gpu)
    assert caught.tb is not None  # which holds on to whatever was not let go
    assert gpu.calls == ["context STATIC DISABLED LAZY"]
    assert not gpu.contexts


def test_a_changed_engine_is_refused(gpu: DoubleGpu, plans: dict[str, bytes], deploy: Deploy) -> None:
    deployment = deploy(plans)
    (deployment.path / "engines" / "accurate.engine").write_bytes(plans["accurate"][:-1] + b"?")
    with pytest.raises(BundleError, match=r"accurate\.engine: was changed"):
        load_tensorrt_stages(deployment, gpu)
    assert not gpu.contexts


def test_a_foreign_gpu_is_refused_before_anything_is_loaded(
    gpu: DoubleGpu, plans: dict[str, bytes], deploy: Deploy
) -> None:
    gpu.compute_capability = "12.0"
    message = (
        r"^deployment for rtx-30: was built for compute capability 8\.6; this GPU has 12\.0; "
        r"build the bundle for a target of that compute capability$"
    )
    with pytest.raises(DeploymentError, match=message):
        load_tensorrt_stages(deploy(plans), gpu)
    assert not gpu.calls


GPU = GpuFingerprint(name="NVIDIA A10", compute_capability="8.6", multiprocessors=72, memory_bytes=24 * 2**30)
FULL = BuiltFor(target="rtx-30", backend="tensorrt", compute_capability="8.6", gpu=GPU, tensorrt="10.3.0")


@pytest.mark.parametrize(
    ("attribute", "other", "found"),
    [
        ("title", "NVIDIA A40", "name NVIDIA A10; this GPU has NVIDIA A40"),
        ("compute_capability", "8.9", r"compute capability 8\.6; this GPU has 8\.9"),
        ("multiprocessors", 60, "multiprocessors 72; this GPU has 60"),
        ("memory_bytes", 12 * 2**30, "memory bytes 25769803776; this GPU has 12884901888"),
    ],
)
def test_engines_of_full_tensorrt_fit_an_identical_gpu_alone(
    gpu: DoubleGpu, plans: dict[str, bytes], deploy: Deploy, attribute: str, other: object, found: str
) -> None:
    check_device(FULL, gpu)
    setattr(gpu, attribute, other)
    with pytest.raises(DeploymentError, match=rf"^deployment for rtx-30: was built for {found}; build it anew on this"):
        load_tensorrt_stages(deploy(plans, FULL), gpu)
    assert not gpu.calls
    if attribute != "compute_capability":
        check_device(BUILT_FOR, gpu)  # engines of TensorRT-RTX fit all of a compute capability


def test_engines_of_full_tensorrt_fit_one_version_alone(
    gpu: DoubleGpu, plans: dict[str, bytes], deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_tensorrt("10", gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    other = FULL.model_copy(update={"tensorrt": "8.6.1"})
    message = (
        rf"^deployment for rtx-30: was built with TensorRT 8\.6\.1; {re.escape(module.__version__)} is installed; "
        "build it anew with this version, or install that one$"
    )
    with pytest.raises(DeploymentError, match=message):
        load_tensorrt_stages(deploy(plans, other), gpu)
    assert not gpu.calls
    check_version(BUILT_FOR, "1.7.1")


def test_a_deployment_for_the_cpu_is_refused(gpu: DoubleGpu, plans: dict[str, bytes], deploy: Deploy) -> None:
    cpu = BuiltFor(target="cpu", backend="onnxruntime")
    with pytest.raises(DeploymentError, match=r"deployment: holds graphs for ONNX Runtime; run it on the CPU$"):
        load_tensorrt_stages(deploy(plans, cpu), gpu)


@pytest.mark.parametrize("mode", ["overlapped", "serial"])
def test_a_pipeline_of_engines_gives_the_labels_of_onnx_runtime(
    gpu: DoubleGpu,
    plans: dict[str, bytes],
    deploy: Deploy,
    toy_bundle: Bundle,
    toy_frames: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    monkeypatch.setattr("cascadert.runtime.open.open_gpu", lambda name, ordinal: gpu)
    policies = [{"accurate": ThresholdPolicy(theta=0.9 + (i * 7 % 10) / 40)} for i in range(20)]

    def labels(artefact: Bundle | Deployment) -> list[tuple[bytes, int]]:
        submissions = [Submission(toy_frames[i % 6], policies=policies[i]) for i in range(20)]
        with open_pipeline(artefact, RuntimeOptions(mode, threads=1)) as pipeline:
            return [(result.labels.tobytes(), result.runs[1].n) for result in pipeline.stream(submissions)]

    found = labels(deploy(plans))
    assert found == labels(toy_bundle)
    assert len({n for _, n in found}) > 2
    assert any("USER_MANAGED" in call for call in gpu.calls) == (mode == "serial")
    assert not gpu.contexts


def test_engines_without_a_gpu_are_refused(plans: dict[str, bytes], deploy: Deploy) -> None:
    if why_no_gpu() is None:
        pytest.skip("this machine has a GPU")
    deployment = deploy(plans)
    with pytest.raises(InvalidRequest, match=r"no GPU|driver"):
        open_pipeline(deployment)
    with pytest.raises(InvalidRequest, match=r"^device 'host': is host, .*, and engines run on a GPU; choose cuda$"):
        open_pipeline(deployment, RuntimeOptions(device="host"))
