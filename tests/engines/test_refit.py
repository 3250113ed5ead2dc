"""Other weights for engines that are there: what comes out is what a fresh build gives, or nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conftest import NETWORKS, SPEC
from test_on_device import FRAME, ORIN, Board, expected, labels, make_kit

from cascadert.bundle import Bundle
from cascadert.deployment import Deployment, read_deployment
from cascadert.engines import stage_build
from cascadert.engines.build import build_engine
from cascadert.engines.kit import read_kit
from cascadert.engines.options import BuildOptions
from cascadert.engines.refit import refit
from cascadert.engines.stage_build import BuildProgress
from cascadert.errors import BuildError, DeploymentError, InvalidRequest, TargetError
from cascadert.export.compile import ExportOptions, export_bundle

Export = Callable[..., Bundle]
REFITTABLE = BuildOptions(refittable=True, tensorrt="10.3.0")

OTHER = """
import torch

def other():
    torch.rand(1)  # and with it other weights than those of `fast`
    return fast()
"""

MEMBERS = """
name = "members"
classes = { names = ["a", "b", "c"], palette = [[0, 0, 0], [255, 0, 0], [0, 255, 0]] }
frame = { height = 64, width = 128 }
grid = { block = 32 }

[[stages]]
name = "one"
model = "nets.py:fast"
emit = ["logits"]

[[stages]]
name = "two"
model = "nets.py:other"
input = "frame"
emit = ["logits"]

[[stages]]
name = "mean"
model = "ensemble"
input = "carried"
reads = ["one.logits", "two.logits"]
emit = ["labels"]
"""


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """`export(seed, networks, spec)` exports the toy with other weights, networks or settings."""

    def export(seed: int, networks: str = NETWORKS, spec: str = SPEC) -> Bundle:
        folder = tmp_path / f"export-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "nets.py").write_text(networks)
        (folder / "spec.toml").write_text(spec)
        return export_bundle(folder / "spec.toml", folder / "bundle", ExportOptions(random_weights=seed))

    return export


@pytest.fixture(scope="session")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy of all tests with other weights."""
    folder = tmp_path_factory.mktemp("retrained")
    (folder / "nets.py").write_text(NETWORKS)
    (folder / "spec.toml").write_text(SPEC)
    return export_bundle(folder / "spec.toml", folder / "bundle", ExportOptions(random_weights=1))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outputs(deployment: Deployment) -> list[np.ndarray]:
    """What the first stage makes of a frame in ONNX Runtime: labels, scores, order."""
    session = ort.InferenceSession(deployment.engine("fast"), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"frame": FRAME[None]}))


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


