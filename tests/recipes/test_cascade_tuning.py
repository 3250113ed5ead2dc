"""Fine-tuning for blocks of one size: equal pixels for all, and trained once."""

from pathlib import Path

import pytest
import torch
from experiments import cascade_tuning
from experiments.cascade_tuning import PIXELS, Crop, fine_tuned
from files import save_weights
from safetensors.torch import load_file
from street_data import Data

from cascadert.export.models import pspnet_small


@pytest.mark.parametrize("size", [(60, 60), (120, 120), (180, 240), (360, 480)])
@pytest.mark.parametrize("halo", [0, 34])
def test_every_size_sees_as_many_pixels(size: tuple[int, int], halo: int) -> None:
    crop = Crop(size, halo)
    assert crop.patch == (size[0] + 2 * halo, size[1] + 2 * halo)
    assert crop.steps * crop.batch * crop.pixels == pytest.approx(PIXELS, rel=0.05)
    assert crop.batch >= 2


def test_fine_tuning_moves_the_weights_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_tuning, "PIXELS", 2 * 4 * 24 * 24)
    monkeypatch.setattr(cascade_tuning, "_BATCH_PIXELS", 4 * 24 * 24)
    labels = torch.zeros((2, 48, 64), dtype=torch.uint8)
    labels[:, 24:] = 1
    data = Data(torch.stack([labels * 200] * 3, -1), labels)
    torch.manual_seed(0)
    start = tmp_path / "start.safetensors"
    save_weights(pspnet_small(11), start)
    crop = Crop((16, 16), 4)
    assert (crop.batch, crop.steps) == (4, 2)
    made = fine_tuned(data, 11, start, crop, 0, tmp_path, "cpu")
    before, after = load_file(start), load_file(made)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    written = made.stat().st_mtime_ns
    assert fine_tuned(data, 11, start, crop, 0, tmp_path, "cpu") == made and made.stat().st_mtime_ns == written
    other = fine_tuned(data, 11, start, crop, 1, tmp_path, "cpu")
    assert other != made and any(not torch.equal(after[n], t) for n, t in load_file(other).items())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 3
