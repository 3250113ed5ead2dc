from __future__ import annotations

import pytest
from pydantic import ValidationError

from cascadert.engines.profiles import Target, list_targets, load_target
from cascadert.errors import TargetError

CAPABILITIES = {
    "rtx-20": "7.5",
    "a100": "8.0",
    "rtx-30": "8.6",
    "rtx-40": "8.9",
    "rtx-50": "12.0",
    "dgx-spark": "12.1",
    "cpu": None,
}


def test_targets_are_sorted_by_compute_capability() -> None:
    assert {target.name: target.compute_capability for target in list_targets()} == CAPABILITIES
    assert [target.name for target in list_targets()] == list(CAPABILITIES)


def test_cpu_is_the_only_target_without_tensorrt() -> None:
    others = [target.name for target in list_targets() if target.backend != "tensorrt-rtx"]
    assert others == ["cpu"]


def test_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        TargetError, match=r"^target 'rtx30': is not known; did you mean 'rtx-30'\? Known are rtx-20, a100"
    ):
        load_target("rtx30")


def test_far_off_name_gets_no_guess() -> None:
    with pytest.raises(TargetError, match=r"^target 'jetson-nano': is not known; known are rtx-20, .*, cpu$"):
        load_target("jetson-nano")


@pytest.mark.parametrize("path", ["../targets/cpu", "", "cpu.toml"])
def test_a_path_is_no_name(path: str) -> None:
    with pytest.raises(TargetError, match="is not known"):
        load_target(path)


def test_a_gpu_needs_a_compute_capability() -> None:
    with pytest.raises(ValidationError, match="compute_capability None"):
        Target(name="x", title="x", backend="tensorrt-rtx", precisions=("fp32",))
