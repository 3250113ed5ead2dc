"""Training a network with exits on a few synthetic frames, in two stages: what learns, what is frozen, what is left."""

import json
from pathlib import Path
from typing import Any

import exit_stages
import exits
import pytest
import torch
from distillation import LossKind
from PIL import Image
from safetensors.torch import load_file
from street_data import Data, Recipe
from torch import Tensor
from trainer import Schedule, TrainOptions

from cascadert.export.models.multi_exit import MultiExit, multi_exit
from cascadert.spec import load_spec

SPEC = """
name = "coloured"
classes = { names = ["a", "b", "c"], palette = [[200, 40, 40], [40, 200, 40], [40, 40, 200]] }
frame = { height = 48, width = 64 }

[[networks]]
name = "mess"
model = "multi-exit"
args = { classes = 3, backbone = "resnet18", width = 0.125, exits = [{ point = 2 }] }

[[stages]]
name = "segment1"
network = "mess"
part = "segments.0"
emit = ["features"]

[[stages]]
name = "exit1"
network = "mess"
part = "exits.0"
input = "carried"
reads = ["segment1.features"]
"""
RECIPE = Recipe(scale=1.0, crop=(32, 32), batch=4)


def coloured_frames(count: int) -> Data:
    """Frames whose class is written in their colour: a field and a band."""
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)
    labels = torch.zeros((count, 48, 64), dtype=torch.uint8)
    for index, one in enumerate(labels):
        one[16 + index % 16 :], one[:8, : 8 + index] = 1, 2
    return Data(colours[labels.long()], labels)


def small_network() -> MultiExit:
    torch.manual_seed(0)
    return multi_exit(3, [{"point": 2}], backbone="resnet18", width=0.125)


def state(network: MultiExit) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Three frames for each split, laid out as CamVid, and a specification beside them."""
    frames = coloured_frames(3)
    for split in ("train", "val"):
        for kind, pixels in (("images", frames.images), ("labels", frames.labels)):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            for index, picture in enumerate(pixels):
                Image.fromarray(picture.numpy()).save(folder / f"{index}.png")
    (tmp_path / "spec.toml").write_text(SPEC)
    return tmp_path


def run(camvid: Path, name: str, stage: int, *more: object) -> dict[str, Any]:
    arguments = ["--data", "camvid", "--root", camvid, "--spec", camvid / "spec.toml", "--stage", stage, "--steps", 2,
                 "--threads", 1, "-o", camvid / name, *more]  # fmt: skip
    exits.main([str(one) for one in arguments])
    log: dict[str, Any] = json.loads((camvid / name / "multi_exit.json").read_text())
    return log


def test_every_part_learns_in_stage_1() -> None:
    network, options = small_network(), TrainOptions(Schedule(16, 1e-2, warm_up=3))
    before = state(network)
    trained = exit_stages.train_together(network, coloured_frames(8), RECIPE, 3, options)
    assert len(trained.losses) == 16
    assert sum(trained.losses[-4:]) < 0.9 * sum(trained.losses[:4])
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("kind", ["ce", "kd", "pfd"])
def test_only_heads_learn_in_stage_2(kind: LossKind) -> None:
    network, options = small_network(), TrainOptions(Schedule(5, 1e-2, warm_up=1))
    before = state(network)
    trained = exit_stages.train_distilled(network, kind, coloured_frames(8), RECIPE, 3, options)
    assert trained.losses[-1] < trained.losses[0]
    for name, tensor in network.state_dict().items():  # batch-norm statistics are part of it
        early = name.startswith("exits.0.")
        assert torch.equal(tensor, before[name]) != early, name


def test_losses_are_taken_at_every_second_pixel() -> None:
    labels = torch.arange(24).view(1, 4, 6)
    assert exit_stages.coarse(labels).tolist() == [[[7, 9, 11], [19, 21, 23]]]


def test_crops_fit_what_the_network_sees() -> None:
    seen = {
        name: exit_stages.recipe_of(load_spec(exits.EXAMPLES / name / "multi-exit.toml"))
        for name in ("camvid", "scenes")
    }
    assert {name: (recipe.scale, recipe.crop) for name, recipe in seen.items()} == {
        "camvid": (0.5, (180, 240)),
        "scenes": (0.5, (192, 256)),
    }


def test_two_commands_write_weights_that_fit_and_what_they_measured(
    camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(camvid, "one", 1)
    assert first == json.loads(capsys.readouterr().out)
    assert (first["stage"], first["steps"]) == (1, 2)
    assert len(first["val_miou_by_exit"]) == len(first["macs_per_crop"]) == 2
    weights = camvid / "one" / "multi_exit.safetensors"
    second = run(camvid, "two", 2, "--loss", "pfd", "--init", weights)
    assert second["before"]["val_miou_by_exit"] == first["val_miou_by_exit"]
    assert second["val_miou_by_exit"][-1] == first["val_miou_by_exit"][-1]
    old, new = load_file(weights), load_file(camvid / "two" / "multi_exit.safetensors")
    small_network().load_state_dict(new, strict=True)
    frozen = [name for name in old if not name.startswith("exits.0.")]
    assert all(torch.equal(old[name], new[name]) for name in frozen)
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_stage_2_needs_weights(camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(camvid, "none", 2)
    assert "--stage 2 trains heads on a trained backbone: give --init" in capsys.readouterr().err


def test_a_network_without_exits_is_refused(camvid: Path) -> None:
    spec = camvid / "spec.toml"
    enet = SPEC.replace('"multi-exit"', '"enet"').replace(', backbone = "resnet18", width = 0.125, exits', ", x")
    spec.write_text(enet.replace(", x = [{ point = 2 }]", ""))
    with pytest.raises(SystemExit, match="coloured: its network has no exits"):
        run(camvid, "none", 1)
