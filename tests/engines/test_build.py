"""Real TensorRT-RTX builds; none of them needs a GPU."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascadert.bundle import Bundle
from cascadert.deployment import read_deployment
from cascadert.engines import stage_build
from cascadert.engines.build import BuildOptions, BuildProgress, build_engine
from cascadert.engines.lock import build_lock
from cascadert.engines.options import block_profile
from cascadert.engines.profiles import list_targets
from cascadert.engines.recipe import BuilderSettings
from cascadert.errors import BundleError, InvalidRequest, TargetError
from cascadert.export.lowering import lower
from cascadert.spec import ThresholdPolicy

BUILT_ANYWHERE = [
    target for target in list_targets() if target.refused is None and target.backend().name == "tensorrt-rtx"
]
ONE_OF_EACH_CAPABILITY = {target.compute_capability: target for target in BUILT_ANYWHERE}.values()


@pytest.fixture(autouse=True)
def needs_the_builder() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")


@pytest.mark.parametrize("target", ONE_OF_EACH_CAPABILITY, ids=lambda target: target.name)
def test_every_gpu_target_builds_with_tf32_off(bundle: Bundle, tmp_path: Path, target) -> None:  # type: ignore[no-untyped-def]
    heard: list[BuildProgress] = []
    build_engine(bundle, target, tmp_path / "out", progress=heard.append)

    deployment = read_deployment(tmp_path / "out")
    built_for = deployment.manifest.built_for
    assert (built_for.target, built_for.compute_capability) == (target.name, target.compute_capability)
    assert deployment.manifest.precisions == {"fast": "fp32", "accurate": "fp32"}
    assert set(deployment.manifest.builder) == {"onnx", "tensorrt-rtx"}
    for entry, graph in zip(deployment.manifest.engines, bundle.graphs.values(), strict=True):
        engine = deployment.engine(entry.stage)
        assert engine.startswith(b"vtrt")
        # The plan carries its settings as text: what TensorRT understood, not what was asked of it.
        assert re.findall(rb"tf32=\d", engine) == [b"tf32=0"]
        assert entry.graph_sha256 == graph.sha256
        assert entry.build_seconds > 0
        _check_progress([event for event in heard if event.stage == entry.stage])


def _check_progress(events: list[BuildProgress]) -> None:
    assert events[0].note == "not in the cache: there is none of this stage"
    assert events[1].phase == stage_build.LOADING
    assert events[-1] == BuildProgress(events[0].stage, "finished", fraction=1.0)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 10
    outer = [event.step for event in events if event.phase == "Building engine" and event.step]
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


@pytest.mark.parametrize(
    ("precision", "tf32", "theta"),
    [("tf32", b"tf32=1", 0.5), ("fp16", b"tf32=0", 0.51), ("int8", b"tf32=0", 0.6)],
)
def test_every_precision_builds_and_has_its_policy(
    calibrated: Bundle, tmp_path: Path, precision: str, tf32: bytes, theta: float
) -> None:
    deployment = build_engine(calibrated, "rtx-30", tmp_path / "out", BuildOptions(precision=precision))
    assert deployment.manifest.precisions == {"fast": precision, "accurate": precision}
    for entry in deployment.manifest.engines:
        assert re.findall(rb"tf32=\d", deployment.engine(entry.stage)) == [tf32]
        assert (entry.lowered_sha256 == entry.graph_sha256) is False
    select = deployment.manifest.bundle.stages[1].select
    assert select is not None
    assert select.policy == ThresholdPolicy(theta=theta)
    assert deployment.manifest.bundle.stages[1].graph == calibrated.manifest.stages[1].graph


def test_scores_decide_which_policy_it_is(calibrated: Bundle, tmp_path: Path) -> None:
    """Theta belongs to the stage that makes the scores, not to the one that it selects for."""
    options = BuildOptions(precision={"fast": "fp32", "accurate": "fp16"})
    deployment = build_engine(calibrated, "rtx-30", tmp_path / "out", options)
    assert deployment.manifest.precisions == {"fast": "fp32", "accurate": "fp16"}
    select = deployment.manifest.bundle.stages[1].select
    assert select is not None
    assert select.policy == ThresholdPolicy(theta=0.5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("fp7", "^precision 'fp7': is not known; choose fp32, tf32, fp16, int8$"),
        ({"fast": "fp32"}, "^precision fast=fp32: says nothing of stage 'accurate'; give every stage one$"),
        ({"fast": "fp32", "slow": "fp32"}, "^precision slow=fp32: names no stage; choose fast, accurate$"),
    ],
)
def test_precisions_that_make_no_sense_are_refused(
    bundle: Bundle, tmp_path: Path, asked: str | dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        build_engine(bundle, "rtx-40", tmp_path / "out", BuildOptions(precision=asked))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["rtx-40", "cpu"])
def test_int8_without_calibration_is_refused(bundle: Bundle, tmp_path: Path, target: str) -> None:
    with pytest.raises(TargetError, match=f"^stage 'fast' in int8 for {target}: .*; run cascadert calibrate"):
        build_engine(bundle, target, tmp_path / "out", BuildOptions(precision="int8"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(backend="tvm"), "^target 'rtx-30': tvm does not build for it; use tensorrt-rtx"),  # type: ignore[arg-type]
        (BuildOptions(backend="onnxruntime"), "^target 'rtx-30': onnxruntime does not build for it; use tensorrt-rtx"),
        (BuildOptions(devices={"fast": "dla0"}), "^stage 'fast' on dla0 for rtx-30: "),
        (BuildOptions(devices={"slow": "dla0"}), "^device slow=dla0: names no stage; choose fast, accurate$"),
    ],
)
def test_builders_and_devices_that_a_target_lacks_are_refused(
    bundle: Bundle, tmp_path: Path, options: BuildOptions, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        build_engine(bundle, "rtx-30", tmp_path / "out", options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(max_blocks=9), "^max_blocks: is 9 where there are 8 blocks; choose 1 to 8$"),
        (BuildOptions(max_blocks=0), "^max_blocks: is 0"),
        (BuildOptions(typical_blocks=0), "^typical_blocks: is 0; choose 1 to 8"),
        (BuildOptions(typical_blocks=5, max_blocks=4), "^typical_blocks: is 5; choose 1 to 4"),
        (BuildOptions(optimization_level=6), "^optimization_level: is 6; choose 0 to 5$"),
        (BuildOptions(workspace_bytes=0), "^workspace_bytes: is 0; give a positive number"),
        (BuildOptions(aux_streams=-1), "^aux_streams: is -1; give 0 or more$"),
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
    assert block_profile(bundle.spec.blocks, BuildOptions()) == (1, 2, 8)
    assert block_profile(bundle.spec.blocks, BuildOptions(max_blocks=1)) == (1, 1, 1)
    assert block_profile(bundle.spec.blocks, BuildOptions(typical_blocks=6)) == (1, 6, 8)


def test_options_reach_the_builder(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    real = stage_build.run_worker

    def listening(request, *rest):  # type: ignore[no-untyped-def]
        requests.append(request)
        return real(request, *rest)

    monkeypatch.setattr(stage_build, "run_worker", listening)
    options = BuildOptions(workspace_bytes=1 << 28, optimization_level=1, aux_streams=2, typical_blocks=3, max_blocks=5)
    build_engine(bundle, "rtx-30", tmp_path / "out", options)
    fast, accurate = requests
    assert fast.shapes == {}
    assert accurate.shapes == {"indices": ((1,), (3,), (5,))}
    assert accurate.settings == BuilderSettings(1 << 28, 1, aux_streams=2)


def test_a_second_build_waits_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    waiting = threading.Event()
    phases: list[str] = []

    def listen(event: BuildProgress) -> None:
        if event.stage == "fast":
            phases.append(event.phase)
        if event.phase == stage_build.WAITING:
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        with build_lock():
            result = pool.submit(build_engine, bundle, "rtx-30", tmp_path / "out", progress=listen)
            assert waiting.wait(30)
            assert phases == [stage_build.LOOKING, stage_build.WAITING]
        assert result.result(timeout=60) == read_deployment(tmp_path / "out")
    assert phases[2] == stage_build.LOADING


class TestCache:
    def test_an_engine_is_built_once(self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = build_engine(bundle, "rtx-30", tmp_path / "first")
        monkeypatch.setattr(stage_build, "run_worker", None)
        heard: list[BuildProgress] = []
        second = build_engine(bundle, "rtx-30", tmp_path / "second", progress=heard.append)
        assert [entry.from_cache for entry in first.manifest.engines] == [False, False]
        assert [entry.from_cache for entry in second.manifest.engines] == [True, True]
        assert [event.phase for event in heard if event.stage == "fast"] == [stage_build.CACHED, stage_build.FINISHED]
        assert heard[0].note == stage_build.CACHED
        for stage in ("fast", "accurate"):
            assert first.engine(stage) == second.engine(stage)
        assert first.manifest.builder == second.manifest.builder

    def test_a_miss_says_what_differs(self, bundle: Bundle, tmp_path: Path) -> None:
        build_engine(bundle, "rtx-30", tmp_path / "first")
        heard: list[BuildProgress] = []
        build_engine(bundle, "rtx-30", tmp_path / "second", BuildOptions(precision="tf32"), heard.append)
        notes = {event.stage: event.note for event in heard if event.note}
        differing = 'precision: fp32 there, tf32 asked, flags: [] there, ["TF32"] asked'
        message = f"not in the cache: the nearest differs in {differing}"
        assert notes == {"fast": message, "accurate": message}

    def test_a_corrupt_entry_is_reported_and_built_anew(self, bundle: Bundle, tmp_path: Path) -> None:
        build_engine(bundle, "rtx-30", tmp_path / "first")
        for path in (tmp_path / "cache").glob("*.engine"):
            path.write_bytes(path.read_bytes()[:-1])
        heard: list[BuildProgress] = []
        second = build_engine(bundle, "rtx-30", tmp_path / "second", progress=heard.append)
        assert heard[0].note.startswith(f"not in the cache: the entry {tmp_path}/cache/")
        assert "is corrupt: has " in heard[0].note
        assert not any(entry.from_cache for entry in second.manifest.engines)
        third = build_engine(bundle, "rtx-30", tmp_path / "third")
        assert all(entry.from_cache for entry in third.manifest.engines)

    def test_without_the_cache_nothing_is_read_or_written(self, bundle: Bundle, tmp_path: Path) -> None:
        build_engine(bundle, "rtx-30", tmp_path / "first", BuildOptions(cache=False))
        assert not (tmp_path / "cache").exists()
        build_engine(bundle, "rtx-30", tmp_path / "second")
        third = build_engine(bundle, "rtx-30", tmp_path / "third", BuildOptions(cache=False))
        assert not any(entry.from_cache for entry in third.manifest.engines)


BUILD = """
import sys
from pathlib import Path
from cascadert.bundle import read_bundle
from cascadert.engines.build import build_engine

