"""What a specification may say, and the one line that answers a wrong one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cascadert.classes import CAMVID, CITYSCAPES
from cascadert.errors import GridError, SpecError
from cascadert.spec import (
    CascadeSpec,
    FrameRatePolicy,
    LatencyPolicy,
    SelectPolicy,
    ThresholdPolicy,
    TopKPolicy,
    load_spec,
    parse_spec,
)

Data = dict[str, Any]


def _set(path: str, value: Any) -> Callable[[Data], None]:
    """Set a value at `a.b.1.c`; the value `...` deletes it."""

    def change(data: Data) -> None:
        *parents, last = path.split(".")
        target: Any = data
        for step in parents:
            target = target[int(step) if isinstance(target, list) else step]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return change


WRONG: list[tuple[str, Any, str]] = [
    # frame
    ("frame.height", ..., r"frame\.height: is missing; add it"),
    ("frame.height", 0, r"frame\.height: found 0; .*greater than 0"),
    ("frame.width", -3, r"frame\.width: found -3; .*greater than 0"),
    ("frame.height", "40", r"frame\.height: found '40'; .*valid integer"),
    ("frame.height", True, r"frame\.height: found True; .*valid integer"),
    ("frame.height", 40.5, r"frame\.height: found 40\.5; .*integer"),
    ("frame.cameras", 0, r"frame\.cameras: found 0; .*greater than 0"),
    ("frame.pixel_format", "yuyv", r"frame\.pixel_format: found 'yuyv'; .*'rgb8', 'bgr8', 'rgba8' or 'nv12'"),
    ("frame.fit", "squeeze", r"frame\.fit: found 'squeeze'; .*'none', 'resize', 'letterbox' or 'crop'"),
    ("frame", {"height": 41, "width": 56, "pixel_format": "nv12"}, r"frame: nv12 needs an even height .* 41x56; mend"),
    ("frame.depth", 3, r"frame\.depth: is not a known field; remove it or mend its spelling"),
    # grid
    ("grid.block", 0, r"grid\.block\[0\]: found 0; .*greater than 0"),
    ("grid.block", "16", r"grid\.block: found '16'; .*valid tuple"),
    ("grid.block", [16, 16, 16], r"grid\.block: found \[16, 16, 16\]; .*at most 2"),
    ("grid.stride", [12, -1], r"grid\.stride\[1\]: found -1; .*greater than 0"),
    # classes
    ("classes", "ade20k", r"classes must be one of cityscapes, camvid, voc or a table, found 'ade20k'"),
    ("classes.names", ["one"], r"classes\.names: found \['one'\]; .*at least 2"),
    ("classes.names", ["a", "b", "c"], r"classes: 3 class names need as many colours, found 4; mend the spec"),
    ("classes.palette", [[0, 0, 256]] * 4, r"classes\.palette\[0\]\[2\]: found 256; .*less than or equal to 255"),
    # stages
    ("stages", [], r"stages: found \[\]; .*at least 1 item"),
    ("stages", ..., r"stages: is missing; add it"),
    ("stages.1.name", "fast", r"need distinct names other than download, .*, upload, found \['fast', 'fast'\]"),
    ("stages.0.name", "frame", r"need distinct names other than .*frame, .*found \['frame', 'accurate'\]"),
    ("stages.0.name", "upload", r"need distinct names other than .*, upload, found \['upload', 'accurate'\]"),
    ("stages.0.name", "Fast net", r"stages\[0\]\.name: found 'Fast net'; .*pattern"),
    ("stages.0.name", "../../etc", r"stages\[0\]\.name: found '\.\./\.\./etc'; .*pattern"),
    ("stages.0.model", ..., r"stages\[0\]: stage 'fast' needs a model or a network .*, found neither"),
    ("stages.0.wieghts", "a.pt", r"stages\[0\]\.wieghts: is not a known field; remove it or mend its spelling"),
    ("stages.0.halo", 4, r"stage 'fast' sees whole frames: halo belongs to stages that refine blocks"),
    ("stages.0.merge", "average", r"stage 'fast' sees whole frames: merge belongs to stages that refine blocks"),
    ("stages.0.select", {"policy": "top-k", "k": 1}, r"stage 'fast' comes after no stage with labels and scores"),
    ("stages.1.select", ..., r"stage 'accurate' refines blocks: it needs select = \{ policy = \.\.\. \}"),
    ("stages.1.scale", 0.5, r"stage 'accurate' sees selected blocks: scale belongs to stages that see whole frames"),
    ("stages.1.input_size", 32, r"stage 'accurate' sees selected blocks: input_size belongs to stages that see whole"),
    ("stages.1.emit", ["labels", "entropy"], r"stage 'accurate' refines blocks: it cannot emit entropy or logits"),
    ("stages.1.halo", -1, r"stages\[1\]\.halo: found -1; .*greater than or equal to 0"),
    ("stages.1.merge", "max", r"stages\[1\]\.merge: found 'max'; .*'owner' or 'average'"),
    ("stages.0.scale", 0, r"stages\[0\]\.scale: found 0; .*greater than 0"),
    ("stages.0.scale", 0.33, r"scale = 0\.33 makes 13\.2x18\.48 pixels: set input_size = \[height, width\]"),
    ("stages.0.preprocessing", {"std": [0.2, 0.0, 0.2]}, r"stages\[0\]\.preprocessing: std must be positive, found"),
    ("stages.0.preprocessing", {"mean": [float("nan"), 0, 0]}, r"preprocessing\.mean\[0\]: found nan; .*finite"),
    # selection
    (
        "stages.1.select",
        {"policy": "random"},
        r"stages\[1\]\.select: found \{'policy': 'random'\}; .*'threshold', 'top-k', 'latency', 'frame-rate'",
    ),
    ("stages.1.select", {"theta": 0.5}, r"stages\[1\]\.select: found \{'theta': 0\.5\}; .*'policy'"),
    ("stages.1.select", {"policy": "threshold"}, r"stages\[1\]\.select\.threshold\.theta: is missing; add it"),
    ("stages.1.select", {"policy": "threshold", "theta": float("inf")}, r"theta: found inf; .*finite"),
    ("stages.1.select", {"policy": "threshold", "theta": "0.5"}, r"theta: found '0\.5'; .*valid number"),
    ("stages.1.select", {"policy": "top-k", "k": -1}, r"\.k: found -1; .*greater than or equal to 0"),
    ("stages.1.select", {"policy": "top-k", "k": 2.5}, r"\.k: found 2\.5; .*integer"),
    ("stages.1.select", {"policy": "latency"}, r"select\.latency\.budget_ms: is missing; add it"),
    ("stages.1.select", {"policy": "latency", "budget_ms": 0}, r"budget_ms: found 0; .*greater than 0"),
    ("stages.1.select", {"policy": "latency", "budget_ms": "40"}, r"budget_ms: found '40'; .*valid number"),
    ("stages.1.select", {"policy": "latency", "budget_ms": float("inf")}, r"budget_ms: found inf; .*finite"),
    ("stages.1.select", {"policy": "latency", "budget_ms": 40, "k": 1}, r"latency\.k: is not a known field"),
    ("stages.1.select", {"policy": "frame-rate"}, r"select\.frame-rate\.fps: is missing; add it"),
    ("stages.1.select", {"policy": "frame-rate", "fps": -30}, r"fps: found -30; .*greater than 0"),
    ("stages.1.select", {"policy": "frame-rate", "fps": 30, "theta_min": float("nan")}, r"theta_min: found nan"),
    # the whole
    ("name", "../up", r"name: found '\.\./up'; .*pattern"),
    ("colour", "red", r"colour: is not a known field"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{p}={v!r:.40}" for p, v, _ in WRONG])
def test_a_wrong_field_is_named_with_what_was_found_and_what_is_allowed(
    toy_data: Data, path: str, value: Any, message: str
) -> None:
    _set(path, value)(toy_data)
    with pytest.raises(SpecError, match="^the.toml: .*" + message) as caught:
        parse_spec(toy_data, "the.toml")
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)


def input_size(data: Data) -> tuple[int, int]:
    spec = parse_spec(data, "spec")
    return spec.network_input_size(spec.stages[0])


def test_scale_and_input_size_exclude_each_other(toy_data: Data) -> None:
    toy_data["stages"][0].update(scale=0.5, input_size=[20, 28])
    with pytest.raises(SpecError, match="stage 'fast' has both scale and input_size: keep one"):
        parse_spec(toy_data, "spec")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"block": 41}, r"^grid\.block = 41: the frame's height is 40 pixels; choose a block between 1 and 40$"),
        ({"block": [16, 57]}, r"^grid\.block = 57: the frame's width is 56 pixels"),
        ({"block": 16, "stride": 17}, r"^grid\.stride = 17: blocks of 16 pixels would leave gaps"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_before_anything_is_built(toy_data: Data, grid: Data, message: str) -> None:
    with pytest.raises(GridError, match=message):
        parse_spec({**toy_data, "grid": grid}, "spec")


def test_the_example_in_the_docstring_is_valid(tmp_path: Path) -> None:
    from cascadert import spec as module

    example = (module.__doc__ or "").partition("::\n")[2]
    path = tmp_path / "street.toml"
    path.write_text("\n".join(line[4:] for line in example.splitlines()))
    spec = load_spec(path)
    assert (spec.name, spec.classes, spec.num_classes) == ("street", CITYSCAPES, 19)
    assert spec.make_grid().size == 32
    assert spec.stages[1].select == ThresholdPolicy(theta=0.5)
    assert spec.stages[1].halo == 64


def test_defaults_and_pairs(toy_data: Data) -> None:
    toy_data["classes"] = "camvid"
    toy_data["grid"] = {"block": 20}
    toy_data["stages"][1]["select"] = {"policy": "top-k", "k": 3}
    spec = parse_spec(toy_data, "spec")
    assert spec.classes is CAMVID or spec.classes == CAMVID
    assert spec.make_grid().block == spec.make_grid().stride == (20, 20)
    assert spec.stages[1].select == TopKPolicy(policy="top-k", k=3)
    assert spec.network_input_size(spec.stages[0]) == (40, 56)
    toy_data["stages"][0]["scale"] = 0.5
    assert input_size(toy_data) == (20, 28)
    del toy_data["stages"][0]["scale"]
    toy_data["stages"][0]["input_size"] = [30, 32]
    assert input_size(toy_data) == (30, 32)


@pytest.mark.parametrize(
    ("select", "policy"),
    [
        ({"policy": "latency", "budget_ms": 40}, LatencyPolicy(budget_ms=40.0, theta=None)),
        ({"policy": "latency", "budget_ms": 40.5, "theta": 0.25}, LatencyPolicy(budget_ms=40.5, theta=0.25)),
        ({"policy": "frame-rate", "fps": 30}, FrameRatePolicy(fps=30.0, theta_min=0.0)),
        ({"policy": "frame-rate", "fps": 29.97, "theta_min": 0.1}, FrameRatePolicy(fps=29.97, theta_min=0.1)),
    ],
)
def test_policies_of_time(toy_data: Data, select: Data, policy: SelectPolicy) -> None:
    _set("stages.1.select", select)(toy_data)
    assert parse_spec(toy_data, "toy").stages[1].select == policy


def test_a_spec_survives_json_and_cannot_be_changed(toy_data: Data) -> None:
    spec = parse_spec(toy_data, "spec")
    assert CascadeSpec.model_validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = \nframe = 1\n", r"is not valid TOML: .*line 1, column 8.*"),
        (b"name = 'a'\nname = 'b'\n", r"is not valid TOML: .*line 2, column 11.*"),
        (b"\xff\xfe", r"is not valid TOML: .*decode byte 0xff.*"),
        (b"a = " + b"[" * 5000, r"is not valid TOML: .*"),
    ],
)
def test_broken_toml_names_the_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=f"^{re.escape(str(path))}: {message}; mend that line$"):
        load_spec(path)


def test_a_spec_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SpecError, match=rf"^{re.escape(str(path))}: cannot be read \(.+\); give the path of a"):
            load_spec(path)
