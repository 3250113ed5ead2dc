"""Two columns: what is trained is what is exported, the loss is the paper's, and a run goes on where it stopped."""

import math
from pathlib import Path

import pytest
import torch
import two_column
from files import load_weights, save_weights
from safetensors.torch import load_file
from sparsity import SparsityLoss
from street_data import IGNORE, Data
from torch.nn import functional
from trainer import Schedule, TrainOptions
from two_column import Columns, Objective, Sparsity, start_from, train_columns
from two_column_inference import FastInference, Seen, segment, top_regions

from tests.export.models.two_column_chain import chained, tiny

FRAME = (2, 3, 64, 128)
REGIONS = 8  # 2x4 of 32 pixels


def image() -> torch.Tensor:
    return torch.randn(FRAME, generator=torch.Generator().manual_seed(4))


def coloured_frames(count: int) -> Data:
    """Frames whose class is written in their colour: a field and a box."""
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)
    labels = torch.zeros((count, 64, 128), dtype=torch.uint8)
    for index, one in enumerate(labels):
        one[32 + index :], one[8:24, 10 * index : 10 * index + 20] = 1, 2
    return Data(colours[labels.long()], labels)


@pytest.mark.parametrize("in_column", ["frame", "crops"])
@pytest.mark.parametrize("k", [1, 3, REGIONS])
def test_what_is_trained_is_what_runs(k: int, in_column: str) -> None:
    network = tiny(in_column=in_column)
    with torch.no_grad():
        seen = segment(network, image(), lambda score: top_regions(score, k))
        chosen = seen.mask.flatten().nonzero().squeeze(1).tolist()
        assert len(chosen) == 2 * k
        torch.testing.assert_close(seen.fused, chained(network, image(), chosen), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(seen.fused, network(image(), seen.mask), rtol=1e-5, atol=1e-5)
        assert torch.equal(FastInference(network, k)(image()), seen.fused)


def test_each_column_has_scores_of_its_own() -> None:
    network = tiny()
    with torch.no_grad():
        seen = segment(network, image(), lambda score: torch.ones_like(score))
        halved = functional.interpolate(image(), scale_factor=0.5, mode="bilinear")
        half = network.half_column(halved)
        torch.testing.assert_close(seen.half, network.half_column.column(halved).logits)
        coarse, weight = (
            functional.interpolate(half[n], scale_factor=2, mode="bilinear") for n in ("logits", "weight")
        )
        torch.testing.assert_close(seen.fused, coarse + weight * seen.full, rtol=1e-4, atol=1e-4)


def test_whole_frames_give_regions_what_lies_beyond_their_borders() -> None:
    network = tiny()
    with torch.no_grad():
        alone, whole = (segment(network, image(), torch.ones_like, crop=crop).fused for crop in (True, False))
        assert (alone - whole).abs().max() > 1e-2
        few = segment(network, image(), lambda score: top_regions(score, 2), crop=False)
    outside = functional.interpolate(few.mask, size=few.fused.shape[-2:]) == 0
    assert torch.equal(few.fused == whole, outside.logical_not().expand_as(whole))  # its mask is that of the fusion


def test_masks() -> None:
    score = torch.tensor([[3.0, 2.0, -1.0, -2.0], [-3.0, -1.0, -2.0, -4.0]]).reshape(2, 1, 2, 2)
    assert Sparsity(share=0.5).choose(score).flatten(1).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert Sparsity(mask="threshold").choose(score).flatten(1).tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
    assert top_regions(score, 0).sum() == 0


@torch.no_grad()
def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    known = labels != IGNORE
    enlarged = functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    picked = enlarged.log_softmax(1).permute(0, 2, 3, 1)[known].gather(1, labels[known][:, None])[:, 0]
    weight = weights[labels[known]]
    return float(-(weight * picked).sum() / weight.sum())


@pytest.mark.parametrize("crop", [True, False])
def test_loss_is_of_the_result_of_each_column_and_of_the_share_of_regions(crop: bool) -> None:
    network, weights = tiny(), torch.linspace(0.5, 1.5, 11)
    labels = torch.randint(0, 11, (2, 64, 128), generator=torch.Generator().manual_seed(5))
    labels[:, :9] = IGNORE
    with torch.no_grad():
        found = Objective(network, weights, Sparsity(weight=0.1, crop=crop)).eval()(image(), labels)
        seen = segment(network, image(), lambda score: top_regions(score, 2), crop=crop)
    computed = seen.mask.repeat_interleave(32, 2).repeat_interleave(32, 3)[:, 0] > 0
    of_full = labels.where(computed, IGNORE) if crop else labels
    pairs = ((seen.fused, labels), (seen.half, labels), (seen.full, of_full))
    wanted = sum(mean_cross_entropy(logits, truth, weights) for logits, truth in pairs)
    wanted += 0.1 * SparsityLoss(0.25).eval()(seen.score).item()
    assert found.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("crop", [True, False])
def test_columns_alone_are_not_fused(crop: bool) -> None:
    network, weights = tiny().requires_grad_(), torch.linspace(0.5, 1.5, 11)
    labels = torch.randint(0, 11, (2, 64, 128), generator=torch.Generator().manual_seed(5))
    found = Columns(network, weights, crop).eval()(image(), labels)
    seen = segment(network, image(), torch.ones_like, crop=crop)
    assert found.item() == pytest.approx(sum(mean_cross_entropy(x, labels, weights) for x in (seen.half, seen.full)))
    found.backward()
    untouched = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert untouched == {
        f"half_column.{part}.{kind}" for part in ("attention", "sparse") for kind in ("weight", "bias")
    }


def test_a_network_starts_from_columns_without_connections_as_they_were(tmp_path: Path) -> None:
    columns, network = tiny(cross_column=False), tiny()
    save_weights(columns, tmp_path / "columns.safetensors")
    load_weights(columns, tmp_path / "columns.safetensors")
    start_from(network, tmp_path / "columns.safetensors")
    with torch.no_grad():
        found, wanted = (segment(each, image(), torch.ones_like) for each in (network, columns))
    torch.testing.assert_close(found.full, wanted.full)
    torch.testing.assert_close(found.half, wanted.half)
    assert network.half_column.sparse.bias.item() == 1
    save_weights(network, tmp_path / "crossed.safetensors")
    with pytest.raises(SystemExit, match="give weights of a network of the same columns"):
        start_from(columns, tmp_path / "crossed.safetensors")
    with pytest.raises(SystemExit, match="size mismatch"):
        start_from(tiny(width=16), tmp_path / "columns.safetensors")


def test_a_batch_of_nothing_known_is_no_loss() -> None:
    objective = Objective(tiny(), torch.ones(11), Sparsity(weight=0.0))
    with torch.no_grad():
        assert objective.eval()(image(), torch.full((2, 64, 128), IGNORE)).item() == 0


@pytest.mark.parametrize(("weight", "everywhere"), [(0.0, False), (0.1, True)])
def test_only_the_sparsity_loss_reaches_scores_far_from_chosen_regions(
    weight: float, everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = []

    def kept(*arguments: object, **options: object) -> Seen:
        seen = segment(*arguments, **options)
        seen.score.retain_grad()
        scores.append(seen)
        return seen

    monkeypatch.setattr(two_column, "segment", kept)
    objective = Objective(tiny().requires_grad_(), torch.ones(11), Sparsity(weight=weight))
    objective(image(), torch.zeros((2, 64, 128), dtype=torch.int64)).backward()
    moved = scores[0].score.grad != 0
    near = functional.max_pool2d(scores[0].mask, 3, 1, 1) > 0  # weights are enlarged bilinearly, across borders
    assert not near.all()
    assert torch.equal(moved, torch.ones_like(moved) if everywhere else near)


def test_it_learns_and_a_run_that_was_stopped_ends_alike(tmp_path: Path) -> None:
    data = coloured_frames(3)

    def train(folder: str, minutes: list[float | None], steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
        network = tiny().requires_grad_()
        for limit in minutes:
            options = TrainOptions(Schedule(steps, 1e-2, warm_up=2), 1, "cpu", limit, tmp_path / folder / "checkpoint")
            trained = train_columns(network, data, (64, 128), Sparsity(), options, 11)
        return network.state_dict(), list(trained.losses)

    whole, losses = train("whole", [None], 12)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    again, _ = train("again", [0.0, None], 12)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_checkpoint_keeps_the_average_of_the_sparsity_loss(tmp_path: Path) -> None:
    options = TrainOptions(Schedule(2), minutes=0.0, checkpoint=tmp_path / "checkpoint")
    train_columns(tiny().requires_grad_(), coloured_frames(2), (64, 128), Sparsity(share=0.3), options, 11)
    assert math.isclose(load_file(tmp_path / "checkpoint")["module.sparsity.average"].item(), 0.3, rel_tol=1e-6)
