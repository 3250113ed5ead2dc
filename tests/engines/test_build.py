"""Real TensorRT-RTX builds; none of them needs a GPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascadert.bundle import Bundle
from cascadert.deployment import read_deployment
from cascadert.engines import build as build_module
from cascadert.engines.build import BuildOptions, BuildProgress, block_profile, build_engine
from cascadert.engines.lock import build_lock
from cascadert.engines.profiles import list_targets
from cascadert.errors import BundleError, InvalidRequest, TargetError
from cascadert.export.lowering import lower

GPU_TARGETS = [target for target in list_targets() if target.compute_capability is not None]


@pytest.fixture(autouse=True)
def needs_the_builder() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    pytest.importorskip("polygraphy", reason="needs the extra 'rtx'")


@pytest.mark.parametrize("target", GPU_TARGETS, ids=lambda target: target.name)
def test_every_gpu_target_builds_with_tf32_off(bundle: Bundle, tmp_path: Path, target) -> None:  # type: ignore[no-untyped-def]
    heard: list[BuildProgress] = []
    build_engine(bundle, target, tmp_path / "out", progress=heard.append)

    deployment = read_deployment(tmp_path / "out")
    built_for = deployment.manifest.built_for
    assert (built_for.target, built_for.compute_capability) == (target.name, target.compute_capability)
    assert built_for.precision == "fp32"
    assert set(deployment.manifest.builder) == {"onnx", "tensorrt-rtx", "polygraphy"}
    for entry, graph in zip(deployment.manifest.engines, bundle.graphs.values(), strict=True):
        engine = deployment.engine(entry.stage)
        assert engine.startswith(b"vtrt")
        # The plan carries its settings as text: what TensorRT understood, not what was asked of it.
        assert re.findall(rb"tf32=\d", engine) == [b"tf32=0"]
        assert entry.graph_sha256 == graph.sha256
        assert entry.build_seconds > 0
        _check_progress([event for event in heard if event.stage == entry.stage])


def _check_progress(events: list[BuildProgress]) -> None:
    assert events[0].phase == build_module.LOADING
    assert events[-1] == BuildProgress(events[0].stage, "finished", fraction=1.0)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 10
    outer = [event.step for event in events if event.phase == "Building engine"]
    assert outer == list(range(1, len(outer) + 1))


def test_engines_of_different_targets_differ(bundle: Bundle, tmp_path: Path) -> None:
    first, second = (build_engine(bundle, name, tmp_path / name) for name in ("rtx-20", "rtx-30"))
    assert first.engine("accurate") != second.engine("accurate")


def test_cpu_engine_is_the_lowered_graph(bundle: Bundle, tmp_path: Path) -> None:
    build_engine(bundle, "cpu", tmp_path / "out")
    deployment = read_deployment(tmp_path / "out")
    assert deployment.manifest.built_for.compute_capability is None
    for stage, graph in bundle.graphs.items():
        assert deployment.engine(stage) == lower(graph, "onnxruntime").onnx


def test_changed_engine_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    build_engine(bundle, "rtx-30", tmp_path / "out")
    path = tmp_path / "out" / "engines" / "accurate.engine"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"accurate\.engine: was changed: sha256"):
        read_deployment(tmp_path / "out")


def test_older_deployment_is_replaced_only_on_request(bundle: Bundle, tmp_path: Path) -> None:
    first = build_engine(bundle, "cpu", tmp_path / "out")
    with pytest.raises(InvalidRequest, match=r"out: exists already; choose another output, or pass --force"):
        build_engine(bundle, "rtx-30", tmp_path / "out")
    assert read_deployment(tmp_path / "out") == first
    build_engine(bundle, "rtx-30", tmp_path / "out", BuildOptions(replace=True))
    assert read_deployment(tmp_path / "out").manifest.built_for.target == "rtx-30"


@pytest.mark.parametrize("precision", ["fp16", "int8", "tf32", "fp23"])
@pytest.mark.parametrize("target", ["rtx-40", "cpu"])
def test_other_precisions_are_refused(bundle: Bundle, tmp_path: Path, target: str, precision: str) -> None:
    message = f"^target '{target}': precision '{precision}' is not in this version; choose fp32$"
    with pytest.raises(TargetError, match=message):
        build_engine(bundle, target, tmp_path / "out", BuildOptions(precision=precision))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(max_blocks=9), "^max_blocks: is 9 where there are 8 blocks; choose 1 to 8$"),
        (BuildOptions(max_blocks=0), "^max_blocks: is 0"),
        (BuildOptions(typical_blocks=0), "^typical_blocks: is 0; choose 1 to 8"),
        (BuildOptions(typical_blocks=5, max_blocks=4), "^typical_blocks: is 5; choose 1 to 4"),
        (BuildOptions(optimization_level=6), "^optimization_level: is 6; choose 0 to 5$"),
        (BuildOptions(workspace_bytes=0), "^workspace_bytes: is 0; give a positive number"),
        (BuildOptions(timeout_s=0), "^timeout_s: is 0; give a number of seconds up to"),
    ],
)
def test_options_out_of_range_are_refused(bundle: Bundle, tmp_path: Path, options: BuildOptions, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        build_engine(bundle, "rtx-30", tmp_path / "out", options)


def test_tensorrt_options_mean_nothing_to_the_cpu(bundle: Bundle, tmp_path: Path) -> None:
    message = r"^target 'cpu': optimization_level is an option of TensorRT; .*; leave it out$"
    with pytest.raises(TargetError, match=message):
        build_engine(bundle, "cpu", tmp_path / "out", BuildOptions(optimization_level=2))


def test_profile_defaults_to_a_quarter_of_all_blocks(bundle: Bundle) -> None:
    assert block_profile(bundle, BuildOptions()) == (1, 2, 8)
    assert block_profile(bundle, BuildOptions(max_blocks=1)) == (1, 1, 1)
    assert block_profile(bundle, BuildOptions(typical_blocks=6)) == (1, 6, 8)


def test_options_reach_the_builder(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    real = build_module.run_worker

    def listening(request, *rest):  # type: ignore[no-untyped-def]
        requests.append(request)
        return real(request, *rest)

    monkeypatch.setattr(build_module, "run_worker", listening)
    options = BuildOptions(workspace_bytes=1 << 28, optimization_level=1, typical_blocks=3, max_blocks=5)
    build_engine(bundle, "rtx-30", tmp_path / "out", options)
    fast, accurate = requests
    assert fast.shapes == {}
    assert accurate.shapes == {"indices": [[1], [3], [5]]}
    assert (accurate.workspace_bytes, accurate.optimization_level) == (1 << 28, 1)


def test_a_second_build_waits_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    waiting = threading.Event()
    phases: list[str] = []

    def listen(event: BuildProgress) -> None:
        phases.append(event.phase)
        waiting.set()

    with ThreadPoolExecutor(1) as pool:
        with build_lock():
            result = pool.submit(build_engine, bundle, "rtx-30", tmp_path / "out", progress=listen)
            assert waiting.wait(30)
            assert phases == [build_module.WAITING]
        assert result.result(timeout=60) == read_deployment(tmp_path / "out")
    assert phases[1] == build_module.LOADING


def test_nothing_is_printed(bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_engine(bundle, "rtx-30", tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_size_of_an_unknown_name_is_refused(
    tmp_path: Path,
    make_graph: Callable,
    one_stage: Callable,  # type: ignore[type-arg]
) -> None:
    from onnx import helper

    graph = make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], ["m", 4], "semantic")
    with pytest.raises(Exception, match=r"input x float32 \[m, 4\] has a dynamic size that is not 'n'"):
        build_engine(one_stage(graph), "rtx-30", tmp_path / "out")
