"""Stages with every default filled in, and what they may not say."""

from typing import Any

import pytest

from cascadert.errors import SpecError
from cascadert.spec import CascadeSpec, parse_spec

POLICY = {"policy": "threshold", "theta": 0.5}
BASE: dict[str, Any] = {"name": "x", "classes": "camvid", "frame": {"height": 32, "width": 64}, "grid": {"block": 16}}


def spec(*stages: dict[str, Any], **fields: Any) -> CascadeSpec:
    named = [{"model": "-", **stage} if "network" not in stage else stage for stage in stages]
    return parse_spec({**BASE, **fields, "stages": named}, "spec")


FAST = {"name": "fast"}
ACCURATE = {"name": "accurate", "select": POLICY}


def exits() -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = [{"name": "segment1", "emit": ["features"]}]
    for i in (1, 2, 3):
        if i > 1:
            source = f"segment{i - 1}.features"
            chain.append(
                {"name": f"segment{i}", "input": "carried", "reads": [source], "emit": ["features"], "select": POLICY,
                 "speculate": True}
            )  # fmt: skip
        chain.append({"name": f"exit{i}", "input": "carried", "reads": [f"segment{i}.features"]})
    return chain


def test_two_stages_are_wired_as_they_always_were() -> None:
    wiring = spec(FAST, ACCURATE).wiring
    assert (wiring["fast"].input, wiring["accurate"].input) == ("frame", "blocks")
    assert (wiring["fast"].after, wiring["accurate"].after) == (None, "fast")
    assert wiring["fast"].emit == ("labels", "scores", "order")
    assert wiring["accurate"].emit == ("labels",)


def test_a_middle_stage_scores_its_blocks_again() -> None:
    wiring = spec(FAST, {**ACCURATE, "name": "middle"}, ACCURATE).wiring
    assert wiring["middle"].emit == ("labels", "scores", "order")
    assert (wiring["middle"].after, wiring["accurate"].after) == ("fast", "middle")


def test_exits_decide_about_the_segment_after_them() -> None:
    wiring = spec(*exits()).wiring
    assert wiring["exit1"].emit == wiring["exit2"].emit == ("labels", "scores", "order")
    assert wiring["exit3"].emit == ("labels",)
    assert [wiring[name].after for name in ("segment2", "exit2", "segment3", "exit3")] == ["exit1"] * 2 + ["exit2"] * 2
    assert wiring["exit3"].needs == {"segment3"}


def test_what_is_written_wrong_is_answered_with_what_to_write() -> None:
    head = {"name": "head", "reads": ["trunk.features"]}
    for stages, message in (
        ([{"name": "trunk", "emit": ["features"]}, head], r'that emits labels, or input = "carried", to see what it'),
        ([FAST, {**head, "input": "carried", "reads": ["edges"]}], r'"edges" names no tensor of a stage: write "st'),
        ([{**FAST, "emit": []}], r"stage 'fast': emit = \[\] makes nothing: name its outputs, or leave emit out"),
    ):
        with pytest.raises(SpecError, match=message):
            spec(*stages)


def test_until_keeps_what_a_stage_needs_and_no_decision_that_lost_its_scores() -> None:
    short = spec(*exits()).until("exit2")
    assert short.name == f"{spec(*exits()).name}-until-exit2"
    assert [stage.name for stage in short.stages] == ["segment1", "segment2", "exit2"]
    assert all(stage.select is None for stage in short.stages)
    assert short.wiring["exit2"].after is None


def test_until_keeps_the_decision_about_blocks() -> None:
    short = spec(FAST, {**ACCURATE, "name": "middle"}, ACCURATE).until("middle")
    assert [stage.name for stage in short.stages] == ["fast", "middle"]
    assert short.stages[1].select is not None


