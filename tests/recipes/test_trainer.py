"""The shared training loop: it learns, repeats itself bit for bit, goes on where it stopped, and keeps what it made."""

import argparse
from pathlib import Path

import files
import numpy as np
import pytest
import torch
import trainer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

Network = nn.Sequential


def network() -> Network:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 2, 1))
    return nn.Sequential(*layers)


def batch(rng: np.random.Generator) -> trainer.Batch:
    """Pixels whose class is whether they are red."""
    pixels = torch.from_numpy(rng.normal(size=(4, 3, 8, 8)).astype(np.float32))
    return pixels, (pixels[:, 0] > 0).long()


def run(module: Network, options: trainer.TrainOptions) -> trainer.Trained:
    def loss(drawn: trainer.Batch, step: int) -> Tensor:
        return functional.cross_entropy(module(drawn[0]).float(), drawn[1])

    return trainer.train(module, batch, loss, options)


def test_the_loss_falls() -> None:
    trained = run(network(), trainer.TrainOptions(trainer.Schedule(60, 3e-2, warm_up=5)))
    assert trained.done and len(trained.losses) == 60
    assert trained.final_loss < trained.losses[0]
    assert sum(trained.losses[-10:]) < 0.6 * sum(trained.losses[:10])


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    made = []
    for seed in (3, 3, 4):
        module = network()
        run(module, trainer.TrainOptions(trainer.Schedule(5), seed=seed))
        made.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = trainer.Schedule(12, warm_up=3)
    whole = network()
    losses = run(whole, trainer.TrainOptions(schedule)).losses

    path, clock = tmp_path / "some.checkpoint", iter(range(10**6))
    monkeypatch.setattr("trainer.time.monotonic", lambda: 60.0 * next(clock))  # every look at the clock is a minute
    halves = trainer.TrainOptions(schedule, minutes=6, checkpoint=path)
    first = run(network(), halves)
    assert not first.done and 0 < len(first.losses) < 12 and path.exists()
    resumed = network()
    while not (rest := run(resumed, halves)).done:
        resumed = network()
    assert rest.losses == losses and not path.exists()
    assert "going on from step" in capsys.readouterr().out
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.checkpoint"
    run(network(), trainer.TrainOptions(trainer.Schedule(9), minutes=0, checkpoint=path))
    with pytest.raises(SystemExit, match=r"some.checkpoint: is of .*\"steps\": 9.*remove the file to start anew"):
        run(network(), trainer.TrainOptions(trainer.Schedule(8), checkpoint=path))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    trainer.add_training_arguments(parser, 4)
    parser.add_argument("--loss")
    command = ["--minutes", "0", "--threads", "1", "-o", str(tmp_path), "--loss"]
    kept, other = (trainer.training_options(parser.parse_args([*command, loss]), "some") for loss in ("ce", "pfd"))
    run(network(), kept)
    run(network(), kept)  # goes on
    with pytest.raises(SystemExit, match=r"pfd.*remove the file to start anew"):
        run(network(), other)


def test_what_needs_no_gradient_stays() -> None:
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    run(module, trainer.TrainOptions(trainer.Schedule(3)))
    assert torch.equal(before, module[0].weight)


@given(st.integers(2, 500), st.integers(1, 60))
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(steps: int, warm_up: int) -> None:
    schedule = trainer.Schedule(steps, 1e-3, warm_up=warm_up)
    rates = [schedule.rate(step) for step in range(steps)]
    assert min(rates) > 0 and max(rates) <= 1e-3
    tail = rates[warm_up:]
    assert tail == sorted(tail, reverse=True)
    assert schedule.rate(steps) == pytest.approx(0, abs=1e-12)


def test_weights_are_rounded_but_statistics_are_not(tmp_path: Path) -> None:
    module, path = network(), tmp_path / "sub" / "network.safetensors"
    module[1].running_var.fill_(1e-9)  # float16 would make it 0
    files.save_weights(module, path)
    loaded = network()
    files.load_weights(loaded, path)
    assert torch.equal(loaded[1].running_var, module[1].running_var)
    assert torch.equal(loaded[0].weight, module[0].weight.half().float())
    assert [one.name for one in path.parent.iterdir()] == ["network.safetensors"]


def test_weights_of_another_network_or_none_are_one_line(tmp_path: Path) -> None:
    files.save_weights(nn.Linear(2, 2), tmp_path / "linear.safetensors")
    for name, words in (("linear", "Missing key"), ("nothing", "No such file")):
        with pytest.raises(SystemExit, match=rf"{name}.safetensors: .*{words}"):
            files.load_weights(network(), tmp_path / f"{name}.safetensors")
