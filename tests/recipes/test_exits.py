"""Training a network with exits on a few synthetic frames: every exit learns, and the file fits the specification."""

import json
from pathlib import Path

import exits
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from street_data import Data, Recipe

from cascadert.export.models.multi_exit import multi_exit

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


def coloured_frames(count: int) -> Data:
    """Frames whose class is written in their colour: a field and a band."""
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)
    labels = torch.zeros((count, 48, 64), dtype=torch.uint8)
    for index, one in enumerate(labels):
        one[16 + index % 16 :], one[:8, : 8 + index] = 1, 2
    return Data(colours[labels.long()], labels)


def test_an_exit_counts_in_its_turn_and_the_last_one_always() -> None:
    losses = [torch.tensor(value) for value in (1.0, 10.0, 100.0, 1000.0)]
    sums = [float(exits.round_robin(losses, batch)) for batch in range(7)]
    assert sums == [1111, 1001, 1011, 1101, 1011, 1001, 1111]


def test_every_exit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.WARM_UP_STEPS", 5)
    torch.manual_seed(0)
    network = multi_exit(3, [{"point": 2}], backbone="resnet18", width=0.125)
    recipe = Recipe(scale=1.0, crop=(32, 32), batch=4, learning_rate=1e-2)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    losses = exits.fit(network, coloured_frames(8), recipe, 3, minutes=5, steps=30)
    assert len(losses) == 30
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    for name, tensor in network.named_parameters():
        assert not torch.equal(tensor, before[name]), name


def test_the_command_writes_weights_that_fit_and_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = coloured_frames(3)
    for split in ("train", "val"):
        for kind, pixels in (("images", frames.images), ("labels", frames.labels)):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            for index, picture in enumerate(pixels):
                Image.fromarray(picture.numpy()).save(folder / f"{index}.png")
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    arguments = [str(spec), "--root", str(tmp_path), "--steps", "3", "--threads", "1", "-o", str(tmp_path / "out")]
    exits.main(arguments)
    log = json.loads((tmp_path / "out" / "multi_exit.json").read_text())
    assert log == json.loads(capsys.readouterr().out)
    assert log["steps"] == 3
    assert len(log["val_miou_by_exit"]) == len(log["macs_per_crop"]) == 2
    network = multi_exit(3, [{"point": 2}], backbone="resnet18", width=0.125)
    network.load_state_dict(load_file(tmp_path / "out" / "multi_exit.safetensors"), strict=True)
