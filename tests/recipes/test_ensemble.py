"""Training an ensemble: what each weighting weighs, members that do not touch each other, and the command."""

import json
from pathlib import Path

import ensemble
import pytest
import torch
from ensemble import Frames, build_members, main, shrink, train_members, weighting_of
from ensemble_measure import answers, predictive_uncertainty
from instance_uncertainty import FIRST_REGION
from PIL import Image
from street_data import IGNORE, Data, Recipe
from torch import nn
from trainer import Schedule, TrainOptions

CPU = torch.device("cpu")
CLASSES = 11


class Flat(nn.Module):
    """Answers the same logits everywhere."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1, x.shape[2] // 4, x.shape[3] // 4)


@pytest.fixture
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "RECIPE", Recipe(scale=1.0, crop=(32, 32), batch=2))


def blocks(count: int = 3) -> Data:
    """Frames whose class is their brightness: class 1 is a quarter, and one row is void."""
    labels = torch.zeros((count, 40, 48), dtype=torch.uint8)
    labels[:, :20, :24], labels[:, -1] = 1, IGNORE
    return Data((labels[..., None] * 90).clamp_max(200).expand(-1, -1, -1, 3).contiguous(), labels)


def test_no_weights_are_one_and_inverse_weights_go_by_share() -> None:
    frames = Frames.of(blocks(1), CLASSES)
    numbers = frames.regions.numbers.long()
    assert weighting_of("none", frames, None, 1.0, CPU)(numbers, []).unique().tolist() == [1.0]
    weights = weighting_of("inverse", frames, None, 1.0, CPU)(numbers, [])
    labels = frames.data.labels
    ones, zeros = (int((labels == label).sum()) for label in (1, 0))
    assert weights[labels == 1].unique().item() / weights[labels == 0].unique().item() == pytest.approx(zeros / ones)
    assert weights[labels == IGNORE].sum() == 0.0


def test_approach_1_looks_up_what_the_first_ensemble_doubts() -> None:
    frames = Frames.of(blocks(1), CLASSES)
    # Two members that are sure of different classes: the mean is (1/2, 1/2), whose entropy is 1 bit.
    first = nn.ModuleList([Flat([50.0, 0.0]), Flat([0.0, 50.0])])
    numbers = frames.regions.numbers.long()
    known = numbers >= FIRST_REGION
    for power, expected in ((1.0, 2.0), (2.0, 4.0)):
        weights = weighting_of("approach-1", frames, first, power, CPU)(numbers, [])
        assert torch.allclose(weights[known], torch.tensor(expected))
        assert weights[~known].unique().tolist() == [1.0]


def test_approach_2_takes_it_from_the_members_logits_without_a_gradient() -> None:
    frames = Frames.of(blocks(1), CLASSES)
    numbers = frames.regions.numbers.long()
    logits = torch.zeros((1, 4, 40, 48), requires_grad=True)
    sure = torch.zeros((1, 4, 40, 48))
    sure[:, 0, :20, :24] = 50.0  # of class 0 in the quarter that is class 1
    weights = weighting_of("approach-2", frames, None, 1.0, CPU)(numbers, [logits + sure, logits + sure])
    labels = frames.data.labels
    assert torch.allclose(weights[labels == 0], torch.tensor(3.0))  # log2 of 4 classes
    assert torch.allclose(weights[labels == 1], torch.tensor(1.0), atol=1e-5)
    assert not weights.requires_grad


def test_uncertainty_is_of_the_mean_in_bits() -> None:
    each = [torch.tensor([50.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 50.0]).view(1, 2, 1, 1)]
    assert predictive_uncertainty(each).item() == pytest.approx(1.0)
    assert predictive_uncertainty(each[:1]).item() == pytest.approx(0.0, abs=1e-6)


def test_answers_are_of_each_member_and_last_of_their_mean() -> None:
    members = nn.ModuleList([Flat([2.0, 0.0, 0.0]), Flat([0.0, 3.0, 0.0])])
    found = answers(members, blocks(2).images, CPU)
    assert [one.labels.shape for one in found] == [(2, 40, 48)] * 3
    assert [set(one.labels.ravel().tolist()) for one in found] == [{0}, {1}, {1}]
    p = (torch.tensor([2.0, 0, 0]).softmax(0) + torch.tensor([0, 3.0, 0]).softmax(0)) / 2
    assert found[-1].uncertainty_bits[0, 0, 0] == pytest.approx(-(p * p.log2()).sum().item(), rel=1e-5)


@pytest.mark.usefixtures("small_crops")
def test_members_do_not_touch_each_other() -> None:
    frames = Frames.of(blocks(), 2)
    options = TrainOptions(Schedule(3, 1e-2, warm_up=1), seed=0, bfloat16=False)
    weighting = weighting_of("none", frames, None, 1.0, CPU)
    both = nn.ModuleList([Flat([0.0, 0.1]), Flat([0.7, 0.0])])
    alone = nn.ModuleList([Flat([0.0, 0.1])])
    train_members(both, frames, weighting, options)
    train_members(alone, frames, weighting, options)
    assert torch.equal(both[0].logits, alone[0].logits)
    assert not torch.equal(both[1].logits, torch.tensor([0.7, 0.0]).view(1, 2, 1, 1))


def test_a_seed_decides_about_weights() -> None:
    first, again, other = (build_members(3, seed) for seed in (0, 0, 1))
    same, differs = (
        [torch.equal(a, b) for a, b in zip(first.parameters(), members.parameters(), strict=True)]
        for members in (again, other)
    )
    assert all(same)
    assert not all(differs)


def test_frames_shrink_and_keep_their_labels() -> None:
    small = shrink(blocks(2), 0.5)
    assert small.images.shape == (2, 20, 24, 3)
    assert small.labels.dtype == torch.uint8
    assert torch.equal(small.labels[:, :19], blocks(2).labels[:, :38:2, ::2])


def write_frames(root: Path, data: Data) -> None:
    for split in ("train", "val"):
        for kind, pictures in (("images", data.images), ("labels", data.labels)):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for index, picture in enumerate(pictures):
                Image.fromarray(picture.numpy()).save(folder / f"{index}.png")


@pytest.mark.usefixtures("small_crops")
def test_the_command_trains_both_approaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(tmp_path, blocks(2))
    common = ["--data", "camvid", "--root", str(tmp_path), "--steps", "2", "--threads", "1", "--scale", "1"]
    main([*common, "-o", str(tmp_path / "none")])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="no --first"):
        main([*common, "--weighting", "approach-1", "-o", str(tmp_path / "one")])
    main([*common, "--weighting", "approach-1", "--first", str(tmp_path / "none"), "-o", str(tmp_path / "one")])
    log = json.loads((tmp_path / "one" / "ensemble.json").read_text())
    assert log == json.loads(capsys.readouterr().out)
    assert log["weighting"] == "approach-1"
    assert log["steps"] == 2
    networks = [*ensemble.BACKBONES, "ensemble"]
    assert list(log["val"]) == list(log["train_uncertainty_bits"]) == networks
    assert all(0 <= log["val"][name]["pavpu"] <= 1 for name in networks)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "ensemble.json",
        *(f"{name}.safetensors" for name in ensemble.BACKBONES),
    }
