"""X10 and X11: their measures, their rules on made-up numbers, and a whole run of a step."""

from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from experiments import two_column_nets, x10_regions, x11_boundary
from experiments.experiment import Context, Outcome
from experiments.two_column_boundary import accuracy_by_band, differing_labels, distance_to_border
from experiments.two_column_measure import Way, at_random, learned, lowest, macs_by_regions, quality, segmented
from measure import evaluate
from street_data import Data, Recipe
from two_column_inference import FastInference

from cascadert.classes import CAMVID
from cascadert.export.macs import count_macs
from tests.export.models.two_column_chain import tiny
from tests.recipes.test_two_column import coloured_frames

SIZE, REGIONS = (64, 128), 8


def test_miou_is_that_of_the_network_as_it_is_exported() -> None:
    network, data = tiny(), coloured_frames(5)
    found = quality(network, data, {"three": Way(learned, 3)}, 11)
    wanted = evaluate(FastInference(network, 3), data, Recipe(1.0, SIZE), CAMVID.names, torch.device("cpu"))
    assert found["three"] == pytest.approx(100 * float(str(wanted["miou"])), abs=0.01)


def test_who_chooses_matters_until_all_are_chosen() -> None:
    network, data = tiny(), coloured_frames(2)
    choices = (learned, lowest, at_random(0), at_random(0), at_random(1))
    ways = {f"{k} {i}": Way(choice, k) for k in (0, 3, REGIONS) for i, choice in enumerate(choices)}
    ((_, found),) = segmented(network, data, ways)
    for k in (0, REGIONS):
        assert all(torch.equal(found[f"{k} 0"], found[f"{k} {i}"]) for i in range(len(choices)))
    assert torch.equal(found["3 2"], found["3 3"])  # the same draw
    different = [found[f"3 {i}"] for i in (0, 1, 2, 4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_cost_grows_by_a_region_each_and_ends_at_the_whole_network() -> None:
    network = tiny(in_column="crops")
    macs = macs_by_regions(network, SIZE)
    assert len(macs) == REGIONS + 1
    assert {b - a for a, b in pairwise(macs)} == {count_macs(network.crops, (1, 3, 32, 32))}
    assert macs[-1] == count_macs(network, (1, 3, *SIZE))


def test_distance_is_to_borders_between_regions_alone() -> None:
    assert distance_to_border((2, 6), 2)[0].tolist() == [1.5, 0.5, 0.5, 0.5, 0.5, 1.5]
    assert distance_to_border((4, 2), 2)[:, 0].tolist() == [1.5, 0.5, 0.5, 1.5]
    assert distance_to_border((32, 64), 32).max() == 31.5


def test_accuracy_by_band_counts_every_pixel_in_its_band() -> None:
    network, data = tiny(), coloured_frames(2)
    data = Data(data.images, data.labels.index_fill(1, torch.arange(5), 255))
    ((labels, found),) = segmented(network, data, {"all": Way(learned, REGIONS)})
    distance = distance_to_border(SIZE, 32).expand_as(labels)
    bands = accuracy_by_band(network, data, {"all": Way(learned, REGIONS)})["all"]
    for index, (low, high) in enumerate(((0, 8), (8, 16), (16, 24), (24, 99))):
        inside = (distance >= low) & (distance < high) & (labels < 11)
        right = (found["all"] == labels) & inside
        assert bands[index] == pytest.approx(100 * float(right.sum() / inside.sum()), abs=0.01)


def test_regions_alone_give_the_same_labels() -> None:
    network, data = tiny(), coloured_frames(3)
    different, miou = differing_labels(network, data, 3, 11)
    assert different == 0
    assert miou == quality(network, data, {"fast": Way(learned, 3)}, 11)["fast"]


def made_up(learned_at: dict[int, float]) -> x10_regions.Curves:
    values = [learned_at[k] for k in x10_regions.SWEEP]
    return {"learned": values} | {name: [v - 2 for v in values] for name in ("entropy", "lowest", *chances())}


def chances() -> list[str]:
    return [f"random {draw}" for draw in range(x10_regions.DRAWS)]


def test_rules_of_x10() -> None:
    rising, flat = dict(zip(x10_regions.SWEEP, range(30, 37), strict=True)), dict.fromkeys(x10_regions.SWEEP, 30.0)
    rises, stays = [made_up(rising)] * 2, [made_up(flat)] * 2
    assert x10_regions.judge_rise(rises).verdict == "holds"
    assert x10_regions.judge_rise(stays).verdict == "does not hold"
    assert x10_regions.judge_chance(stays).verdict == "holds"
    better = x10_regions.judge_winners({"isctf": rises, "winners": stays}, "isctf", "the top k")
    assert better.verdict == "holds" and "+3.0, +3.0" in better.found
    assert x10_regions.judge_winners({"isctf": stays, "winners": rises}, "isctf", "the top k").verdict != "holds"
    assert x10_regions.judge_cost([50, 60, 70, 80, 200]).verdict == "does not hold"
    assert x10_regions.judge_cost([40, 60, 80, 100, 200]).verdict == "holds"


def test_rules_of_x11() -> None:
    drops = [{f"classic at {k}": 40.0, f"fast at {k}": 37.0 + seed} for seed in (0, 1) for k in [3]]
    drops = [row | {f"{way} at {k}": 40.0 for way in ("classic", "fast") for k in (0, 6, 12)} for row in drops]
    assert x11_boundary.judge_drop(drops).verdict == "holds"
    stays = [row | {"fast at 3": 40.0} | {f"labels that differ at {k}": 2.0 for k in (3, 6, 12)} for row in drops]
    assert x11_boundary.judge_drop(stays).verdict == "does not hold"
    assert x11_boundary.judge_no_drop(stays, 10**6).verdict == "holds"
    assert x11_boundary.judge_no_drop([stays[0] | {"fast at 3": 39.9}], 10**6).verdict == "does not hold"
    assert x11_boundary.judge_better(stays, drops).verdict == "holds"
    near = [{"classic": [80.0, 80.0], "fast": [75.0 + seed, 79.0]} for seed in (0, 1)]
    assert x11_boundary.judge_borders(near).verdict == "holds"


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "networks"), [(x10_regions, 4), (x11_boundary, 4)])
def test_a_second_run_finds_its_networks_and_gives_the_same(
    experiment: object, networks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_column_nets, "STEPS", 1)
    monkeypatch.setattr(two_column_nets, "COLUMN_STEPS", 1)
    monkeypatch.setattr(experiment, "SEEDS", (0,))
    monkeypatch.setattr(experiment, "load_camvid", lambda root, split: coloured_frames(2))
    context = Context(Namespace(root=tmp_path, device="cpu"), tmp_path / "work" / "x")

    def run() -> Outcome:
        outcome: Outcome = experiment.EXPERIMENT.run(context)  # type: ignore[attr-defined]
        return outcome

    first = run()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert len(written) == networks
    again = run()
    assert again.numbers == first.numbers and again.findings == first.findings
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert first.figure is not None and first.figure().axes