def heard(event):
    print(event.stage, event.phase, event.step, sep="|", flush=True)

build_engine(read_bundle(Path(sys.argv[1])), "rtx-30", Path(sys.argv[2]), progress=heard)
"""


def start_build(bundle: Bundle, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(bundle.path), str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_want_one_engine_build_it_once(bundle: Bundle, tmp_path: Path) -> None:
    with build_lock():
        builds = [start_build(bundle, tmp_path / name) for name in ("one", "other")]
        for build in builds:  # both have found nothing in the cache, and want the lock
            assert build.stdout is not None
            assert any(f"|{stage_build.WAITING}|" in line for line in build.stdout)
    for build in builds:
        build.communicate(timeout=120)
        assert build.returncode == 0
    one, other = (read_deployment(tmp_path / name) for name in ("one", "other"))
    for stage, a, b in zip(("fast", "accurate"), one.manifest.engines, other.manifest.engines, strict=True):
        assert {a.from_cache, b.from_cache} == {True, False}
        assert one.engine(stage) == other.engine(stage)
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 2


@pytest.mark.parametrize("phase", ["Building engine", stage_build.LOADING])
def test_a_build_that_is_killed_leaves_nothing(bundle: Bundle, tmp_path: Path, phase: str) -> None:
    build = start_build(bundle, tmp_path / "out")
    assert build.stdout is not None
    assert any(f"fast|{phase}|" in line for line in build.stdout)
    build.kill()
    build.communicate()
    assert build.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").iterdir())
    deployment = build_engine(bundle, "rtx-30", tmp_path / "out")  # the lock is free, too
    assert not any(entry.from_cache for entry in deployment.manifest.engines)
    assert read_deployment(tmp_path / "out") == deployment


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
