"""Recipes of one network on a few synthetic frames: they learn, their files load, their measures are right."""

import json
from argparse import Namespace
from pathlib import Path

import accurate
import fast
import measure
import numpy as np
import pytest
import single
import street_data
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from cascadert.export.models import pspnet_small

COLOURS = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)


def coloured_frames(count: int, height: int = 48, width: int = 64) -> street_data.Data:
    """Frames whose class is written in their colour: a field, a band and a box."""
    rng = np.random.default_rng(3)
    labels = torch.zeros((count, height, width), dtype=torch.uint8)
    for one in labels:
        one[int(rng.integers(16, 32)) :] = 1
        top, left = int(rng.integers(0, 24)), int(rng.integers(0, 32))
        one[top : top + 24, left : left + 24] = 2
    return street_data.Data(COLOURS[labels.long()], labels)


def test_command_writes_weights_and_a_log_of_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = coloured_frames(3)
    for split in ("train", "val"):
        for kind, pixels in (("images", frames.images), ("labels", frames.labels)):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            for index, one in enumerate(pixels):
                Image.fromarray(one.numpy()).save(folder / f"{index}.png")
    recipe = street_data.Recipe(scale=1.0, crop=(32, 32), batch=2, block=16, halo=8)
    monkeypatch.setitem(street_data.RECIPES, ("camvid", "pspnet-small"), recipe)
    out = tmp_path / "out"
    data = ["--data", "camvid", "--root", str(tmp_path)]
    accurate.main([*data, "--threads", "1", "--steps", "2", "-o", str(out)])
    log = json.loads((out / "pspnet_small.json").read_text())
    assert log == json.loads(capsys.readouterr().out)
    assert log["command"].startswith("--data camvid") and log["seed"] == 0
    assert log["steps"] == 2 and log["val_frames"] == 3
    assert 0 <= log["val_blocks"]["miou"] <= 1 and len(log["val_whole_frame"]["iou"]) == 11
    pspnet_small(11).load_state_dict(load_file(out / "pspnet_small.safetensors"), strict=True)
    assert sorted(path.name for path in out.iterdir()) == ["pspnet_small.json", "pspnet_small.safetensors"]

    weights = str(out / "pspnet_small.safetensors")
    measure.main([*data, "--network", "pspnet-small", "--weights", weights, "--blocks"])
    assert json.loads(capsys.readouterr().out) == log["val_blocks"]


def test_a_run_out_of_time_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coloured_frames(2)
    monkeypatch.setattr(single, "load", lambda options, split: (data, ("a", "b", "c")))
    recipe = street_data.Recipe(scale=1.0, crop=(32, 32), batch=2)
    monkeypatch.setitem(street_data.RECIPES, ("camvid", "enet"), recipe)
    command = ["--data", "camvid", "--threads", "1", "--steps", "3", "-o", str(tmp_path)]
    fast.main([*command, "--minutes", "0"])
    assert "0 of 3 steps are done: the same command goes on" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["enet.checkpoint"]
    fast.main(command)
    assert json.loads((tmp_path / "enet.json").read_text())["steps"] == 3
    assert not (tmp_path / "enet.checkpoint").exists()


def test_blocks_of_another_size_are_trained_on_crops_as_large_as_they_are_seen() -> None:
    options = Namespace(data="camvid", block=60, halo=34)
    assert accurate.recipe_of(options).crop == (128, 128) and accurate.recipe_of(options).overhang == 34
    usual = accurate.recipe_of(Namespace(data="camvid", block=None, halo=None))
    assert usual == street_data.RECIPES["camvid", "pspnet-small"]


def test_camvid_needs_a_folder_with_images(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no images in .*images/train; point --root at"):
        street_data.load_camvid(tmp_path, "train")


def test_a_window_outside_the_frame_is_replicated_and_ignored() -> None:
    frame = torch.arange(12, dtype=torch.uint8).view(3, 4, 1).expand(3, 4, 3)
    labels = torch.ones((3, 4), dtype=torch.uint8)
    pixels, cut = street_data.window(frame, labels, (-1, 2), (3, 4))
    assert pixels[..., 0].tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]
    assert cut.tolist() == [[255] * 4, [1, 1, 255, 255], [1, 1, 255, 255]]


def test_class_weights_average_to_one_and_leave_absent_classes_out() -> None:
    labels = torch.cat((torch.full((8, 4, 60), 0), torch.full((8, 4, 30), 1), torch.full((8, 4, 10), 255)), 2)
    weights = street_data.class_weights(labels.to(torch.uint8), 3, balance=0.5)
    assert weights[2] == 0 and weights[1] > weights[0]
    assert float(weights[0] * 2 / 3 + weights[1] / 3) == pytest.approx(1.0)


def test_confusion_gives_known_intersections() -> None:
    confusion = torch.tensor([[3, 1, 0], [1, 5, 0], [0, 0, 0]])
    assert measure.intersection_over_union(confusion) == pytest.approx([3 / 5, 5 / 7, None])


@pytest.mark.parametrize(("block", "halo"), [(16, 0), (16, 8), (24, 4)])
def test_blocks_of_a_pixelwise_network_equal_the_whole_frame(block: int, halo: int) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 5, 1)
    frame = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8)
    device = torch.device("cpu")
    whole = measure.predict(network, frame, 1.0, device)
    recipe = street_data.Recipe(scale=1.0, crop=(16, 16), block=block, halo=halo)
    blocks = measure.predict_blocks(network, frame, recipe, device)
    assert torch.equal(whole, blocks.long())
