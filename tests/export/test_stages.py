"""Stages against a cascade written out by hand: selection, refinement, chains, what a network may return."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.export.glue import entropy_bits
from cascadert.export.stages import Stage, make_stages
from cascadert.export.stages.answers import named_answer
from cascadert.pixels import planes_from_rgb
from cascadert.spec import CascadeSpec, PixelFormat, parse_spec

IMAGENET = (torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))


class Network(nn.Module):
    """Logits at half the resolution, different for every seed."""

    def __init__(self, seed: int, classes: int = 4, gain: float = 2.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(5, 3, 3, 3, generator=generator) / 4, requires_grad=False)
        self.second = nn.Parameter(torch.randn(classes, 5, 3, 3, generator=generator) * gain / 4, requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.conv2d(F.relu(F.conv2d(pixels, self.first, stride=2, padding=1)), self.second, padding=1)


@pytest.fixture
def parts(toy_data: dict[str, Any], toy_frames: np.ndarray):
    """Build the stages of the toy specification with changes: `parts(change) -> (spec, networks, stages, frame)`."""

    def build(change: Callable[[dict[str, Any]], None] = lambda data: None):
        change(toy_data)
        spec = parse_spec(toy_data, "test")
        networks = {stage.name: Network(seed) for seed, stage in enumerate(spec.stages)}
        frame = torch.from_numpy(toy_frames[: spec.frame.cameras])
        return spec, networks, make_stages(spec, networks), frame

    return build


def _three_stages(data: dict[str, Any]) -> None:
    accurate = data["stages"][1]
    data["stages"].insert(1, {**copy.deepcopy(accurate), "name": "middle", "halo": 0})


def _halved(data: dict[str, Any]) -> None:
    data["stages"][0]["scale"] = 0.5


def run_by_rule(stages: tuple[Stage, ...], frame: Tensor, thetas: list[float]) -> tuple[Tensor, list[int]]:
    """The cascade as design.md says it: n blocks above theta, in order, stage after stage."""
    labels, scores, order = stages[0](frame)[:3]
    counts = []
    for stage, theta in zip(stages[1:], thetas, strict=True):
        n = int((scores > theta).sum())
        counts.append(n)
        if not n:
            scores = torch.empty(0)
            continue
        labels, *rest = stage(frame, order[:n], labels)
        scores, order = rest or (torch.empty(0), order)
    return labels, counts


def whole_by_hand(network: nn.Module, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Full-resolution logits and labels of a network on whole frames."""
    pixels = (frame.permute(0, 3, 1, 2) / 255 - IMAGENET[0]) / IMAGENET[1]
    logits = F.interpolate(network(pixels), frame.shape[1:3], mode="bilinear")
    return logits, logits.argmax(1)


def blocks_by_hand(network: nn.Module, frame: Tensor, spec: CascadeSpec, halo: int) -> Tensor:
    """Labels of a network that sees one block of one camera at a time, each pasted into the pixels it owns."""
    grid = spec.make_grid()
    out = torch.full(frame.shape[:3], 255)
    padded = np.pad(frame.numpy(), ((0, 0), (halo, halo), (halo, halo), (0, 0)), mode="edge")
    for camera in range(len(frame)):
        for index in range(grid.size):
            (y, x, bottom, right), (t, a, b, c) = grid.box(index), grid.owned_box(index)
            patch = torch.from_numpy(padded[camera : camera + 1, y : bottom + 2 * halo, x : right + 2 * halo].copy())
            labels = whole_by_hand(network, patch)[1][0, halo : halo + bottom - y, halo : halo + right - x]
            out[camera, t:b, a:c] = labels[t - y : b - y, a - x : c - x]
    return out


def assert_same_up_to_ties(found: Tensor, wanted: Tensor, margins: Tensor) -> None:
    differ = found.long() != wanted.long()
    assert not (differ & (margins > 1e-4)).any()
    assert differ.float().mean() < 1e-3


