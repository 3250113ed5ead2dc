"""X6 and X7: how they judge, on numbers made up for it, and that what was trained once is found again."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from experiments import two_stage_runs, x06_two_stage, x07_patch_sampling
from experiments.experiment import Context
from experiments.two_stage_runs import THRESHOLDS, Curve, Runs, at
from PIL import Image
from two_stage import Second


def falling(top: float, loss: float, patches: float = 4.0) -> Curve:
    """Dice `top` with all patches, `loss` less with none, and half of that at every threshold between."""
    ends = {1.0: (top - loss, 0.0), 0.0: (top, 16.0)}
    rows = {threshold: ends.get(threshold, (top - loss / 2, patches)) for threshold in THRESHOLDS}
    return [{"threshold": t, "dice": dice, "iou": dice / 2, "patches": n} for t, (dice, n) in rows.items()]


def measured(full: Sequence[Curve], no_context: Sequence[Curve]) -> x06_two_stage.Measured:
    ablations = {"full": full, "no fine-tune": [falling(0.7, 0.0)] * 3, "no context": no_context}
    ratios = {2: [falling(0.9, 0.1, patches=1)], 4: full[:1], 8: [falling(0.6, 0.1, patches=9)]}
    return x06_two_stage.Measured(ablations, ratios, [{"dice": 0.9, "iou": 0.8}])


def test_x6_judges_by_its_rules() -> None:
    full = [falling(top, 0.1, patches=3.0) for top in (0.84, 0.85, 0.86)]
    noisy = [falling(top, 0.1) for top in (0.80, 0.90, 0.84)]
    macs = {4: {"first": 10.0, "patch": 10.0, "single": 200.0}}
    findings = x06_two_stage.judge(measured(full, noisy), macs)
    sweep, tune, context, cost, single, grids = findings
    assert [one.verdict for one in (sweep, tune, single, grids)] == ["holds"] * 4
    assert context.verdict == "not significant"
    assert sweep.found == "Dice 75.0, 80.0, 85.0; from 1 to 0 +10.0, +10.0, +10.0 points by seed"
    assert tune.found == "Dice 80.0 against 70.0; +9.0, +10.0, +11.0 points by seed"
    assert cost.found == "25.0 % in passes, (1 + 3.0) / 16; 20.0 % in multiply-adds" and cost.verdict == "holds"
    assert "4 patches: Dice 85.0 at 50 % of the cost" in grids.found
    assert single.found.startswith("Dice 80.0 (79.0, 80.0, 81.0 by seed) against 90.0")
    dear = [falling(0.85, 0.1, patches=4.0)] * 3  # (1 + 4) / 16 is above 0.3
    assert x06_two_stage.judge(measured(dear, noisy), macs)[3].verdict == "does not hold"


def test_x6_counts_what_a_pass_costs() -> None:
    macs = x06_two_stage.macs_of(4)
    assert macs["first"] == macs["patch"]
    assert macs["share"] == pytest.approx(1 / 16, rel=0.05)  # exact where each halving is: 320 / 4 / 32 is not whole
    assert x06_two_stage.cost_of(falling(0.8, 0.1, patches=3), 0.25, 4) == 0.25


@pytest.mark.parametrize(
    ("other", "verdict"),
    [((80.5, 79.5, 80.9), "holds"), ((83.0, 83.1, 82.9), "does not hold"), ((78.0, 84.0, 83.0), "not significant")],
)
def test_x7_judges_samplings_within_a_point(other: tuple[float, ...], verdict: str) -> None:
    dice = {"random": other, "weighted": (80.0, 80.1, 79.9), "highest": (80.2, 80.1, 80.0)}
    assert x07_patch_sampling.alike(dice) == verdict


def test_x7_asks_whether_uncertainty_guides() -> None:
    better = {"random": (70.0, 71.0), "weighted": (75.0, 76.1), "highest": (75.0, 76.0)}
    assert x07_patch_sampling.judge(better)[1].verdict == "holds"
    assert x07_patch_sampling.judge({**better, "random": (80.0, 81.0)})[1].verdict == "does not hold"


def test_pictures_are_drawn_of_all_that_was_measured() -> None:
    full = [falling(0.85, 0.1)] * 3
    found = x06_two_stage.plot(measured(full, full))
    assert [len(axes.lines) for axes in found.axes] == [3 * (1 + 3 + 1) + 1, 3 + 1]
    found = x07_patch_sampling.plot(dict.fromkeys(x07_patch_sampling.SAMPLINGS, full))
    assert [len(axes.lines) for axes in found.axes] == [3, 6]


def test_what_was_trained_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_stage_runs, "STEPS", 1)
    noise = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for kind, shape, high in (("images", (90, 120, 3), 256), ("labels", (90, 120), 10)):
            folder = tmp_path / "camvid" / kind / split
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = torch.randint(0, high, shape, generator=noise, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    context = Context(Namespace(root=tmp_path / "camvid", device="cpu"), tmp_path / "work" / "x6")
    how = Second("random", fine_tune=False)
    found = Runs.of(context).curve(0, how, ratio=8)
    assert len(found) == len(THRESHOLDS) and at(found, 1.0, "patches") == 0 and at(found, 0.0, "patches") == 64
    folder = tmp_path / "work" / "two_stage"
    names = ["first-r8-0.safetensors", "second-r8-random-context-0.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names

    monkeypatch.setattr(two_stage_runs, "train_first", None)
    monkeypatch.setattr(two_stage_runs, "train_second", None)
    assert Runs.of(context).curve(0, how, ratio=8) == found
