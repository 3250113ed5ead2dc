"""Doubt is found where the reference has ties inside, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cascadert.calibration.comparison import TIE_LOGITS
from cascadert.calibration.doubt import Doubt, doubt_of
from cascadert.export.stages import Stage, make_stages
from cascadert.spec import parse_spec


class Unpooled(nn.Module):
    """The maximum of each 2 x 2 pixels at its place, 0 elsewhere, as the logit of class 0 against a fixed class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, image: Tensor) -> Tensor:
        brightness = image.mean(1, keepdim=True)
        placed = self.unpool(*self.pool(brightness))
        return torch.cat([placed, torch.full_like(placed, 0.5)], 1)


def stage_of(network: nn.Module) -> Stage:
    data = {
        "name": "ties",
        "classes": {"names": ["a", "b"], "palette": [[0, 0, 0], [255, 255, 255]]},
        "frame": {"height": 8, "width": 12},
        "grid": {"block": 4},
        "stages": [{"name": "fast", "model": "test", "preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]}}],
    }
    return make_stages(parse_spec(data, "test"), {"fast": network})[0]


def run(stage: Stage, frame: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    outputs = dict(zip(stage.output_names, (o.numpy() for o in stage(torch.from_numpy(frame))), strict=True))
    return {"frame": frame}, outputs


def doubt(stage: Stage, frame: np.ndarray) -> Doubt:
    return doubt_of(stage, *run(stage, frame), stage.margins(torch.from_numpy(frame)).numpy())


@torch.inference_mode()
def test_equal_pixels_in_a_pooling_window_are_in_doubt() -> None:
    frame = np.full((1, 8, 12, 3), 250, np.uint8)
    frame[:, :, 6:] = np.arange(8 * 6).reshape(1, 8, 6, 1) * 5  # right half: no two pixels of a window are equal
    stage = stage_of(Unpooled())
    found = doubt(stage, frame)
    in_doubt = found.margins <= TIE_LOGITS
    assert in_doubt[:, :, :6].mean() > 0.95  # one of four equal pixels is missed by 16 draws in (3/4)^16 = 1 %
    assert not in_doubt[:, :, 6:].any()
    assert found.spread["scores"].max() > 0


@torch.inference_mode()
def test_a_smooth_network_is_not_in_doubt() -> None:
    torch.manual_seed(0)
    stage = stage_of(nn.Conv2d(3, 2, 3, padding=1))
    frame = np.random.default_rng(0).integers(0, 256, (1, 8, 12, 3), np.uint8)
    found = doubt(stage, frame)
    assert (found.margins <= TIE_LOGITS).mean() < 0.01
    assert found.spread["scores"].max() == pytest.approx(0, abs=1e-4)


@torch.inference_mode()
def test_the_network_is_left_as_it_was() -> None:
    stage = stage_of(nn.Conv2d(3, 2, 3, padding=1))
    frame = np.random.default_rng(0).integers(0, 256, (1, 8, 12, 3), np.uint8)
    _, before = run(stage, frame)
    doubt(stage, frame)
    _, after = run(stage, frame)
    assert all(np.array_equal(before[name], after[name]) for name in before)