def test_first_stage_equals_the_paper_by_hand(parts) -> None:
    spec, networks, stages, frame = parts()
    logits, by_hand = whole_by_hand(networks["fast"], frame)
    labels, scores, order = stages[0](frame)
    assert_same_up_to_ties(labels, by_hand, stages[0].margins(frame))
    entropy = entropy_bits(logits)[0]
    grid = spec.make_grid()
    means = torch.stack([entropy[t:b, a:c].mean() for t, a, b, c in map(grid.box, range(grid.size))])
    assert sorted(order.tolist()) == list(range(grid.size))
    assert (scores[:-1] >= scores[1:]).all()
    assert torch.allclose(scores, means[order.long()], atol=1e-5)


def test_first_stage_at_half_resolution_resizes_once(parts) -> None:
    _, networks, stages, frame = parts(_halved)
    pixels = (frame.permute(0, 3, 1, 2) / 255 - IMAGENET[0]) / IMAGENET[1]
    small = F.interpolate(pixels, (20, 28), mode="bilinear", antialias=False)
    by_hand = F.interpolate(networks["fast"](small), (40, 56), mode="bilinear").argmax(1)
    assert stages[0].network_inputs(frame)[0].shape == (1, 3, 20, 28)
    assert_same_up_to_ties(stages[0](frame)[0], by_hand, stages[0].margins(frame))


@pytest.mark.parametrize("pixel_format", ["rgb8", "bgr8", "rgba8"])
def test_at_half_resolution_nothing_is_rounded_before_normalisation(parts, pixel_format: PixelFormat) -> None:
    _, _, (first, _), frame = parts(lambda data: (_halved(data), data["frame"].update(pixel_format=pixel_format)))
    exact = F.interpolate(frame.permute(0, 3, 1, 2).double(), (20, 28), mode="bilinear")
    planes = planes_from_rgb(frame.numpy(), pixel_format)
    pixels = first.network_inputs(*map(torch.from_numpy, planes.values()))[0]
    assert torch.equal(pixels, (exact.float() - IMAGENET[0] * 255) / (IMAGENET[1] * 255))


def test_entropy_is_an_output_where_the_spec_asks(parts) -> None:
    _, networks, (first, _), frame = parts(
        lambda data: data["stages"][0].update(emit=["labels", "scores", "order", "entropy"])
    )
    assert first.output_names == ("labels", "scores", "order", "entropy")
    entropy = first(frame)[3]
    assert torch.allclose(entropy, entropy_bits(whole_by_hand(networks["fast"], frame)[0]), atol=1e-5)


@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("halo", [0, 3])
def test_negative_theta_equals_the_accurate_network_block_by_block(parts, halo: int, cameras: int) -> None:
    def change(data: dict[str, Any]) -> None:
        data["stages"][1]["halo"] = halo
        data["frame"]["cameras"] = cameras

    spec, networks, stages, frame = parts(change)
    labels, (n,) = run_by_rule(stages, frame, [-0.1])
    assert n == cameras * spec.make_grid().size
    everything = torch.arange(n, dtype=torch.int32)
    margins = stages[1].margins(frame, everything, stages[0](frame)[0])
    assert_same_up_to_ties(labels, blocks_by_hand(networks["accurate"], frame, spec, halo), margins)


@pytest.mark.parametrize("merge", ["owner", "average"])
def test_a_batch_of_blocks_equals_its_blocks_one_by_one(parts, merge: str) -> None:
    def apart(data: dict[str, Any]) -> None:
        data["stages"][1]["merge"] = merge
        data["grid"] = {"block": [20, 14]}

    _, _, (first, refine), frame = parts(apart)
    fast, _, order = first(frame)
    at_once = refine(frame, order, fast)[0]
    one_by_one = fast
    for index in order:
        one_by_one = refine(frame, index[None], one_by_one)[0]
    assert_same_up_to_ties(one_by_one, at_once, refine.margins(frame, order, fast))
    assert not torch.equal(at_once, fast)


