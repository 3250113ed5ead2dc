"""The page: everything inside one file, every row and failure named, and pictures that show what they say."""

import dataclasses
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.calibration.exhibits import Exhibit, Exhibits, rgb_from_planes
from cascadert.calibration.page import Origin, check_page
from cascadert.calibration.pictures import BETTER, GAINED, LOST, OTHER, WORSE, draw_difference, draw_selection
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions
from cascadert.calibration.precision_report import PrecisionReport, ScoreError
from cascadert.calibration.report import write_page
from cascadert.calibration.stage_runs import CascadeTrace
from cascadert.errors import MissingExtra, SourceError
from cascadert.geometry import Grid
from cascadert.pixels import planes_from_rgb
from cascadert.spec import CascadeSpec, PixelFormat, parse_spec

ORIGIN = Origin("toy", "2 <streets>", "cascadert parity toy", {"cascadert": "1.2.3", "onnx": "4.5"}, "a machine")


class Page(HTMLParser):
    """Which tags a page has, what its pictures are, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(toy_bundle: Bundle, toy_frames: np.ndarray) -> PrecisionReport:
    frames = [{"frame": frame[None]} for frame in toy_frames[:2]]
    truths = [(frame[None, ..., 0] // 64).astype(np.uint8) for frame in toy_frames[:2]]
    return compare_precisions(toy_bundle, frames, PrecisionOptions(threads=1), truths)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[PrecisionReport], str]:
    def write(report: PrecisionReport) -> str:
        write_page(tmp_path / "page.html", report, ORIGIN)
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return write


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


class TestPage:
    def test_one_file_with_everything(self, report: PrecisionReport, write: Callable[[PrecisionReport], str]) -> None:
        content = write(report)
        page, text = Page(content), text_of(content)
        assert page.open == []
        assert len(page.sources) == 3 + 2 * len(report.exhibits)  # noise, scores, classes; two pictures a frame
        assert all(source.startswith("data:image/") for source in page.sources)
        for row in report.rows:
            assert row.quality is not None
            assert f"{row.name} {'reference' if row.name == 'fp32' else 'pass'}" in text
            assert f"{100 * row.quality.miou:.2f}" in text
        assert "Passed: every number is within its limit" in text
        assert "FAIL" not in text
        assert text.count("at most 0.02 bits pass") == 2
        assert "cascadert 1.2.3, onnx 4.5" in text
        assert "2 &lt;streets&gt;" in content

    def test_what_failed_comes_first(self, report: PrecisionReport, write: Callable[[PrecisionReport], str]) -> None:
        fp32, torch, fp16 = report.rows
        noisy = dataclasses.replace(
            fp16, score_errors={"fast": ScoreError(0.25, 0.5, "bits")}, sqnr_db={"fast": 3.0, "accurate": 60.0}
        )
        text = text_of(write(dataclasses.replace(report, rows=(fp32, torch, noisy))))
        assert "Failed: 2 of 10 numbers beyond their limit" in text
        assert "fp16: SQNR of fast is 3.0 dB, allowed at least 25 dB fp16: score error of fast is 0.2500 bits" in text
        assert text.index("fp16: SQNR of fast") < text.index("The same 2 frames through 3 ways")
        assert "fp16 FAIL" in text
        assert "torch pass" in text

    def test_without_labels_and_with_notes(
        self, report: PrecisionReport, write: Callable[[PrecisionReport], str]
    ) -> None:
        rows = tuple(dataclasses.replace(row, quality=None) for row in report.rows)
        unlabelled = dataclasses.replace(report, rows=rows, notes=("PyTorch is <gone>",), vacuous=("one class",))
        content = write(unlabelled)
        text = text_of(content)
        assert "mIoU" not in text
        assert "PAvPU" not in text
        assert "PyTorch is &lt;gone&gt;" in content
        assert "Failed: the comparison shows nothing (one class)" in text

    def test_several_decisions(self, chain_bundle: Bundle, write: Callable[[PrecisionReport], str]) -> None:
        options = PrecisionOptions(torch=False, threads=1, frames=1)
        text = text_of(write(compare_precisions(chain_bundle, options=options)))
        assert "decision before middle" in text
        assert "decision before accurate" in text

    def test_no_folder(self, report: PrecisionReport, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SourceError, match=r"page\.html: cannot be written \(Not a directory\)"):
            write_page(tmp_path / "file" / "below" / "page.html", report, ORIGIN)

    def test_without_the_extra(self, report: PrecisionReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
        with pytest.raises(MissingExtra, match=r'pip install "cascadert\[report\]"'):
            write_page(tmp_path / "page.html", report, ORIGIN)


GRID = Grid(40, 60, (20, 20), (20, 20))


def exhibit(**changes: Any) -> Exhibit:
    black, labels = np.zeros((1, 40, 60, 3), np.uint8), np.zeros((1, 40, 60), np.uint8)
    plain = Exhibit("fp16", 1, black, labels, labels, None, (), (), ())
    return dataclasses.replace(plain, **changes)


class TestPictures:
    def test_flips_are_outlined_where_they_are(self) -> None:
        picture = draw_selection(exhibit(lost=(1,), gained=(5,)), GRID)
        assert picture.shape == (480, 720, 3)
        places = {colour: np.argwhere((picture == colour).all(axis=-1)) for colour in (LOST, GAINED, (255, 255, 255))}
        assert [*places[LOST].min(axis=0), *places[LOST].max(axis=0)] == [2, 242, 237, 477]
        assert [*places[GAINED].min(axis=0), *places[GAINED].max(axis=0)] == [242, 482, 477, 717]
        assert not len(places[255, 255, 255])

    def test_blocks_of_the_second_camera(self) -> None:
        two = exhibit(image=np.zeros((2, 40, 60, 3), np.uint8), lost=(6,))
        picture = draw_selection(two, GRID)
        assert picture.shape == (960, 720, 3)
        assert np.argwhere((picture == LOST).all(axis=-1)).min(axis=0).tolist() == [482, 2]

    def test_differences_by_who_is_right(self) -> None:
        labels, truth = np.zeros((1, 40, 60), np.uint8), np.zeros((1, 40, 60), np.uint8)
        labels[0, 10:40, :30] = 1
        truth[0, 20:30, :30], truth[0, 30:40, :30] = 1, 255
        known = draw_difference(exhibit(labels=labels, truth=truth))
        middles = [tuple(known[12 * y + 6, 100].tolist()) for y in (15, 25, 35)]
        assert middles == [WORSE, BETTER, OTHER]
        assert tuple(draw_difference(exhibit(labels=labels))[12 * 15, 100].tolist()) == OTHER
        assert len(np.unique(known[:, 400].reshape(-1, 3), axis=0)) == 1  # nothing differs there

    @pytest.mark.parametrize("pixel_format", ["rgb8", "bgr8", "rgba8"])
    def test_planes_become_pictures_again(self, pixel_format: PixelFormat, toy_frames: np.ndarray) -> None:
        planes = planes_from_rgb(toy_frames[:2], pixel_format)
        np.testing.assert_array_equal(rgb_from_planes(planes, pixel_format), toy_frames[:2])

    def test_nv12_is_shown_in_grey(self, toy_frames: np.ndarray) -> None:
        grey = rgb_from_planes(planes_from_rgb(toy_frames[:1], "nv12"), "nv12")
        assert grey.shape == toy_frames[:1].shape
        assert (grey[..., :1] == grey).all()


class TestExhibits:
    @pytest.fixture
    def spec(self, toy_data: dict[str, Any]) -> CascadeSpec:
        return parse_spec(toy_data, "toy")

    def test_only_the_worst_are_kept(self, spec: CascadeSpec) -> None:
        def trace(blocks: list[int], label: int) -> CascadeTrace:
            labels = np.zeros((1, 40, 56), np.uint8)
            labels[0, :label] = 1
            return CascadeTrace({}, {"accurate": np.array(blocks, np.int32)}, labels)

        exhibits, planes = Exhibits(spec, most=2), {"frame": np.zeros((1, 40, 56, 3), np.uint8)}
        for frame, found in enumerate([([1, 2], 0), ([1, 2], 9), ([1], 3), ([1, 4], 0), ([1, 2], 5)]):
            exhibits.show("fp16", frame, planes, trace([1, 2], 0), trace(*found), None)
        worst, second = exhibits.kept()
        assert (worst.frame, worst.kept, worst.lost, worst.gained) == (3, (1,), (2,), (4,))
        assert (second.frame, second.lost, second.differing) == (2, (2,), 3 / 40)

    def test_frames_that_are_alike_are_not_shown(self, spec: CascadeSpec) -> None:
        exhibits, same = Exhibits(spec, most=2), CascadeTrace({}, {}, np.zeros((1, 40, 56), np.uint8))
        exhibits.show("fp16", 0, {"frame": np.zeros((1, 40, 56, 3), np.uint8)}, same, same, None)
        assert exhibits.kept() == ()


def test_what_cannot_be_written_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "x", f"{tmp_path / 'file'} is no folder")):
        with pytest.raises(SourceError, match=rf"^{path}: cannot be written \({reason}\); choose another output$"):
            check_page(path)
    old = tmp_path / "old.html"
    old.write_text("old")
    check_page(old)
    check_page(tmp_path / "new" / "page.html")
    assert not (tmp_path / "new").exists(), "a check creates nothing"
    access = os.access  # root may write to files that nobody may write to
    monkeypatch.setattr(os, "access", lambda path, mode: path != old and access(path, mode))
    with pytest.raises(SourceError, match=r"old\.html: cannot be written \(no permission to replace it\)"):
        check_page(old)


def test_folders_that_lead_to_the_page_are_made(report: PrecisionReport, tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "deeper" / "page.html", report, ORIGIN)
    assert (tmp_path / "new" / "deeper" / "page.html").stat().st_size > 10_000
