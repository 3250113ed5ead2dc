"""Engines of full TensorRT: built on the device itself, here played by doubles of its builder and its run time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.deployment import Deployment, GpuFingerprint, read_deployment
from cascadert.engines import stage_build
from cascadert.engines.build import BuildOptions, BuildProgress, build_engine, build_or_pack
from cascadert.engines.kit import Kit, read_kit, write_kit
from cascadert.engines.plan import make_plan
from cascadert.engines.process import BuiltEngine
from cascadert.engines.profiles import load_target
from cascadert.errors import BuildError, DeploymentError, InvalidRequest, MissingExtra, TargetError
from cascadert.runtime.open import open_graphs, open_pipeline
from cascadert.runtime.options import RuntimeOptions

TESTS = Path(__file__).parents[1]
DOUBLES = [str(TESTS / "runtime" / "executables"), str(TESTS / "engines" / "builder_double")]
ORIN = {"title": "Orin", "compute_capability": "8.7", "multiprocessors": 8, "memory_bytes": 7_990_000_000}
PASCAL = {
    "title": "NVIDIA GeForce GTX 1080 Ti",
    "compute_capability": "6.1",
    "multiprocessors": 28,
    "memory_bytes": 11_720_000_000,
}
FRAME = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)


class Board:
    """A machine with a GPU and full TensorRT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        for folder in DOUBLES:
            monkeypatch.syspath_prepend(folder)

    def be(self, gpu: dict[str, object], surface: str, version: str, module_name: str = "") -> None:
        from tensorrt_double import DoubleGpu, make_tensorrt

        self.gpu = DoubleGpu(**gpu)
        module = make_tensorrt(surface, self.gpu)
        module.__version__ = version
        self._monkeypatch.setitem(sys.modules, "tensorrt", module)
        self._monkeypatch.setenv("CASCADERT_DOUBLE_TENSORRT", ".".join(version.split(".")[:2]))
        for user in ("engines.machine", "engines.detect", "runtime.open"):
            self._monkeypatch.setattr(f"cascadert.{user}.open_gpu", lambda *_, **__: self.gpu)
        modules = (module_name,) if module_name else ()
        for user in ("machine", "detect"):
            self._monkeypatch.setattr(f"cascadert.engines.{user}.read_modules", lambda: modules)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """An Orin Nano with JetPack 6.2."""
    board = Board(monkeypatch)
    board.be(ORIN, "10", "10.3.0")
    return board


@pytest.fixture
def kit(calibrated: Bundle, tmp_path: Path) -> Kit:
    return make_kit(calibrated, tmp_path, "orin-nano-8gb", BuildOptions(precision="fp16", tensorrt="10.3.0"))


def make_kit(bundle: Bundle, folder: Path, target: str, options: BuildOptions) -> Kit:
    plan = make_plan(bundle, load_target(target), options)
    return write_kit(folder / f"{target}.kit", plan, bundle.calibrations)


def labels(deployment: Deployment) -> bytes:
    with open_pipeline(deployment, RuntimeOptions("serial")) as pipeline:
        return pipeline.infer(FRAME).labels.tobytes()


def expected(kit: Kit) -> bytes:
    """Run the graphs of a kit with ONNX Runtime: they have their precision in themselves."""
    graphs = {name: stage.graph for name, stage in kit.plan.stages.items()}
    with open_graphs(kit.plan.manifest, graphs, RuntimeOptions("serial")) as pipeline:
        return pipeline.infer(FRAME).labels.tobytes()


