"""Uniform against searched heads (X12), and heads on a frozen backbone (X12, X13)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import exits_search, x13_distillation
from experiments.exits_heads import HeadRecords, Trained, mean_iou, record, train_or_find
from experiments.exits_search import OPTIONS, candidate_heads, compare, costs
from street_data import Data, Recipe
from trainer import Schedule

from cascadert.export.models.multi_exit import multi_exit

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def trained() -> Trained:
    torch.manual_seed(0)
    network = multi_exit(3, [{"point": 1}, {"point": 2}], backbone="resnet18", width=0.125)
    return Trained(network.eval().requires_grad_(False), Recipe(0.5, (16, 24), batch=2), NAMES)


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (4, 32, 48, 3), np.uint8))
    return Data(images, (images[..., 0] // 86).to(torch.uint8))


def test_heads_are_the_options_at_every_early_exit(trained: Trained) -> None:
    heads = candidate_heads(trained, 0)
    candidates, exit_costs = costs(trained, list(heads), (32, 48))
    assert [one.point for one in candidates] == [*(1, 2) * len(OPTIONS), 3][: len(candidates)]
    assert [one.name for one in candidates[:2]] == ["exit 1, fcn", "exit 2, fcn"]
    by_name = {one.name: one.head_ms for one in candidates}
    assert by_name["exit 1, fcn, 1 block"] > by_name["exit 1, fcn"] > 0
    assert len(exit_costs.segment_ms) == 3


def test_records_are_those_of_the_network_itself(trained: Trained, data: Data) -> None:
    found = record(trained, list(trained.network.exits[:-1]), data)
    assert found.confusion.shape == (3, 4, 3, 3)
    assert (found.confusion.sum((2, 3)) == 32 * 48).all()
    assert found.miou() == pytest.approx(mean_iou(found.confusion.sum(1)))
    assert all(0 <= right + same <= 1 for right, same in zip(found.right, found.same, strict=True))
    final = record(trained, [], data)
    assert np.array_equal(final.confusion[-1], found.confusion[-1])


def test_heads_are_found_again_and_the_backbone_stays(
    trained: Trained, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    found = []
    for _ in range(2):
        heads = x13_distillation.head_sets(trained, 0)
        train_or_find(heads, tmp_path / "heads.safetensors", trained, push, data, Schedule(2, warm_up=1), 0)
        found.append(heads.state_dict())
        monkeypatch.delattr("exit_stages.train_heads", raising=False)  # the second time, nothing is trained
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.network.state_dict().items())


def push(index: int, logits: torch.Tensor, final: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    assert logits.shape[2:] == final.shape[2:] == labels.shape[1:]
    return (index + 1) * logits.square().mean()


def test_head_sets_start_alike(trained: Trained) -> None:
    heads = x13_distillation.head_sets(trained, 1)
    assert len(heads) == 3 * trained.early
    for index in range(trained.early):
        one, *others = (heads[place * trained.early + index].state_dict() for place in range(3))
        assert all(torch.equal(one[name], other[name]) for other in others for name in one)


def records(trained: Trained, heads: Any, good: str) -> tuple[Any, Any, HeadRecords]:
    """Heads whose name ends with `good` label 90 of 100 pixels right, the final exit 95, the others 50."""
    candidates, exit_costs = costs(trained, heads, (32, 48))
    right = [95 if one.name == "final" else 90 if one.name.endswith(good) else 50 for one in candidates]
    confusion = np.zeros((len(candidates), 16, 3, 3), np.int64)
    for index, share in enumerate(right):
        confusion[index, :] = np.eye(3, dtype=np.int64) * share + np.roll(np.eye(3, dtype=np.int64), 1, 1) * (
            100 - share
        )
    confidence = np.tile(np.linspace(0.5, 0.9, 16, dtype=np.float32), (len(candidates), 1))
    none = (0.0,) * len(heads)
    return candidates, exit_costs, HeadRecords(confusion, confidence, none, none)


def test_better_heads_are_found(trained: Trained) -> None:
    heads = list(candidate_heads(trained, 0))
    found = compare(*records(trained, heads, "1 block"))
    assert len(found.uniform) == len(exits_search.SPEED_UPS)
    assert min(np.subtract(found.searched, found.uniform)) > 0
    assert found.cost_ratio > 1
    assert any("1 block" in name for plan in found.chosen for name in plan)


def test_uniform_heads_are_no_worse_where_nothing_is_better(trained: Trained) -> None:
    heads = list(candidate_heads(trained, 0))
    found = compare(*records(trained, heads, "fcn"))
    assert found.searched == found.uniform
    assert found.cost_ratio == pytest.approx(1)


def seed_numbers(gain: float) -> dict[str, Any]:
    def one(value: float) -> dict[str, list[float]]:
        return {"miou_by_exit": [value, value], "right_where_final_is_wrong": [value, value]}

    return {"ce": one(0.3), "kd": one(0.3), "pfd": one(0.3 + gain)}


@pytest.mark.parametrize(
    ("gains", "verdict"), [((0.01, 0.02, 0.015), "holds"), ((0.01, -0.01, 0.002), "not significant"),
                           ((-0.01, -0.02, -0.015), "does not hold")],
)  # fmt: skip
def test_distillation_is_judged_over_seeds(gains: tuple[float, ...], verdict: str) -> None:
    found = x13_distillation.findings([seed_numbers(gain) for gain in gains])
    assert [one.verdict for one in found] == [verdict] * 3