def test_theta_above_log2_k_equals_the_fast_network(parts) -> None:
    _, _, stages, frame = parts()
    labels, (n,) = run_by_rule(stages, frame, [math.log2(4) + 1e-3])
    assert n == 0
    assert torch.equal(labels, stages[0](frame)[0])


def test_blocks_fall_as_theta_rises_and_all_else_stays_fast(parts) -> None:
    spec, _, stages, frame = parts()
    fast, _, order = stages[0](frame)
    counts = [run_by_rule(stages, frame, [theta])[1][0] for theta in np.linspace(-0.1, 2.1, 23)]
    assert counts == sorted(counts, reverse=True)
    assert {counts[0], counts[-1]} == {spec.make_grid().size, 0}
    n = len(order) // 2
    labels = stages[1](frame, order[:n], fast)[0]
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for index in order[n:].tolist():
        top, left, bottom, right = spec.make_grid().owned_box(index)
        kept[:, top:bottom, left:right] = True
    assert kept.any()
    assert torch.equal(labels[kept], fast[kept])


def test_margins_are_the_gap_of_the_two_best_logits_and_infinite_elsewhere(parts) -> None:
    spec, networks, stages, frame = parts()
    logits, _ = whole_by_hand(networks["fast"], frame)
    best = logits.sort(dim=1, descending=True).values
    assert torch.allclose(stages[0].margins(frame), best[:, 0] - best[:, 1], atol=1e-5)
    margins = stages[1].margins(frame, torch.tensor([3], dtype=torch.int32), stages[0](frame)[0])
    top, left, bottom, right = spec.make_grid().owned_box(3)
    finite = torch.zeros_like(margins, dtype=torch.bool)
    finite[:, top:bottom, left:right] = True
    assert torch.equal(margins.isfinite(), finite)
    assert (margins >= 0).all()


def test_averaging_merges_the_probabilities_of_overlapping_blocks(parts) -> None:
    spec, networks, stages, frame = parts(lambda data: data["stages"][1].update(merge="average", halo=0))
    grid, fast = spec.make_grid(), stages[0](frame)[0]
    order = torch.tensor([0, 1, 5], dtype=torch.int32)
    total = torch.zeros(4, 40, 56)
    for index in order.tolist():
        top, left, bottom, right = grid.box(index)
        logits, _ = whole_by_hand(networks["accurate"], frame[:, top:bottom, left:right])
        total[:, top:bottom, left:right] += logits[0].softmax(0)
    by_hand = torch.where(total.sum(0) > 0, total.argmax(0), fast[0])[None]
    labels = stages[1](frame, order, fast)[0]
    assert_same_up_to_ties(labels, by_hand, stages[1].margins(frame, order, fast))
    assert torch.equal(labels[0][total.sum(0) == 0], fast[0][total.sum(0) == 0])


def test_three_stages_reduce_to_each_single_network_at_the_extremes(parts) -> None:
    spec, networks, stages, frame = parts(_three_stages)
    total, never = spec.make_grid().size, 3.0
    fast = stages[0](frame)[0]
    everything = torch.arange(total, dtype=torch.int32)

    labels, counts = run_by_rule(stages, frame, [never, -1.0])
    assert (counts, torch.equal(labels, fast)) == ([0, 0], True)  # middle skipped: the third has nothing to refine

    labels, counts = run_by_rule(stages, frame, [-1.0, never])
    assert counts == [total, 0]
    margins = stages[1].margins(frame, everything, fast)
    assert_same_up_to_ties(labels, blocks_by_hand(networks["middle"], frame, spec, 0), margins)

    labels, counts = run_by_rule(stages, frame, [-1.0, -1.0])
    assert counts == [total, total]
    margins = stages[2].margins(frame, everything, fast)
    assert_same_up_to_ties(labels, blocks_by_hand(networks["accurate"], frame, spec, 3), margins)


