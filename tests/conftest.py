"""A toy cascade of networks that are the user's own, exported once for all tests."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NETWORKS = '''
"""Networks as a user would write them, beside the specification."""

import torch
from torch import nn


def toy(classes=4, width=6, stride=2):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=stride, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, classes, 3, padding=1),
    )


class Constant(nn.Module):
    """Says class 0 everywhere."""

    def forward(self, pixels):
        nothing = pixels[:, :1] * 0
        return torch.cat([nothing + 5, nothing, nothing, nothing], dim=1)


class Pair(nn.Module):
    def forward(self, pixels):
        return pixels, pixels


class Flat(nn.Module):
    def forward(self, pixels):
        return pixels.mean(dim=(2, 3))


class Broken(nn.Module):
    def forward(self, pixels):
        raise RuntimeError("no such luck\\nsecond line")


def not_a_network():
    return 42


def needs(something):
    return toy()
'''

TOY: dict[str, Any] = {
    "name": "toy",
    "classes": {"names": ["a", "b", "c", "d"], "palette": [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]]},
    "frame": {"height": 40, "width": 56},
    "grid": {"block": 16, "stride": 12},
    "stages": [
        {"name": "fast", "model": "networks.py:toy", "args": {"stride": 4}, "weights": "fast.safetensors"},
        {
            "name": "accurate",
            "model": "networks.py:toy",
            "weights": "accurate.safetensors",
            "halo": 3,
            "select": {"policy": "threshold", "theta": 1.05},
        },
    ],
}


def to_toml(value: Any) -> str:
    """Write a value of TOML; tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {to_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps(value)


def write_spec(folder: Path, data: dict[str, Any]) -> Path:
    """Write a specification and return its path."""
    path = folder / f"{data.get('name', 'spec')}.toml"
    path.write_text("\n".join(f"{name} = {to_toml(value)}" for name, value in data.items()))
    return path


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's cache of engines alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASCADERT_CACHE", str(tmp_path_factory.mktemp("engine-cache")))
        yield


@pytest.fixture
def toy_data() -> dict[str, Any]:
    """The toy specification as a dictionary of the test's own."""
    return copy.deepcopy(TOY)


@pytest.fixture(scope="session")
def save_spec() -> Callable[[Path, dict[str, Any]], Path]:
    """`save_spec(folder, data)` writes a specification and returns its path."""
    return write_spec


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `networks.py` and the weights fast, middle and accurate (.safetensors) of toy networks."""
    import safetensors.torch

    from cascadert.export.compile import reference_stages
    from cascadert.spec import parse_spec

    folder = tmp_path_factory.mktemp("toy")
    (folder / "networks.py").write_text(NETWORKS)
    for seed, name, args in ((1, "fast", {"stride": 4}), (2, "middle", {"width": 5}), (3, "accurate", {})):
        data = copy.deepcopy(TOY)
        data["stages"] = [{"name": name, "model": "networks.py:toy", "args": args}]
        (stage,) = reference_stages(parse_spec(data, "toy"), folder, random_weights=seed)
        safetensors.torch.save_file(stage.network.state_dict(), folder / f"{name}.safetensors")
    write_spec(folder, TOY)
    return folder


@pytest.fixture(scope="session")
def toy_spec(toy_folder: Path) -> Path:
    """The toy specification on disk: two stages, overlapping blocks with a halo."""
    return toy_folder / "toy.toml"


@pytest.fixture(scope="session")
def toy_bundle(toy_spec: Path, tmp_path_factory: pytest.TempPathFactory):
    """The toy cascade, exported. Do not write into its folder."""
    from cascadert.export.compile import export_bundle

    return export_bundle(toy_spec, tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="session")
def cameras_bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The toy cascade for two cameras."""
    from cascadert.export.compile import export_bundle

    data = {**copy.deepcopy(TOY), "name": "cameras"}
    data["frame"]["cameras"] = 2
    return export_bundle(write_spec(toy_folder, data), tmp_path_factory.mktemp("bundles") / "cameras")


@pytest.fixture(scope="session")
def chain_bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Three stages on NV12 frames, blocks side by side."""
    from cascadert.export.compile import export_bundle

    data = {**copy.deepcopy(TOY), "name": "chain", "grid": {"block": [10, 14]}}
    data["frame"]["pixel_format"] = "nv12"
    fast, accurate = data["stages"]
    middle = {**accurate, "name": "middle", "weights": "middle.safetensors", "args": {"width": 5}, "halo": 0}
    accurate["select"] = {"policy": "threshold", "theta": 1.0}
    data["stages"] = [fast, middle, accurate]
    return export_bundle(write_spec(toy_folder, data), tmp_path_factory.mktemp("bundles") / "chain")


@pytest.fixture(scope="session")
def exits_spec() -> Path:
    """The specification of a tiny network with two exits before the final one."""
    return Path(__file__).parents[1] / "examples" / "tiny" / "multi-exit.toml"


@pytest.fixture(scope="session")
def exits_bundle(exits_spec: Path, tmp_path_factory: pytest.TempPathFactory):
    """That network, exported with random weights. Do not write into its folder."""
    from cascadert.export.compile import ExportOptions, export_bundle

    return export_bundle(exits_spec, tmp_path_factory.mktemp("bundles") / "exits", ExportOptions(random_weights=0))


@pytest.fixture(scope="session")
def exits_streets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve images of that network's size in a folder, and their labels in another."""
    from PIL import Image

    from cascadert.scenes import SceneOptions, render

    images, labels = (tmp_path_factory.mktemp(name) for name in ("exit-images", "exit-labels"))
    for i in range(12):
        scene = render(i, 30 * i, SceneOptions(height=128, width=256))
        Image.fromarray(scene.image).save(images / f"{i:02}.png")
        Image.fromarray(scene.labels).save(labels / f"{i:02}.png")
    return images, labels


@pytest.fixture(scope="session")
def toy_frames() -> np.ndarray:
    """Six RGB streets of the toy's size, uint8 `[6, 40, 56, 3]`."""
    from cascadert.scenes import SceneOptions, render

    options = SceneOptions(height=64, width=64)
    return np.stack([render(seed, 0, options).image[12:52, :56] for seed in range(6)])
