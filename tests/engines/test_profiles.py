"""What is known of targets: complete, consistent, and with a reason wherever it says no."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from pydantic import ValidationError

from cascadert.engines import profiles
from cascadert.engines.profiles import Target, list_targets, load_target, serves
from cascadert.errors import TargetError
from cascadert.precision import PRECISIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CAPABILITIES = {
    "gtx-1080-ti": "6.1",
    "agx-xavier": "7.2",
    "xavier-nx": "7.2",
    "rtx-20": "7.5",
    "t4": "7.5",
    "a100": "8.0",
    "rtx-30": "8.6",
    "orin-nano-4gb": "8.7",
    "orin-nano-8gb": "8.7",
    "orin-nx": "8.7",
    "agx-orin": "8.7",
    "rtx-40": "8.9",
    "l4": "8.9",
    "l40": "8.9",
    "h100": "9.0",
    "h200": "9.0",
    "thor": "11.0",
    "rtx-50": "12.0",
    "dgx-spark": "12.1",
    "cpu": None,
    "nano": "5.3",
    "tx2": "6.2",
}
RTX = {"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"}
TARGETS = list_targets()
FILES = sorted(Path(profiles.__file__).with_name("targets").glob("*.toml"))

every_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def test_targets_are_sorted_by_compute_capability_and_refused_ones_come_last() -> None:
    assert {target.name: target.compute_capability for target in TARGETS} == CAPABILITIES
    assert [target.name for target in TARGETS] == list(CAPABILITIES)
    assert [target.name for target in TARGETS if target.refused] == ["nano", "tx2"]


@every_target
def test_tensorrt_rtx_comes_first_wherever_it_builds(target: Target) -> None:
    preferred, *others = target.backends
    if target.compute_capability is None:
        assert (preferred.name, others) == ("onnxruntime", [])
    else:
        assert (preferred.name == "tensorrt-rtx") == (target.compute_capability in RTX)
        assert {facts.name for facts in others} <= {"tensorrt"}
    for facts in target.backends:
        assert (facts.builds == "device") == (facts.name == "tensorrt")


@every_target
def test_typing_and_opset_are_those_of_the_versions(target: Target) -> None:
    for facts in target.backends:
        if facts.name == "tensorrt":
            before_10 = [version for version in ("8.2.1", "8.5.2", "8.6.1") if serves(facts.versions, version)]
            assert facts.strongly_typed == (not before_10)
            assert facts.opset == {"8.2.1": 13, "8.5.2": 17, "8.6.1": 17}.get(before_10[0] if before_10 else "", 20)
        for bad in facts.known_bad:
            assert serves(facts.versions, bad), "a version that is known to be bad, and out of range anyway"


@every_target
def test_a_version_names_one_builder(target: Target) -> None:
    for version in ("8.2.1", "8.5.2", "8.6.1", "10.0.1", "10.3.0", "10.7.0", "10.16.1", "11.0.0", "11.4.1"):
        ranges = [facts for facts in target.backends if facts.name == "tensorrt" and serves(facts.versions, version)]
        assert len(ranges) <= 1


@pytest.mark.parametrize(
    ("name", "built", "not_built"),
    [
        ("gtx-1080-ti", ["8.5.2", "8.6.1.6"], ["8.4.3", "10.0.1", "11.0.0"]),
        ("agx-xavier", ["8.5.2.2"], ["8.6.1", "10.3.0"]),
        ("orin-nano-8gb", ["8.5.2", "8.6.2", "10.3.0.30", "10.16.1"], ["9.0.0", "11.0.0", "11.4.1"]),
        ("agx-orin", ["8.5.2", "10.3.0", "11.4.1"], ["11.0.0", "11.4.0"]),
        ("thor", ["10.13.3", "11.4.1"], ["8.6.2", "10.3.0", "11.4.0"]),
        ("t4", ["8.6.1", "10.0.1", "11.0.0"], ["8.4.3", "9.3.0"]),
        ("rtx-50", ["10.8.0", "11.0.0"], ["8.6.1", "10.7.0"]),
        ("dgx-spark", ["10.14.1"], ["10.13.3"]),
    ],
)
def test_versions_of_tensorrt(name: str, built: list[str], not_built: list[str]) -> None:
    target = load_target(name)
    for version in built:
        assert serves(target.backend("tensorrt", version).versions, version)
    for version in not_built:
        with pytest.raises(TargetError, match=rf"^target '{name}': tensorrt {version} does not build for it; use .*>="):
            target.backend("tensorrt", version)


def test_the_preferred_builder_is_the_first_that_serves() -> None:
    agx_orin = load_target("agx-orin")
    assert agx_orin.backend() == agx_orin.backend("tensorrt") == agx_orin.backends[0]
    assert agx_orin.backend(version="8.5.2") == agx_orin.backends[2]
    assert load_target("rtx-40").backend().name == "tensorrt-rtx"
    assert load_target("cpu").backend().name == "onnxruntime"
    with pytest.raises(
        TargetError, match=r"^target 'cpu': tensorrt-rtx does not build for it; use onnxruntime >=1\.20$"
    ):
        load_target("cpu").backend("tensorrt-rtx")
    message = r"^target 'gtx-1080-ti': TensorRT 10\.3\.0 does not build for it; use tensorrt >=8\.5,<8\.7$"
    with pytest.raises(TargetError, match=message):
        load_target("gtx-1080-ti").backend(version="10.3.0")
    with pytest.raises(TargetError, match=r"^version 'ten': is no version; give numbers"):
        agx_orin.backend("tensorrt", "ten")


@pytest.mark.parametrize("name", ["nano", "tx2"])
def test_jetpack_4_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(
        TargetError, match=rf"^target '{name}': is refused: .*TensorRT 8\.2 .*opset 13.*Python 3\.6; .*; use"
    ):
        load_target(name).backend()


@every_target
def test_precisions_follow_the_hardware(target: Target) -> None:
    capability = float(target.compute_capability or 0)
    assert ("tf32" in target.with_speed("fast")) == (capability >= 8.0)
    assert ("tf32" in target.with_speed("refused")) == (capability < 8.0)
    assert ("fp16" in target.with_speed("refused")) == (target.name in ("gtx-1080-ti", "cpu"))
    assert ("int8" in target.with_speed("works")) == (target.backends[0].name == "tensorrt-rtx")
    assert target.with_speed("fast", "works", "refused") == PRECISIONS
    assert all(len(fact.why) > 15 for fact in target.precisions.values() if fact.speed != "fast")


def test_only_these_boards_have_a_dla() -> None:
    cores = {target.name: target.dla_cores for target in TARGETS if target.dla_cores}
    assert cores == {"agx-xavier": 2, "xavier-nx": 2, "orin-nx": 2, "agx-orin": 2}
    agx_orin = load_target("agx-orin").dla
    assert agx_orin is not None
    usable = {
        version: agx_orin.takes(version) for version in ("8.5.2", "10.3.0", "10.7.0", "10.8.0", "11.4.0", "11.4.1")
    }
    assert [version for version, takes in usable.items() if takes] == ["8.5.2", "10.3.0", "10.7.0", "11.4.1"]


@every_target
def test_memory(target: Target) -> None:
    if target.compute_capability is None:
        assert target.memory_bytes == ()
    else:
        assert target.memory_bytes[0] == target.memory_gib[0] * 2**30 == min(target.memory_bytes)
    jetson_or_spark = bool(target.boards) or target.name in ("thor", "dgx-spark")
    assert target.integrated == jetson_or_spark


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_table_of_facts_has_a_source(file: Path) -> None:
    """A comment before the first key of each table and each builder, since that is where a reader looks."""
    text = file.read_text(encoding="utf-8")
    for header in re.finditer(r"^\[\[?[\w.]+\]\]?\n", text, re.MULTILINE):
        assert text[header.end()] == "#", f"{header.group().strip()} of {file.name} says nothing of where it is from"
    for key in ("compute_capability", "memory_gib"):
        if key in tomllib.loads(text):
            before = text[: text.index(f"\n{key} =")].splitlines()[-1]
            assert before.startswith("#") or f'"{key}"' in text, f"{key} of {file.name}"


def test_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        TargetError, match=r"^target 'rtx30': is not known; did you mean 'rtx-30'\? Known are gtx-1080-ti, agx-xavier"
    ):
        load_target("rtx30")


def test_far_off_name_gets_no_guess() -> None:
    with pytest.raises(TargetError, match=r"^target 'voodoo': is not known; known are gtx-1080-ti, .*, tx2$"):
        load_target("voodoo")


@pytest.mark.parametrize("path", ["../targets/cpu", "", "cpu.toml"])
def test_a_path_is_no_name(path: str) -> None:
    with pytest.raises(TargetError, match="is not known"):
        load_target(path)


def changed(**changes: Any) -> dict[str, Any]:
    return {**load_target("agx-orin").model_dump(), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capability": None}, "built by tensorrt, tensorrt, tensorrt with compute_capability None"),
        ({"compute_capability": "8"}, "compute_capability"),
        ({"backends": ()}, "backends"),
        ({"memory_gib": ()}, "names and memory_gib belong to every GPU"),
        ({"memory_gib": (64, 32)}, "not in order"),
        ({"names": ()}, "names and memory_gib belong to every GPU"),
        ({"precisions": {"fp32": {"speed": "fast"}}}, "precisions must be fp32, tf32, fp16, int8"),
        ({"tier": "C"}, "tier C is that of refused targets"),
        ({"refused": "it is old"}, "tier C is that of refused targets"),
        ({"unsure": ("weather",)}, r"unsure names no facts: \['weather'\]"),
        ({"dla": {"cores": 2, "tensorrt": ["up to 10"]}}, "'up to 10' is no range of versions"),
        ({"colour": "green"}, "Extra inputs are not permitted"),
    ],
)
def test_an_inconsistent_target_is_broken(changes: dict[str, Any], message: str) -> None:
    assert Target.model_validate(changed())
    with pytest.raises(ValidationError, match=message):
        Target.model_validate(changed(**changes))


@pytest.mark.parametrize("speed", ["works", "refused"])
def test_less_than_fast_needs_a_reason(speed: str) -> None:
    precisions = {**load_target("agx-orin").model_dump()["precisions"], "int8": {"speed": speed}}
    with pytest.raises(ValidationError, match=f"speed '{speed}' without a reason"):
        Target.model_validate(changed(precisions=precisions))


def test_tensorrt_rtx_itself_names_these_compute_capabilities() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra rtx)")
    names = {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    assert names == {f"SM{capability.replace('.', '')}" for capability in RTX}
    version = trt.__version__
    assert all(serves(t.backends[0].versions, version) for t in TARGETS if t.backends[0].name == "tensorrt-rtx")


def test_the_pin_of_the_extra_is_the_range_of_the_targets() -> None:
    """What `pip install cascadert[rtx]` brings is what the targets say is built with."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (pin,) = (name.removeprefix("tensorrt-rtx") for name in extras["rtx"] if name.startswith("tensorrt-rtx"))
    ranges = {facts.versions for target in TARGETS for facts in target.backends if facts.name == "tensorrt-rtx"}
    assert {SpecifierSet(versions) for versions in ranges} == {SpecifierSet(pin)}
