"""X8 and X9: the rules behind their verdicts, and both on a few tiny frames."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import ensemble
import pytest
import torch
from experiments import x08_instance_uncertainty as x08
from experiments import x09_ensemble as x09
from experiments.ensemble_rows import Row, differences, flat, shown, shown_difference
from experiments.ensemble_runs import NAMES, NETWORKS, RARE, Split
from experiments.experiment import Context
from experiments.results import save
from PIL import Image
from street_data import Recipe


def network(miou: float, rare: float, pavpu: float = 0.8) -> dict[str, Any]:
    iou = {name: rare if name in RARE else 0.9 for name in NAMES}
    return {"miou": miou, "pavpu": pavpu, "iou": iou | {"fence": None}}


def row(seed: int, weighting: str, gain: float) -> Row:
    members = [network(0.3 + gain + 0.1 * index, 0.1 + gain) for index in range(3)]
    named = dict(zip(NETWORKS, [*members, network(0.6, 0.3 + gain)], strict=True))
    return Row(seed, weighting, {"val": named, "dusk": named})


def test_members_are_averaged_and_a_rare_class_that_never_occurs_counts_as_nothing() -> None:
    assert row(0, "none", 0.0).value("miou", "val", "members") == pytest.approx(0.4)
    assert row(0, "none", 0.0).value("miou", "val", "ensemble") == 0.6
    assert row(0, "none", 0.0).value("rare", "dusk", "members") == pytest.approx(4 * 0.1 / 5)


def test_differences_are_paired_by_seed() -> None:
    rows = [row(seed, w, g) for seed in (0, 1) for w, g in (("none", 0.02 * seed), ("approach-1", 0.05 * seed))]
    assert differences(rows, ("approach-1", "none"), "miou", "val", "members") == pytest.approx([0.0, 0.03])
    assert shown([0.1, 0.3]) == "20.0 ± 14.1"
    assert shown_difference([0.005]) == "+0.5 ± 0.0"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([0.004, 0.005, 0.006], "holds"),  # 0.005 and two errors of 0.00058
        ([0.0, 0.01, 0.02], "not significant"),  # 0.01 and two errors of 0.0058
        ([0.029, 0.03, 0.031], "does not hold"),
        ([-0.029, -0.03, -0.031], "does not hold"),
        ([0.002], "holds"),
    ],
)
def test_flat_asks_for_a_small_difference_that_is_sure(found: list[float], verdict: str) -> None:
    assert flat(found, 0.01) == verdict


def write_camvid(root: Path) -> None:
    """Four frames by day and two at dusk to train on, two to test on."""
    rng = torch.Generator().manual_seed(0)
    for split, names in (
        ("train", ["0001TP_1", "0001TP_2", "0006R0_1", "0006R0_2", "0016E5_1"]),
        ("val", ["0016E5_9"]),
    ):
        for name in names:
            labels = torch.randint(0, 11, (12, 15), generator=rng).repeat_interleave(10, 0).repeat_interleave(10, 1)
            for kind, pixels in (("images", labels[..., None].expand(-1, -1, 3) * 20), ("labels", labels)):
                path = root / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.byte().numpy()).save(path)


def test_the_dusk_sequence_is_held_out(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    split = Split.of(tmp_path)
    assert [len(part.labels) for part in (split.train.data, split.val, split.dusk)] == [3, 1, 2]
    for path in (tmp_path / "images" / "train").glob("0001TP*"):
        path.unlink()
        (tmp_path / "labels" / "train" / path.name).unlink()
    with pytest.raises(SystemExit, match="no frames 0001TP"):
        Split.of(tmp_path)


@pytest.mark.slow
def test_both_run_on_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "RECIPE", Recipe(scale=1.0, crop=(32, 32), batch=2))
    write_camvid(tmp_path)
    options = argparse.Namespace(root=tmp_path, device="cpu", seeds=1, steps=2, base_steps=2)
    context = Context(options, tmp_path / "work" / "x8")
    first = x08.EXPERIMENT.run(context)
    assert len(first.findings) == 6
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert len(trained) == 5 * 3
    json_path = save(x08.EXPERIMENT, first, tmp_path / "results", "command", 0.0)
    assert len(json.loads(json_path.read_text())["numbers"]["runs"]) == 4

    other = x09.EXPERIMENT.run(Context(options, tmp_path / "work" / "x9"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")} == trained
    save(x09.EXPERIMENT, other, tmp_path / "results", "command", 0.0)
    assert (tmp_path / "results" / "x9.png").exists()
    by_hand = [
        one["miou"]["ensemble"] - max(one["miou"][name] for name in ensemble.BACKBONES) for one in other.numbers["runs"]
    ]
    assert shown_difference([statistics.fmean(by_hand)]) in other.findings[0].found
    # The two experiments measure the same networks.
    regular = {one["weighting"]: one["miou"] for one in other.numbers["runs"]}["none"]
    places = first.numbers["runs"][0]["places"]["val"]
    assert regular == {name: places[name]["miou"] for name in NETWORKS}
