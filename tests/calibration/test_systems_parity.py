"""Parity of cascades that are more than a chain of blocks: exits, context, columns, an ensemble."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.calibration.parity import ParityOptions, ParityReport, check_parity
from cascadert.errors import ParityError
from cascadert.graph import Dialect
from tests.calibration.conftest import with_theta
from tests.calibration.test_parity import perturbed, rewritten

System = Callable[[str], Bundle]
Frames = list[dict[str, np.ndarray]]

PORTS = {
    "exits": [
        ("segment1", "features", "magnitude"),
        ("exit1", "labels", None),
        ("exit1", "scores", "share"),
        ("exit1", "order", None),
        ("segment2", "features", "magnitude"),
        ("exit2", "labels", None),
        ("end to end", "labels", None),
    ],
    "context": [
        ("low", "features", "magnitude"),
        ("low", "labels", None),
        ("low", "scores", "share"),
        ("low", "order", None),
        ("patches", "labels", None),
        ("end to end", "labels", None),
    ],
    "columns": [
        ("half", "z2", "magnitude"),
        ("half", "labels", None),
        ("half", "scores", "share"),
        ("half", "order", None),
        ("crops", "features", "magnitude"),
        ("fuse", "labels", None),
        ("end to end", "labels", None),
    ],
    "ensemble": [
        ("wide", "logits", "magnitude"),
        ("narrow", "logits", "magnitude"),
        ("reduce", "labels", None),
        ("reduce", "scores", "bits"),
        ("reduce", "order", None),
        ("reduce", "entropy", "bits"),
        ("reduce", "aleatoric", "magnitude"),
        ("accurate", "labels", None),
        ("end to end", "labels", None),
    ],
}


def parity(bundle: Bundle, frames: Frames, dialect: Dialect = "semantic") -> ParityReport:
    return check_parity(bundle, frames, ParityOptions(threads=1, dialect=dialect))


@pytest.mark.parametrize("dialect", ["semantic", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", list(PORTS))
def test_every_port_of_every_kind_is_compared(
    system: System, system_frames: Frames, kind: str, dialect: Dialect
) -> None:
    report = parity(system(kind), system_frames[3::4], dialect)
    report.check()
    found = {(row.stage, row.port): row.unit for row in report.rows}
    assert found == {(stage, port): unit for stage, port, unit in PORTS[kind]}
    assert list(report.selected) == [] if kind == "exits" else all(map(any, report.selected.values()))


@pytest.mark.parametrize(
    ("kind", "stage", "weight"),
    [
        ("exits", "segment1", "network.0.0.weight"),
        ("exits", "exit1", "network.1.weight"),
        ("exits", "segment2", "network.1.0.weight"),
        ("exits", "exit2", "network.1.weight"),
        ("context", "low", "network.body.0.weight"),
        ("context", "patches", "network.around.0.weight"),
        ("columns", "half", "network.judge.1.weight"),
        ("columns", "crops", "network.1.0.weight"),
        ("columns", "fuse", "network.head.weight"),
        ("ensemble", "narrow", "network.2.weight"),
        ("ensemble", "accurate", "network.2.weight"),
    ],
)
def test_the_stage_that_computes_something_else_is_blamed(
    system: System, system_frames: Frames, tmp_path: Path, kind: str, stage: str, weight: str
) -> None:
    bundle = system(kind)
    broken = perturbed(bundle.graphs[stage].onnx, weight, 1.3)
    report = parity(rewritten(bundle, tmp_path / "broken", lambda data: None, {stage: broken}), system_frames[3::4])
    assert not report.passed
    assert {row.stage for row in report.rows if not row.passed} - {"end to end"} == {stage}
    with pytest.raises(ParityError, match=rf"^parity of {stage}\.\w+: "):
        report.check()


def test_exits_and_frames_that_go_on_are_both_there(system: System, system_frames: Frames) -> None:
    report = parity(system("exits"), system_frames[3::4])
    report.check()
    assert 0 < report.ran["segment2"] < report.frames == 3
    (row,) = (row for row in report.rows if (row.stage, row.port) == ("exit2", "labels"))
    assert row.elements == report.ran["segment2"] * 64 * 96
    assert report.notes == ()


def test_an_exit_that_is_never_taken_is_said(system: System, system_frames: Frames, tmp_path: Path) -> None:
    report = parity(with_theta(system("exits"), tmp_path / "low", -1.0), system_frames[3::4])
    report.check()
    assert report.ran == {"segment2": 3}
    assert report.notes == ("no frame ended before 'segment2'",)


def test_a_segment_that_is_never_reached_is_vacuous(system: System, system_frames: Frames, tmp_path: Path) -> None:
    report = parity(with_theta(system("exits"), tmp_path / "high", 1.1), system_frames[3::4])
    assert all(row.passed for row in report.rows)
    assert report.vacuous == ("stage 'segment2' never ran", "stage 'exit2' never ran")
    with pytest.raises(
        ParityError, match=r"is vacuous: stage 'segment2' never ran; stage 'exit2' never ran; give other"
    ):
        report.check()


def test_a_stage_that_follows_is_skipped_with_the_one_it_follows(
    system: System, system_frames: Frames, tmp_path: Path
) -> None:
    report = parity(with_theta(system("columns"), tmp_path / "high", 1.1), system_frames[:1])
    assert report.vacuous == ("stage 'crops' refined no block", "stage 'fuse' never ran")
    assert next(row for row in report.rows if row.stage == "end to end").passed