def test_rescored_blocks_have_their_new_entropy_and_all_others_minus_infinity(parts) -> None:
    spec, networks, (first, middle, last), frame = parts(_three_stages)
    assert (middle.output_names, last.output_names) == (("labels", "scores", "order"), ("labels",))
    grid, chosen = spec.make_grid(), [7, 2, 4]
    _, scores, order = middle(frame, torch.tensor(chosen, dtype=torch.int32), first(frame)[0])
    assert sorted(order.tolist()) == list(range(grid.size))
    assert set(order[:3].tolist()) == set(chosen)
    assert torch.isneginf(scores[3:]).all()
    for score, index in zip(scores[:3], order[:3].tolist(), strict=True):
        top, left, bottom, right = grid.box(index)
        logits, _ = whole_by_hand(networks["middle"], frame[:, top:bottom, left:right])
        assert score.item() == pytest.approx(entropy_bits(logits).mean().item(), abs=1e-5)


def test_binary_networks_may_return_one_channel(parts) -> None:
    def two_classes(data: dict[str, Any]) -> None:
        data["classes"] = {"names": ["off", "on"], "palette": [[0, 0, 0], [1, 1, 1]]}

    spec, _, _, frame = parts(two_classes)
    networks = {name: Network(seed, classes=1) for seed, name in enumerate(("fast", "accurate"))}
    stages = make_stages(spec, networks)
    labels, (n,) = run_by_rule(stages, frame, [-1.0])
    assert n == spec.make_grid().size
    assert set(labels.unique().tolist()) == {0, 1}
    logits = F.interpolate(networks["fast"](*stages[0].network_inputs(frame)), (40, 56), mode="bilinear")
    assert torch.equal(stages[0](frame)[0], (logits[:, 0] > 0).to(torch.uint8))


def test_the_same_picture_in_nv12_gives_nearly_the_same_cascade(parts) -> None:
    spec, networks, stages, frame = parts()
    nv12 = spec.model_copy(update={"frame": spec.frame.model_copy(update={"pixel_format": "nv12"})})
    planes = [torch.from_numpy(plane) for plane in planes_from_rgb(frame.numpy(), "nv12").values()]
    first, second = make_stages(nv12, networks)
    assert first.input_names == ("frame.y", "frame.uv")
    everything = torch.arange(spec.make_grid().size, dtype=torch.int32)
    flat = torch.full_like(frame, 120)  # where chroma loses nothing, only rounding is left
    flat_planes = [torch.from_numpy(plane) for plane in planes_from_rgb(flat.numpy(), "nv12").values()]
    assert torch.allclose(first.network_inputs(*flat_planes)[0], stages[0].network_inputs(flat)[0], atol=0.03)
    labels = second(*planes, everything, first(*planes)[0])[0]
    assert (labels == stages[1](frame, everything, stages[0](frame)[0])[0]).float().mean() > 0.8


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x.mean(dim=(2, 3)), r"stage 'fast': .*: returned \[1, 3\]; return logits \[N, K, h, w\]"),
        (lambda x: (x, x), r"returned tuple; return logits"),
        (lambda x: x, r"returned 3 channels where the spec names 4 classes; mend args or classes"),
        (lambda x: x[:, :1], r"returned 1 channels where the spec names 4 classes"),
    ],
)
def test_networks_that_return_something_else_are_refused(parts, output, message: str) -> None:
    spec, networks, _, frame = parts()

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output(x)

    first, _ = make_stages(spec, {**networks, "fast": Odd()})
    with pytest.raises(NetworkError, match=message):
        first(frame)


def test_one_tensor_is_not_enough_for_a_stage_of_several() -> None:
    answer = torch.zeros(1, 4, 8, 8)
    assert named_answer("stage 'a'", answer, ("features",)).keys() == {"features"}
    assert named_answer("stage 'a'", answer, ("labels",)).keys() == {"logits"}
    with pytest.raises(NetworkError, match=r'returned one tensor where 2 are needed; return {"logits": \.\.\., "featu'):
        named_answer("stage 'a'", answer, ("labels", "features"))
    with pytest.raises(NetworkError, match=r'return {"low": \.\.\., "high": \.\.\.}'):
        named_answer("stage 'a'", answer, ("low", "high"))
