"""The two-stage recipe: its loss, what trains and what stays, and the command on a few synthetic frames."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import two_stage
from files import load_weights
from PIL import Image
from safetensors.torch import load_file
from street_data import Data
from trainer import Schedule, TrainOptions
from two_stage import Form, Second

CAR = 8
FORM = Form(size=(64, 64), ratio=2, width=0.125)
TINY = ["--size", "64", "64", "--ratio", "2", "--width", "0.125", "--steps", "2", "--threads", "1"]


def frames_with_cars(count: int) -> Data:
    """Blue boxes, the cars, on a grey field; a strip below is unknown."""
    rng = np.random.default_rng(3)
    labels = torch.full((count, 48, 64), 3, dtype=torch.uint8)
    for one in labels:
        top, left = int(rng.integers(0, 24)), int(rng.integers(0, 40))
        one[top : top + 20, left : left + 24] = CAR
        one[46:] = 255
    images = torch.where((labels == CAR)[..., None], torch.tensor([30, 40, 200]), torch.tensor([120, 120, 120]))
    return Data(images.to(torch.uint8), labels)


def prepared(count: int = 3) -> Data:
    return two_stage.prepare(frames_with_cars(count), CAR, FORM.size)


def run_of(steps: int, learning_rate: float = 3e-3) -> TrainOptions:
    return TrainOptions(Schedule(steps, learning_rate), bfloat16=False)


def test_focal_loss_is_the_equation_over_known_pixels() -> None:
    logits = torch.tensor([[[[0.0, 0.0], [math.log(3), 50.0]]]])
    truth = torch.tensor([[[1, 0], [1, 255]]])
    # -alpha_t (1 - p_t)^2 ln p_t with p = 1/2, 1/2 and 3/4
    wanted = [0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2), 0.25 * 0.0625 * math.log(4 / 3)]
    assert float(two_stage.focal_loss(logits, truth)) == pytest.approx(sum(wanted) / 3, rel=1e-5)


def test_labels_are_the_class_the_rest_and_the_unknown() -> None:
    frames = frames_with_cars(1)
    data = two_stage.prepare(frames, CAR, (96, 128))
    assert data.images.shape == (1, 96, 128, 3) and data.images.dtype == torch.uint8
    assert data.labels.unique().tolist() == [0, 1, 255]
    assert torch.equal(data.labels[:, ::2, ::2] == 1, frames.labels == CAR)


def test_an_augmented_batch_keeps_labels_on_their_pixels() -> None:
    images, labels = two_stage.draw(prepared(), FORM, np.random.default_rng(1))
    assert images.shape == (8, 3, 64, 64) and labels.shape == (8, 64, 64)
    assert images.min() >= 0 and images.max() <= 1
    known = labels != 255
    blue = images[:, 2] - images[:, 0] > 0.3
    assert ((blue == (labels == 1)) | ~known).float().mean() > 0.97  # borders are smoothed


@pytest.mark.parametrize("fine_tune", [True, False])
def test_the_second_network_starts_from_the_first_and_leaves_it_as_it_was(fine_tune: bool) -> None:
    torch.manual_seed(0)
    first, second = FORM.first(), FORM.second()
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    fresh = second.final.weight.detach().clone()
    how = Second(fine_tune=fine_tune)
    two_stage.train_second(second, first, FORM, prepared(), how, run_of(1, learning_rate=0.0))
    start = first.final.weight if fine_tune else fresh
    assert torch.equal(second.final.weight, start)
    two_stage.train_second(second, first, FORM, prepared(), how, run_of(2))
    assert not torch.equal(second.final.weight, start)
    assert not first.training
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # batch statistics, too


def test_both_networks_learn() -> None:
    torch.manual_seed(0)
    first, second, data = FORM.first(), FORM.second(), prepared(6)
    losses = two_stage.train_first(first, FORM, data, run_of(20)).losses
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    losses = two_stage.train_second(second, first, FORM, data, Second("random", fine_tune=False), run_of(20)).losses
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"--size 64 72 --ratio 4: .* use multiples of ratio"):
        Form(size=(64, 72), ratio=4)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    frames = frames_with_cars(3)
    for split in ("train", "val"):
        for kind, pixels in (("images", frames.images), ("labels", frames.labels)):
            folder = tmp_path / "camvid" / kind / split
            folder.mkdir(parents=True)
            for index, one in enumerate(pixels):
                Image.fromarray(one.numpy()).save(folder / f"{index}.png")
    return tmp_path / "camvid"


def test_the_command_writes_both_networks_and_a_curve(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["--root", str(camvid), *TINY, "--no-context", "--sampling", "highest", "-o", str(out)]
    two_stage.main(command)
    log = json.loads((out / "two_stage.json").read_text())
    assert log == json.loads(capsys.readouterr().out)
    assert log["second"] == {"sampling": "highest", "context": False, "fine_tune": True}
    assert [row["threshold"] for row in log["val"]] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert log["val"][0]["patches"] == 0 and log["val"][-1]["patches"] == 4
    assert sorted(path.name for path in out.iterdir()) == ["first.safetensors", "second.safetensors", "two_stage.json"]
    load_weights(FORM.first(), out / "second.safetensors")  # one architecture: either loads into the other

    again = tmp_path / "again"
    two_stage.main([*command[:-1], str(again), "--first", str(out / "first.safetensors")])
    for name in ("first", "second"):
        assert (again / f"{name}.safetensors").read_bytes() == (out / f"{name}.safetensors").read_bytes()


def test_a_run_out_of_time_goes_on_where_it_was(camvid: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ["--root", str(camvid), *TINY, "-o"]
    two_stage.main([*command, str(whole)])
    first = ["--first", str(whole / "first.safetensors")]
    two_stage.main([*command, str(parts), *first, "--minutes", "0"])
    assert sorted(path.name for path in parts.iterdir()) == ["first.safetensors", "second.checkpoint"]
    with pytest.raises(SystemExit, match="remove the file to start anew"):
        two_stage.main([*command, str(parts)])  # of another command
    two_stage.main([*command, str(parts), *first])
    found, wanted = (load_file(folder / "second.safetensors") for folder in (parts, whole))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)
