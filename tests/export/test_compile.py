"""From a specification to a bundle: what is recorded and refused; the same request gives the same bits."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from cascadert.bundle import CREATED_BY, Bundle, read_bundle
from cascadert.errors import InvalidRequest, NetworkError, SpecError, WeightsError
from cascadert.export.compile import ExportOptions, export_bundle, export_stage, reference_stages
from cascadert.export.examples import example_frame, examples
from cascadert.export.macs import count_parameters
from cascadert.export.networks import state_sha256
from cascadert.runtime.open import open_pipeline
from cascadert.spec import load_spec, parse_spec


def test_a_bundle_records_where_everything_came_from(toy_bundle: Bundle, toy_spec: Path) -> None:
    manifest = toy_bundle.manifest
    assert manifest.created_by == CREATED_BY
    assert manifest.spec == load_spec(toy_spec)
    assert Path(manifest.spec_folder) == toy_spec.parent.resolve()
    assert [stage.name for stage in manifest.stages] == ["fast", "accurate"]
    modules = reference_stages(manifest.spec, toy_spec.parent)
    for stage, module in zip(manifest.stages, modules, strict=True):
        network = stage.network
        assert (network.model, network.weights) == ("networks.py:toy", f"{stage.name}.safetensors")
        assert network.random_seed is None
        assert network.parameters == count_parameters(module.network)
        assert network.state_sha256 == state_sha256(module.network)
    fast, accurate = (stage.network for stage in manifest.stages)
    assert (fast.input_shapes, accurate.input_shapes) == (((1, 3, 40, 56),), ((1, 3, 22, 22),))
    assert fast.macs == 10 * 14 * 6 * (3 * 9 + 4 * 9)  # stride 4, six channels in between
    assert accurate.macs == 11 * 11 * 6 * (3 * 9 + 4 * 9)


def test_ports_are_those_of_the_design(toy_bundle: Bundle, cameras_bundle: Bundle, chain_bundle: Bundle) -> None:
    def ports(bundle: Bundle, stage: str) -> tuple[list[str], list[str]]:
        graph = bundle.graphs[stage]
        return [str(spec) for spec in graph.inputs], [str(spec) for spec in graph.outputs]

    decisions = ["labels uint8 [1, 40, 56]", "scores float32 [15]", "order int32 [15]"]
    assert ports(toy_bundle, "fast") == (["frame uint8 [1, 40, 56, 3]"], decisions)
    inputs = ["frame uint8 [2, 40, 56, 3]", "indices int32 [n]", "prior_labels uint8 [2, 40, 56]"]
    assert ports(cameras_bundle, "accurate") == (inputs, ["labels uint8 [2, 40, 56]"])
    assert ports(cameras_bundle, "fast")[1][1:] == ["scores float32 [30]", "order int32 [30]"]
    planes = ["frame.y uint8 [1, 40, 56, 1]", "frame.uv uint8 [1, 20, 28, 2]"]
    middle = ["labels uint8 [1, 40, 56]", "scores float32 [16]", "order int32 [16]"]
    assert ports(chain_bundle, "middle") == ([*planes, "indices int32 [n]", "prior_labels uint8 [1, 40, 56]"], middle)


def test_a_third_stage_is_one_more_entry(chain_bundle: Bundle) -> None:
    _, middle, accurate = chain_bundle.manifest.stages
    assert middle.select is not None
    assert accurate.select is not None
    assert (middle.select.scores, accurate.select.scores) == ("fast.scores", "middle.scores")
    assert {i.name: i.source for i in accurate.inputs} == {
        "frame.y": "frame.y", "frame.uv": "frame.uv", "indices": "middle.order", "prior_labels": "middle.labels",
    }  # fmt: skip
    assert {o.name: o.when_skipped for o in middle.outputs} == {"labels": "fast.labels", "scores": None, "order": None}


def test_the_same_request_gives_the_same_bits(toy_bundle: Bundle, toy_folder: Path) -> None:
    stages = reference_stages(toy_bundle.spec, toy_folder)
    for stage, example in examples(stages, toy_bundle.spec):
        assert export_stage(stage, example).sha256 == toy_bundle.graphs[stage.name].sha256


def test_weights_may_be_a_torch_state_dict(toy_data: dict[str, Any], toy_bundle: Bundle, toy_folder: Path) -> None:
    state = safetensors.torch.load_file(toy_folder / "fast.safetensors")
    torch.save(state, toy_folder / "fast.pt")
    toy_data["stages"] = [{**toy_data["stages"][0], "weights": "fast.pt"}]
    (fast,) = reference_stages(parse_spec(toy_data, "spec"), toy_folder)
    assert state_sha256(fast.network) == toy_bundle.manifest.stages[0].network.state_sha256


def test_random_weights_are_recorded_reproducible_and_decide(
    tmp_path: Path, toy_folder: Path, toy_data: dict[str, Any], save_spec, toy_frames: np.ndarray
) -> None:
    (tmp_path / "networks.py").write_bytes((toy_folder / "networks.py").read_bytes())
    for stage in toy_data["stages"]:
        del stage["weights"]
    toy_data["grid"] = {"block": [40, 56]}  # one block: the count is 0 or 1, and nothing is dynamic
    spec = save_spec(tmp_path, toy_data)
    seen: list[str] = []
    bundle = export_bundle(spec, tmp_path / "out", ExportOptions(random_weights=4), seen.append)
    assert seen == ["fast", "accurate"]
    assert [stage.network.random_seed for stage in bundle.manifest.stages] == [4, 4]
    assert bundle.manifest.stages[1].inputs[1].shape == (1,)
    again, other = (reference_stages(load_spec(spec), tmp_path, seed) for seed in (4, 5))
    hashes = [stage.network.state_sha256 for stage in bundle.manifest.stages]
    assert [state_sha256(stage.network) for stage in again] == hashes
    assert [state_sha256(stage.network) for stage in other] != hashes
    with open_pipeline(read_bundle(tmp_path / "out")) as pipeline:
        results = list(pipeline.stream(toy_frames))
    assert len(np.unique(results[0].labels)) > 1
    assert all(0 < result.runs[1].scores[0] < 2 for result in results)
    assert {result.runs[1].n for result in results} <= {0, 1}


def test_example_frames_are_streets_of_the_right_form(toy_data: dict[str, Any]) -> None:
    toy_data["frame"].update(pixel_format="nv12", cameras=2)
    planes = example_frame(parse_spec(toy_data, "spec"))
    assert {name: tuple(plane.shape) for name, plane in planes.items()} == {
        "frame.y": (2, 40, 56, 1), "frame.uv": (2, 20, 28, 2),
    }  # fmt: skip
    assert not torch.equal(planes["frame.y"][0], planes["frame.y"][1])


def test_an_output_that_exists_is_refused_before_any_work(toy_spec: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{tmp_path}: exists already; choose another output, or pass --force"):
        export_bundle(toy_spec, tmp_path)


def test_a_failed_export_leaves_nothing(tmp_path: Path, toy_folder: Path, toy_data: dict[str, Any], save_spec) -> None:
    toy_data["name"] = "failing"
    toy_data["stages"][1]["weights"] = "absent.safetensors"
    with pytest.raises(WeightsError, match=r"absent\.safetensors: there is no such file"):
        export_bundle(save_spec(toy_folder, toy_data), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights": None}, SpecError, r"^stage 'fast': weights: are missing; add them, or pass --random-weights"),
        ({"model": "networks.py:Broken", "args": {}, "weights": "empty.safetensors"}, NetworkError,
         r"^stage 'fast': failed on an input of .*40, 56.* pixels: RuntimeError: no such luck second line; mend"),
        ({"model": "networks.py:Flat", "args": {}, "weights": "empty.safetensors"}, NetworkError,
         r"^stage 'fast': networks\.py:Flat: returned \[1, 3\]; return logits \[N, K, h, w\]$"),
        ({"model": "networks.py:Pair", "args": {}, "weights": "empty.safetensors"}, NetworkError,
         r"^stage 'fast': networks\.py:Pair: returned tuple; return logits \[N, K, h, w\], or a dict of tensors by"),
        ({"model": "networks.py:Pair", "args": {}, "weights": None}, NetworkError,
         r"^stage 'fast': networks\.py:Pair: returned tuple; return logits \[N, K, h, w\], or a dict of tensors by"),
        ({"args": {"stride": 4, "classes": 7}, "weights": None}, NetworkError,
         r"^stage 'fast': networks\.py:toy: returned 7 channels where the spec names 4 classes; mend args or classes$"),
        ({"args": {"stride": 4, "classes": 7}}, WeightsError,
         r"fast\.safetensors: '3\.\w+' is \[4.*\] where the network has \[7.*\]; check args"),
    ],
)  # fmt: skip
def test_networks_that_do_not_work_are_named(
    toy_folder: Path, toy_data: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    safetensors.torch.save_file({}, toy_folder / "empty.safetensors")
    data = copy.deepcopy(toy_data)
    data["stages"] = [{**data["stages"][0], **change}]
    seed = 0 if error is NetworkError and change.get("weights", "") is None else None
    with pytest.raises(error, match=message) as caught:
        reference_stages(parse_spec(data, "spec"), toy_folder, seed)
    assert "\n" not in str(caught.value)


def test_logits_that_are_not_finite_are_refused(toy_folder: Path, toy_data: dict[str, Any], tmp_path: Path) -> None:
    state = safetensors.torch.load_file(toy_folder / "fast.safetensors")
    state["0.weight"] *= 3e38
    (tmp_path / "networks.py").write_bytes((toy_folder / "networks.py").read_bytes())
    state["0.weight"].clamp_(-3e38, 3e38)
    safetensors.torch.save_file(state, tmp_path / "fast.safetensors")
    toy_data["stages"] = toy_data["stages"][:1]
    with pytest.raises(
        NetworkError, match=r"^stage 'fast': networks\.py:toy: returns NaN or infinity on a street scene; check"
    ):
        reference_stages(parse_spec(toy_data, "spec"), tmp_path)
