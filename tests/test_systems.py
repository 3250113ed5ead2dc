"""Every system of the papers, at a size for CPUs: it suits every builder, equals PyTorch, and overlaps unchanged."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascadert.bundle import Bundle
from cascadert.calibration.calibrate import CalibrateOptions, calibrate
from cascadert.calibration.parity import ParityOptions, check_parity, generated_streets
from cascadert.calibration.refit import Recording
from cascadert.engines.build import BuildOptions, build_engine
from cascadert.engines.form import StageForm
from cascadert.engines.lint import lint_graph
from cascadert.engines.profiles import list_targets
from cascadert.export.compile import ExportOptions, export_bundle, rebuild_stages
from cascadert.export.networks import load_networks
from cascadert.export.precision import quantized_operators
from cascadert.graph import Graph
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Result
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy

ROOT = Path(__file__).parents[1]
TINY = sorted((ROOT / "examples" / "tiny").glob("*.toml"))
SEED = 0


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each example, exported when it is first asked for."""
    folder = tmp_path_factory.mktemp("systems")

    @cache
    def bundle(name: str) -> Bundle:
        path = ROOT / "examples" / "tiny" / f"{name}.toml"
        return export_bundle(path, folder / name, ExportOptions(random_weights=SEED))

    return bundle


@pytest.fixture(params=[path.stem for path in TINY])
def bundle(request: pytest.FixtureRequest, bundles: Any) -> Bundle:
    found: Bundle = bundles(request.param)
    return found


def streets(bundle: Bundle, count: int) -> list[dict[str, np.ndarray]]:
    return [dict(planes) for planes in generated_streets(bundle.spec, count)]


def run(bundle: Bundle, count: int, policies: dict[str, SelectPolicy], **options: Any) -> list[Result]:
    with open_pipeline(bundle, RuntimeOptions(**options)) as pipeline:
        return list(pipeline.stream(streets(bundle, count), policies))


def same_theta(bundle: Bundle, theta: float) -> dict[str, SelectPolicy]:
    return {stage.name: ThresholdPolicy(theta=theta) for stage in bundle.manifest.stages if stage.select is not None}


def test_there_is_a_tiny_twin_of_each_full_size_example() -> None:
    kinds = {re.sub(r"-(tiny|r50|mobilenet-v2|model-a|deeplabv3|fcn|unet|segnet)", "", p.stem) for p in TINY}
    assert kinds == {
        "ensemble", "ensemble-refined", "icnet", "model-selection", "multi-exit", "overlap", "three-stage",
        "two-column", "two-stage",
    }  # fmt: skip


def test_every_builder_takes_it(bundle: Bundle) -> None:
    builders = 0
    forms: dict[tuple[str, str, int], Graph] = {}  # in fp32 they differ in little
    for target in list_targets():
        for facts in () if target.refused else target.backends:
            builders += 1
            for stage, graph in bundle.graphs.items():
                key = (stage, facts.name, facts.opset)
                if key not in forms:
                    form = StageForm(f"stage '{stage}' for {target.name}", "fp32", target, facts, None)
                    forms[key] = form.unchecked(graph)
                assert lint_graph(forms[key], facts, target.compute_capability) == ()
    assert builders > 20


def test_it_computes_what_pytorch_computes(bundle: Bundle) -> None:
    report = check_parity(bundle, None, ParityOptions(frames=3))
    report.check()
    assert not report.vacuous
    assert {row.stage for row in report.rows} >= {stage.name for stage in bundle.manifest.stages}
    assert sum(row.different for row in report.rows) == 0