class TestOnACpu:
    def test_it_is_the_fresh_build(self, bundle: Bundle, retrained: Bundle, tmp_path: Path) -> None:
        old, fresh = (
            build_engine(source, "cpu", tmp_path / name) for source, name in ((bundle, "old"), (retrained, "fresh"))
        )
        new = refit(old, retrained, tmp_path / "new")
        assert contents(new.path) == contents(fresh.path) != contents(old.path)
        assert read_deployment(new.path) == new
        assert equal(outputs(new), outputs(fresh))
        assert not equal(outputs(new), outputs(old))
        assert labels(new) == labels(fresh) != labels(old)
        assert contents(refit(new, bundle, tmp_path / "back").path) == contents(old.path)

    def test_only_weights_were_exchanged(self, bundle: Bundle, retrained: Bundle, tmp_path: Path) -> None:
        """The old engine with the new constants is the new engine: the digest of the architecture covers the rest."""
        old = build_engine(bundle, "cpu", tmp_path / "old")
        new = refit(old, retrained, tmp_path / "new")
        for stage in ("fast", "accurate"):
            before, now = (onnx.load_model_from_string(each.engine(stage)) for each in (old, new))
            fresh = {tensor.name: tensor for tensor in now.graph.initializer}
            changed = [t.name for t in before.graph.initializer if t != fresh[t.name]]
            assert changed
            assert all(name.startswith("network.") for name in changed)
            for tensor in before.graph.initializer:
                tensor.CopyFrom(fresh[tensor.name])
            assert before.SerializeToString() == new.engine(stage)

    @pytest.mark.parametrize(
        ("old", "new", "found"),
        [
            ("halo = 8", "halo = 4", "stage 'accurate': .* weights: halo is 8 there and 4 here; build it anew with"),
            ("block = 32", "block = 16", "stage 'fast': .* weights: grid is "),
            ('"nets.py:fast"', '"nets.py:fast"\nscale = 0.5', "stage 'fast': .* weights: scale is 1.0 there and 0.5"),
            ('name = "accurate"', 'name = "second"', "has the stages fast, second where the deployment has fast, acc"),
        ],
    )
    def test_what_differs_in_more_is_named(
        self, bundle: Bundle, export: Export, tmp_path: Path, old: str, new: str, found: str
    ) -> None:
        built = build_engine(bundle, "cpu", tmp_path / "old")
        with pytest.raises(InvalidRequest, match=found):
            refit(built, export(1, spec=SPEC.replace(old, new)), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_slope_is_no_weight(self, export: Export, tmp_path: Path) -> None:
        """The exporter makes an attribute of it, which no engine takes later."""
        networks = NETWORKS.replace("nn.ReLU(), wide", "nn.PReLU(init=0.25), wide")
        built = build_engine(export(0, networks), "cpu", tmp_path / "old")
        refit(built, export(1, networks), tmp_path / "new")
        with pytest.raises(
            InvalidRequest, match=r"stage 'fast': .* operators, or constants that belong to them \(such as"
        ):
            refit(built, export(0, networks.replace("0.25", "0.3")), tmp_path / "newer")

    def test_int8_is_refused(self, calibrated: Bundle, tmp_path: Path) -> None:
        built = build_engine(calibrated, "cpu", tmp_path / "old", BuildOptions(precision="int8"))
        with pytest.raises(InvalidRequest, match="stage 'fast': is in int8, whose scales belong to the weights"):
            refit(built, calibrated, tmp_path / "new")
        message = "^a refittable engine of stage 'fast' in int8: its scales belong to .*; leave --refittable out, or"
        with pytest.raises(TargetError, match=message):
            build_engine(calibrated, "cpu", tmp_path / "no", BuildOptions(precision="int8", refittable=True))

    def test_an_output_that_exists_is_replaced_only_on_request(self, bundle: Bundle, tmp_path: Path) -> None:
        built = build_engine(bundle, "cpu", tmp_path / "old")
        with pytest.raises(InvalidRequest, match="exists already"):
            refit(built, bundle, built.path)
        assert refit(built, bundle, built.path, replace=True) == built


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    board = Board(monkeypatch)
    board.be(ORIN, "10", "10.3.0")
    return board


class TestOnTheBoard:
    @pytest.mark.parametrize("version", ["10.3.0", "10.16.1"])
    def test_a_kit_of_other_weights(
        self, bundle: Bundle, retrained: Bundle, board: Board, tmp_path: Path, version: str
    ) -> None:
        board.be(ORIN, "10", version)
        options = BuildOptions(refittable=True, tensorrt=version)
        old = make_kit(bundle, tmp_path / "old", "orin-nano-8gb", options)
        built = build_engine(old, None, tmp_path / "built")
        kit = make_kit(retrained, tmp_path / "new", "orin-nano-8gb", options)
        found = refit(built, kit, tmp_path / "refitted")
        assert labels(found) == expected(kit) != expected(old)
        assert found.manifest.engines[0].lowered_sha256 == kit.plan.stages["fast"].graph.sha256
        assert labels(refit(found, bundle, tmp_path / "again")) == labels(built)

    def test_an_engine_that_was_not_built_for_it(self, bundle: Bundle, board: Board, tmp_path: Path) -> None:
        built = build_engine(bundle, "orin-nano-8gb", tmp_path / "out")
        with pytest.raises(InvalidRequest, match="stage 'fast': has an engine that does not take other weights; build"):
            refit(built, bundle, tmp_path / "new")

    def test_a_weight_that_is_left_out(
        self, bundle: Bundle, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = build_engine(bundle, "orin-nano-8gb", tmp_path / "out", REFITTABLE)
        monkeypatch.setenv("CASCADERT_DOUBLE_FORGOTTEN_WEIGHT", "network.4.weight")
        with pytest.raises(BuildError, match=r"refitter refused .*: weights are missing: network\.4\.weight"):
            refit(built, bundle, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_another_gpu_or_version(self, bundle: Bundle, board: Board, tmp_path: Path) -> None:
        built = build_engine(bundle, "orin-nano-8gb", tmp_path / "out", REFITTABLE)
        board.be({**ORIN, "multiprocessors": 4}, "10", "10.3.0")
        with pytest.raises(
            DeploymentError, match=r"was built on Orin with TensorRT 10\.3\.0, which are not those here"
        ):
            refit(built, bundle, tmp_path / "new")

    def test_other_blocks_or_precisions_of_a_kit(self, calibrated: Bundle, board: Board, tmp_path: Path) -> None:
        built = build_engine(calibrated, "orin-nano-8gb", tmp_path / "out", REFITTABLE)
        for changed, found in (
            ({"max_blocks": 3}, r"and \(1, 2, 3\) blocks; make it for"),
            ({"precision": "fp16"}, "is in fp16"),
        ):
            options = BuildOptions(**{"refittable": True, "tensorrt": "10.3.0", **changed})
            kit = make_kit(calibrated, tmp_path / f"{changed}", "orin-nano-8gb", options)
            with pytest.raises(InvalidRequest, match=found):
                refit(built, kit, tmp_path / "new")

    def test_stages_that_differ_in_weights_alone_are_built_once(
        self, export: Export, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Members of an ensemble: one is built, the other is the same engine with its own weights."""
        bundle, given = export(0, NETWORKS + OTHER, MEMBERS), []
        real = stage_build.run_worker
        monkeypatch.setattr(stage_build, "run_worker", lambda *a: given.append((a[0].stage, a[-1])) or real(*a))
        heard: list[BuildProgress] = []
        built = build_engine(bundle, "orin-nano-8gb", tmp_path / "out", REFITTABLE, heard.append)
        assert given == [("one", None), ("two", built.engine("one")), ("mean", None)]
        assert [event.note for event in heard if event.stage == "two" and "weights" in event.note] == [
            "takes the engine of 'one', with other weights"
        ]
        kit = make_kit(bundle, tmp_path / "kit", "orin-nano-8gb", REFITTABLE)
        assert labels(built) == expected(kit)
        assert built.engine("one") != built.engine("two")
        shutil.rmtree(tmp_path / "cache")
        given.clear()
        plain = build_engine(bundle, "orin-nano-8gb", tmp_path / "plain", BuildOptions(tensorrt="10.3.0"))
        assert [base for _, base in given] == [None] * 3
        assert labels(plain) == labels(built)

    def test_versions_before_10_have_nothing_to_refit_with(self, bundle: Bundle, tmp_path: Path) -> None:
        options = BuildOptions(refittable=True, tensorrt="8.6.1")
        message = r"^refittable engines for orin-nano-8gb: TensorRT .* cannot take the weights of an ONNX graph"
        with pytest.raises(TargetError, match=message):
            make_kit(bundle, tmp_path, "orin-nano-8gb", options)


def test_tensorrt_rtx_needs_a_gpu_for_it(bundle: Bundle, tmp_path: Path) -> None:
    """TensorRT-RTX builds anything else without."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    if has_gpu():
        pytest.skip("there is a GPU here")
    with pytest.raises(
        BuildError, match="builds refittable engines only where a GPU and its driver are; build there, or"
    ):
        build_engine(bundle, "rtx-30", tmp_path / "out", BuildOptions(refittable=True))
    assert not (tmp_path / "out").exists()


def has_gpu() -> bool:
    """Whether the driver finds one, asked without any package."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def test_kits_remember(bundle: Bundle, tmp_path: Path) -> None:
    kit = make_kit(bundle, tmp_path, "orin-nano-8gb", REFITTABLE)
    again = read_kit(kit.path)
    assert again.plan.stages == kit.plan.stages
    assert all(stage.architecture and stage.settings.refittable for stage in again.plan.stages.values())