ON_BOARD = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnx_ir", "onnxscript"}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocked())
doubles, gpu, surface, version = eval(sys.argv.pop(1))
sys.path[:0] = doubles  # the build process imports its tensorrt from there
from tensorrt_double import DoubleGpu, make_tensorrt
board = DoubleGpu(**gpu)
sys.modules["tensorrt"] = make_tensorrt(surface, board)
sys.modules["tensorrt"].__version__ = version
import cascadert.engines.machine as machine
machine.open_gpu = lambda: board
machine.read_modules = tuple
from cascadert.cli import app
app()
"""


@pytest.mark.parametrize(
    ("target", "precision", "gpu", "surface", "version"),
    [
        ("orin-nano-8gb", "int8", ORIN, "10", "10.3.0"),
        ("orin-nano-8gb", "fp16", ORIN, "8.6", "8.5.2.2"),
        ("gtx-1080-ti", "int8", PASCAL, "8.6", "8.6.1"),
    ],
)
def test_a_kit_becomes_a_deployment_that_runs_where_neither_torch_nor_onnx_is(
    calibrated: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    precision: str,
    gpu: dict[str, object],
    surface: str,
    version: str,
) -> None:
    kit = make_kit(calibrated, tmp_path, target, BuildOptions(precision=precision, tensorrt=version))
    monkeypatch.setenv("CASCADERT_DOUBLE_TENSORRT", version[: version.index(".") + 2])
    board, output = repr((DOUBLES, gpu, surface, version)), tmp_path / "out"
    command = [sys.executable, "-c", ON_BOARD, board, "build-engine", str(kit.path), "-o", str(output), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "deployment"

    deployment = read_deployment(output)
    built_for = deployment.manifest.built_for
    fields = {("name" if name == "title" else name): value for name, value in gpu.items()}
    assert (built_for.backend, built_for.tensorrt) == ("tensorrt", version)
    assert built_for.gpu == GpuFingerprint.model_validate(fields)
    assert deployment.manifest.precisions == {"fast": precision, "accurate": precision}
    assert deployment.manifest.builder["tensorrt"] == version
    Board(monkeypatch).be(gpu, surface, version)
    if precision == "int8":
        assert labels(deployment) == expected(kit)
    else:  # the builder's flags decide where float16 is
        found, float32 = (np.frombuffer(each, np.uint8) for each in (labels(deployment), expected(kit)))
        assert np.mean(found == float32) > 0.98


def test_a_bundle_becomes_a_kit_elsewhere_and_a_deployment_on_the_device(
    calibrated: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(precision="int8")
    packed = build_or_pack(calibrated, "orin-nano-8gb", tmp_path / "kits", options)
    assert isinstance(packed, Kit)
    assert packed.path == tmp_path / "kits" / "toy-orin-nano-8gb.kit"
    assert read_kit(packed.path) == packed
    with pytest.raises(InvalidRequest, match=r"toy-orin-nano-8gb\.kit: exists already"):
        build_or_pack(calibrated, "orin-nano-8gb", tmp_path / "kits", options)
    with pytest.raises(MissingExtra, match=r"to build engines of tensorrt: the Python module 'tensorrt' is not instal"):
        build_engine(packed, None, tmp_path / "out")

    board = Board(monkeypatch)
    board.be(PASCAL, "8.6", "8.6.1")
    elsewhere = build_or_pack(calibrated, "orin-nano-8gb", tmp_path / "again", options)
    assert isinstance(elsewhere, Kit)
    board.be(ORIN, "8.6", "8.6.1", "nvidia,p3767-0005")  # JetPack 6.0: not the version that the target prefers
    built = build_or_pack(calibrated, "auto", tmp_path / "out", options)
    assert isinstance(built, Deployment)
    assert built.manifest.built_for.tensorrt == "8.6.1"
    assert built.manifest.built_for.target == "orin-nano-8gb"


class TestOnTheBoard:
    def test_engines_come_from_the_cache_of_this_gpu_and_version(self, kit: Kit, board: Board, tmp_path: Path) -> None:
        heard: list[BuildProgress] = []
        first = build_engine(kit, None, tmp_path / "first")
        second = build_engine(kit, "orin-nano-8gb", tmp_path / "second")
        assert [entry.from_cache for entry in first.manifest.engines] == [False, False]
        assert [entry.from_cache for entry in second.manifest.engines] == [True, True]
        assert labels(second) == labels(first) == expected(kit)

        board.be({**ORIN, "multiprocessors": 4}, "10", "10.3.0")
        third = build_engine(kit, None, tmp_path / "third", progress=heard.append)
        assert [entry.from_cache for entry in third.manifest.engines] == [False, False]
        differs = "not in the cache: the nearest differs in gpu_multiprocessors: 8 there, 4 asked"
        assert [event.note for event in heard if "cache" in event.note] == [differs, differs]

    def test_kernels_are_timed_once(self, kit: Kit, board: Board, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        given = []
        real = stage_build.run_worker

        def listening(recipe, folder, subject, timeout_s, on_progress, timings, base) -> BuiltEngine:  # type: ignore[no-untyped-def]
            given.append(timings)
            built = real(recipe, folder, subject, timeout_s, on_progress, timings, base)
            given.append(built.timing_cache)
            return built

        monkeypatch.setattr(stage_build, "run_worker", listening)
        build_engine(kit, None, tmp_path / "first")
        nothing, after_fast, before_accurate, after_accurate = given
        assert nothing is None
        assert after_fast == before_accurate != after_accurate
        (tmp_path / "cache").joinpath(next((tmp_path / "cache").glob("*.engine")).name).unlink()
        given.clear()
        build_engine(kit, None, tmp_path / "second", BuildOptions(timing_cache=False))
        assert given[0] is None
        assert len(given) == 2

    def test_a_foreign_gpu_is_refused(self, kit: Kit, board: Board, tmp_path: Path) -> None:
        board.be(PASCAL, "10", "10.3.0")
        message = (
            r"^target 'orin-nano-8gb': the GPU here is another: NVIDIA GeForce GTX 1080 Ti, .*; build on the device$"
        )
        with pytest.raises(TargetError, match=message):
            build_engine(kit, None, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_foreign_version_is_refused(self, kit: Kit, board: Board, tmp_path: Path) -> None:
        board.be(ORIN, "8.6", "8.6.1")
        message = (
            r"^a plan for orin-nano-8gb: has graphs for tensorrt >=10\.3,<11, and 8\.6\.1 is here; write a kit with"
        )
        with pytest.raises(TargetError, match=message):
            build_engine(kit, None, tmp_path / "out")
        board.be(ORIN, "8.6", "8.4.1")
        with pytest.raises(TargetError, match=r"^target 'orin-nano-8gb': tensorrt 8\.4\.1 does not build for it; use"):
            build_engine(kit, None, tmp_path / "out")

    def test_a_version_that_is_known_to_be_bad_is_refused(
        self, kit: Kit, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = tuple(
            facts.model_copy(update={"known_bad": ("10.3.0",)}) if facts == kit.plan.facts else facts
            for facts in kit.plan.target.backends
        )
        target = kit.plan.target.model_copy(update={"backends": bad})
        plan = replace(kit.plan, target=target, facts=target.backend("tensorrt", "10.3.0"))
        with pytest.raises(
            TargetError,
            match=r"^tensorrt 10\.3\.0 for orin-nano-8gb: 10\.3\.0 is known to be broken; use another of >=10\.3,<11$",
        ):
            build_engine(replace(kit, plan=plan), None, tmp_path / "out")

    def test_another_target_than_the_kit_has_is_refused(self, kit: Kit, board: Board, tmp_path: Path) -> None:
        with pytest.raises(
            TargetError, match=r"\.kit: is for target 'orin-nano-8gb', not 'rtx-30'; leave the target out"
        ):
            build_engine(kit, "rtx-30", tmp_path / "out")

    @pytest.mark.parametrize(
        ("options", "field"),
        [(BuildOptions(precision="fp16"), "precision"), (BuildOptions(max_blocks=2), "max_blocks")],
    )
    def test_what_a_kit_has_settled_is_refused(
        self, kit: Kit, board: Board, tmp_path: Path, options: BuildOptions, field: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=rf"\.kit: is settled already, and {field} is given; leave it out"):
            build_engine(kit, None, tmp_path / "out", options)

    def test_an_engine_that_does_not_load_is_neither_kept_nor_deployed(
        self, kit: Kit, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = stage_build.run_worker
        monkeypatch.setattr(stage_build, "run_worker", lambda *a: replace(real(*a), engine=b"no plan"))
        with pytest.raises(DeploymentError, match=r"^stage 'fast': tensorrt 10\.3\.0 refuses its engine: "):
            build_engine(kit, None, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "cache").iterdir())

    def test_a_refusal_names_the_node_without_onnx(
        self, kit: Kit, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_) -> BuiltEngine:  # type: ignore[no-untyped-def]
            fault = stage_build.RefusedGraph("parser", (Fault("no importer", "culprit"),), "TensorRT")
            raise fault

        from cascadert.engines.process import Fault

        monkeypatch.setattr(stage_build, "run_worker", refuse)
        monkeypatch.setattr("cascadert.engines.blame.find_spec", lambda name: None)
        with pytest.raises(
            BuildError, match="TensorRT's parser refused node 'culprit': no importer; choose another tar"
        ):
            build_engine(kit, None, tmp_path / "out")

    def test_the_deployment_stays_with_its_gpu_and_version(self, kit: Kit, board: Board, tmp_path: Path) -> None:
        deployment = build_engine(kit, None, tmp_path / "out")
        board.be({**ORIN, "memory_bytes": 16_000_000_000}, "10", "10.3.0")
        with pytest.raises(DeploymentError, match="was built for memory bytes 7990000000; this GPU has 16000000000"):
            open_pipeline(deployment)
        board.be(ORIN, "10", "10.16.1")
        with pytest.raises(DeploymentError, match=r"was built with TensorRT 10\.3\.0; 10\.16\.1 is installed"):
            open_pipeline(deployment)
        assert not board.gpu.calls


def test_a_stage_runs_on_a_dla_core(calibrated: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch)
    board.be({**ORIN, "memory_bytes": 15_900_000_000}, "10", "10.3.0", "nvidia,p3767-0000")
    monkeypatch.setenv("CASCADERT_DOUBLE_DLA_CORES", "2")
    options = BuildOptions(precision="fp16", devices={"fast": "dla1"}, tensorrt="10.3.0")
    kit = make_kit(calibrated, tmp_path, "orin-nx", options)
    deployment = build_engine(read_kit(kit.path), None, tmp_path / "out")
    assert [entry.device for entry in deployment.manifest.engines] == ["dla1", "gpu"]
    assert b'\\"device\\": \\"DLA1\\"' in deployment.engine("fast") or b'"device": "DLA1"' in deployment.engine("fast")
    assert b'"device": "GPU-1"' in deployment.engine("accurate")