def test_side_by_side_and_in_turn_labels_are_the_same(bundle: Bundle) -> None:
    serial = run(bundle, 8, {}, mode="serial")
    overlapped = run(bundle, 8, {}, mode="overlapped")
    for one, other in zip(serial, overlapped, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert [(r.stage, r.n) for r in one.runs] == [(r.stage, r.n) for r in other.runs]


def test_thresholds_at_their_ends_leave_one_answer(bundle: Bundle) -> None:
    never, always = run(bundle, 2, same_theta(bundle, 99.0)), run(bundle, 2, same_theta(bundle, -1.0))
    decided = [stage.name for stage in bundle.manifest.stages if stage.select is not None]
    for result in never:
        assert all(r.n == 0 for r in result.runs if r.stage in decided)
    for result in always:
        assert all(r.n for r in result.runs if r.stage in decided)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi-exit", "two-column", "two-stage"])  # all of them: bench/systems.py
def test_it_is_calibrated_and_built_in_fp16_and_int8(bundles: Any, name: str, tmp_path: Path) -> None:
    bundle = bundles(name)
    recording = Recording(streets(bundle, 8), None)
    how = CalibrateOptions("generated streets", calibrators=("percentile",))
    calibrated = calibrate(bundle, recording, tmp_path / "calibrated", how).bundle
    # Made-up weights do not survive int8, and calibration may leave nothing of a stage in it.
    int8 = {stage: "int8" if _is_quantized(calibrated, stage) else "fp16" for stage in calibrated.graphs}
    assert "int8" in int8.values()
    for precisions in ({"": "fp16"}, int8):
        options = BuildOptions(precision=precisions, max_blocks=min(8, bundle.spec.blocks))
        deployment = build_engine(calibrated, "rtx-40", tmp_path / str(len(precisions)), options)
        assert all(entry.engine.bytes > 0 for entry in deployment.manifest.engines)


def _is_quantized(bundle: Bundle, stage: str) -> bool:
    calibration = bundle.calibrations.get(stage)
    if calibration is None or "tensorrt" not in calibration.int8:
        return False
    return bool(quantized_operators(bundle.graphs[stage], "tensorrt", calibration.int8["tensorrt"]))


def test_exits_chained_are_the_monolithic_network(bundles: Any) -> None:
    bundle = bundles("multi-exit")
    (network,) = bundle.spec.networks
    stages = rebuild_stages(bundle)
    exits = [stage for stage in stages if stage.makes_labels]
    whole = load_networks(bundle.spec, ROOT, SEED)  # the parts below are those of the bundle, prepared
    assert list(whole) == [stage.name for stage in stages]
    planes = torch.from_numpy(streets(bundle, 1)[0]["frame"])
    with torch.inference_mode():
        (features,) = stages[0](planes)
        x = stages[0].network_inputs(planes)[0]
        for segment, head in zip(stages[::2], stages[1::2], strict=True):
            x = segment.network(x)
            if segment is not stages[0]:
                (features,) = segment(features)
            assert torch.equal(features, x)
            assert torch.equal(head.logits(features), head.back.logits({"logits": head.network(x)}))
    assert len(exits) == 3
    assert network.model == "multi-exit"


@pytest.mark.parametrize(("threshold", "stage"), [(0.0, "exit1"), (1.01, "final")])
def test_a_threshold_of_0_leaves_first_and_one_above_1_last(bundles: Any, threshold: float, stage: str) -> None:
    bundle = bundles("multi-exit")
    for result in run(bundle, 4, same_theta(bundle, 1 - threshold)):
        assert result.labels_from == stage


def test_speculation_changes_no_result(bundles: Any) -> None:
    bundle = bundles("multi-exit")
    plain = bundle.manifest.model_copy(
        update={"stages": tuple(s.model_copy(update={"speculative": False}) for s in bundle.manifest.stages)}
    )
    for theta in (0.2, 0.3, 0.4, 0.5):
        speculated = run(bundle, 6, same_theta(bundle, theta))
        waited = run(Bundle(bundle.path, plain), 6, same_theta(bundle, theta))
        for one, other in zip(speculated, waited, strict=True):
            assert np.array_equal(one.labels, other.labels)
            assert one.labels_from == other.labels_from


@pytest.mark.parametrize("k", [0, 1, 2, 8])
def test_fast_inference_is_classic_inference_with_a_mask(bundles: Any, k: int) -> None:
    """Paper 003: computing k regions equals computing all and masking the rest."""
    bundle = bundles("two-column")
    half, crops, fuse = rebuild_stages(bundle)
    planes = torch.from_numpy(streets(bundle, 1)[0]["frame"])
    with torch.inference_mode():
        made = dict(zip(half.output_names, half(planes), strict=True))
        mask = torch.zeros(8).index_fill(0, made["order"][:k].long(), 1.0).reshape(1, 1, 2, 4)
        everything = torch.arange(8, dtype=torch.int32)
        levels = dict(zip(crops.output_names, crops(planes, everything), strict=True))
        maps = [
            _joined(levels[name] * mask.reshape(-1, 1, 1, 1)) if producer == "crops" else made[name]
            for producer, name in (source.split(".") for source in fuse.spec.reads)
        ]
        wanted = fuse.back.logits({"logits": fuse.network(*maps, mask)}).argmax(1)
    (result,) = run(bundle, 1, {"crops": TopKPolicy(k=k)})
    if k == 0:
        wanted = made["labels"]
    assert (torch.from_numpy(result.labels) != wanted).float().mean() < 1e-4


def _joined(rows: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = rows.shape
    return rows.reshape(1, 2, 4, channels, height, width).permute(0, 3, 1, 4, 2, 5).reshape(1, channels, 2 * height, -1)


def test_an_ensembles_entropy_is_aleatoric_and_epistemic(bundles: Any) -> None:
    bundle = bundles("ensemble")
    tensors = ("reduce.entropy", "reduce.aleatoric", "reduce.epistemic")
    for result in run(bundle, 2, {}, tensors=tensors):
        entropy, aleatoric, epistemic = (result.tensors[name] for name in tensors)
        assert np.abs(entropy - aleatoric - epistemic).max() < 1e-5
        assert epistemic.min() > -1e-6
        assert epistemic.max() > 0.1


def _sources() -> Iterator[Path]:
    return (ROOT / "src" / "cascadert" / "runtime").rglob("*.py")


def test_the_runtime_names_no_system() -> None:
    systems = (
        r"enet|icnet|pspnet|deeplab|ensemble|multi.?exit|two.?stage|two.?column|isctf|early.exit|\bexit \d|segment\d"
    )
    found = [
        f"{path}: {line}"
        for path in _sources()
        for line in path.read_text().splitlines()
        if re.search(systems, line, re.I)
    ]
    assert found == []