@pytest.mark.parametrize(("last", "message"), [
    ("exit9", "until 'exit9': is no stage; choose one of segment1, exit1, .*"),
    ("segment2", "until 'segment2': makes no labels; choose a stage that does"),
])  # fmt: skip
def test_until_nothing_is_refused(last: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(*exits()).until(last)


def test_rows_of_blocks_make_a_stage_follow() -> None:
    wiring = spec(
        {"name": "half", "emit": ["labels", "scores", "order", "logits"]},
        {"name": "crops", "emit": ["level"], "select": POLICY},
        {"name": "fuse", "input": "carried", "reads": ["crops.level", "half.logits"]},
    ).wiring
    assert wiring["fuse"].rows_of == "crops"
    assert wiring["fuse"].after == "half"
    assert wiring["fuse"].needs == {"crops", "half"}


NETWORK = {"name": "net", "model": "-"}
WRONG: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([FAST, {**ACCURATE, "input": "carried"}], {}, r"stage 'accurate' sees carried tensors: it needs reads = "),
    ([FAST, {"name": "b", "input": "carried", "reads": ["fast.features"]}], {},
     r"stage 'b' reads 'fast.features', which no earlier stage emits; there are \['fast.labels', .*"),
    ([FAST, {"name": "b", "input": "frame", "reads": ["fast.labels"]}], {}, r"stage 'b' sees whole frames: no reads"),
    ([{**FAST, "emit": ["labels"]}, ACCURATE], {}, r"'accurate' selects by the scores of 'fast', which emits none"),
    ([{**FAST, "emit": ["labels", "scores"]}], {}, r"scores and order belong together, found emit = "),
    ([{**FAST, "emit": ["labels", "labels"]}], {}, r"emit names one twice"),
    ([{**FAST, "emit": ["features"]}], {}, r"no stage emits labels"),
    ([{**FAST, "emit": ["features"]}, ACCURATE], {}, r"'accurate' refines blocks: it needs a stage before it"),
    ([FAST, {**ACCURATE, "after": "slow"}], {}, r"stage 'accurate': after = \"slow\" is no earlier stage, of"),
    ([{**FAST, "emit": ["features"]}, {"name": "b", "after": "fast", "input": "frame"}], {}, r"emits no labels"),
    ([FAST, {**ACCURATE, "speculate": True}], {}, r"stage 'accurate': speculate is for a select before a stage"),
    ([FAST, {"name": "b", "input": "frame", "speculate": True}], {}, r"stage 'b': speculate is for a select"),
    ([{**FAST, "score": "confidence"}, ACCURATE], {}, r"'accurate' refines blocks: 'fast' scores the frame as a whole"),
    ([FAST, {**ACCURATE, "reads": ["fast.labels"]}], {}, r"'accurate' reads 'fast.labels': networks read float32 maps"),
    ([FAST, {**ACCURATE, "emit": ["level"]},
      {"name": "b", "input": "carried", "reads": ["accurate.level"], "select": POLICY}], {},
     r"stage 'b' reads rows of 'accurate', whose decision is its own too: no select"),
    ([{**FAST, "score": "triangular"}], {}, r"stage 'fast': score = \"triangular\" is for two classes, found 11"),
    ([{**FAST, "emit": ["labels", "scores", "order", "features"]}, {**ACCURATE, "halo": 4, "reads": ["fast.features"]}],
     {}, r"stage 'accurate': halo = 4 and reads: what is read lies under the block alone"),
    ([{**FAST, "emit": ["labels", "logits_2"]}], {}, r"emit = \"logits_2\" is a name that graphs use inside"),
    ([FAST, {**ACCURATE, "score": "learned"}], {}, r"stage 'accurate' refines blocks: score = \"learned\" is of"),
    ([{**FAST, "score": {"measure": "entropy", "pixel": 0.5}}], {}, r"pixel belongs to measure = \"confidence\""),
    ([{**FAST, "score": "doubt"}], {}, r"stages\[0\].score.measure: found 'doubt'"),
    ([{**FAST, "model": None}], {}, r"stage 'fast' needs a model or a network .*, found neither"),
    ([{**FAST, "network": "net", "model": "-"}], {"networks": [NETWORK]}, r"stage 'fast' needs a model .*, found both"),
    ([{**FAST, "network": "nit"}], {"networks": [NETWORK]}, r"network = \"nit\" is none of \[\[networks\]\] \['net'\]"),
    ([{**FAST, "network": "net", "args": {"a": 1}}], {"networks": [NETWORK]}, r"args and weights belong to"),
    ([{**FAST, "part": "head"}], {}, r"stage 'fast': part = \"head\" needs network = ..."),
    ([FAST], {"networks": [NETWORK]}, r"no stage uses network 'net': remove it"),
    ([{**FAST, "network": "net"}], {"networks": [NETWORK, NETWORK]}, r"networks need distinct names"),
]  # fmt: skip


@pytest.mark.parametrize(("stages", "fields", "message"), WRONG, ids=[message[:50] for *_, message in WRONG])
def test_stages_that_do_not_fit_are_refused(stages: list[dict[str, Any]], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        spec(*stages, **fields)
    assert "\n" not in str(caught.value)
