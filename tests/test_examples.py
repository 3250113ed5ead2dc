"""Every example is a specification that works."""

from pathlib import Path

import pytest
import torch

from cascadert.export.networks import load_networks
from cascadert.spec import load_spec

EXAMPLES = Path(__file__).parents[1] / "examples"
SPECS = sorted(EXAMPLES.rglob("*.toml"))


def test_there_is_one_for_each_kind() -> None:
    names = {path.name for path in SPECS}
    assert names >= {"street-enet-pspnet-r50.toml", "street-overlap-480.toml", "three-stage.toml", "camvid.toml"}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_example_names_networks_that_exist_and_weights_that_fit(path: Path) -> None:
    spec = load_spec(path)
    has_weights = any(origin.weights for origin in (*spec.networks, *spec.stages))
    with torch.device("cpu" if has_weights else "meta"):
        networks = load_networks(spec, path.parent, None if has_weights else 0)
    assert list(networks) == [stage.name for stage in spec.stages]
