from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascadert.errors import InvalidRequest, SourceError
from cascadert.jetson.sinks import ImageFolder, open_overlay, write_atomically
from cascadert.jetson.video import VideoReader, VideoWriter

RED, BLUE = (220, 20, 60), (0, 0, 142)


def picture(colour=RED, size=(40, 56)):
    return np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()


def read_video(path: Path):
    reader = VideoReader(path)
    try:
        return [rgb for rgb, _ in reader], reader.fps
    finally:
        reader.close()


class TestVideo:
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
    def test_comes_back_as_it_was(self, tmp_path, suffix):
        with open_overlay(tmp_path / f"a.{suffix}", 12.5, None, replace=False) as sink:
            for colour in (RED, BLUE, RED):
                sink.write("x", picture(colour))
        frames, fps = read_video(tmp_path / f"a.{suffix}")
        assert fps == pytest.approx(12.5)
        assert len(frames) == 3
        for frame, colour in zip(frames, (RED, BLUE, RED), strict=True):
            np.testing.assert_allclose(frame.reshape(-1, 3).mean(0), colour, atol=4)
        assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]

    def test_odd_sizes_grow_by_one(self, tmp_path):
        with open_overlay(tmp_path / "a.mp4", None, None, replace=False) as sink:
            sink.write("x", picture(size=(41, 57)))
        (frame,), fps = read_video(tmp_path / "a.mp4")
        assert frame.shape == (42, 58, 3)
        assert fps == 10

    def test_another_encoder_where_the_first_is_missing(self, tmp_path):
        writer = VideoWriter(tmp_path / "a.mp4", 10, encoders=("no_such_encoder", "mpeg4"))
        writer.write(picture())
        writer.close()
        assert len(read_video(tmp_path / "a.mp4")[0]) == 1

    def test_no_encoder_at_all(self, tmp_path):
        writer = VideoWriter(tmp_path / "a.mp4", 10, encoders=("no_such_encoder",))
        with pytest.raises(
            SourceError, match=r"a.mp4: needs one of the encoders no_such_encoder, and this FFmpeg has none"
        ):
            writer.write(picture())
        writer.abandon()

    def test_a_run_that_fails_leaves_nothing(self, tmp_path):
        def fail():
            with open_overlay(tmp_path / "a.mp4", None, None, replace=False) as sink:
                sink.write("x", picture())
                raise RuntimeError("stage failed")

        with pytest.raises(RuntimeError, match="stage failed"):
            fail()
        assert not list(tmp_path.iterdir())

    def test_a_run_that_fails_keeps_the_older_video(self, tmp_path):
        (tmp_path / "a.mp4").write_text("older")

        def fail():
            with open_overlay(tmp_path / "a.mp4", None, None, replace=True) as sink:
                sink.write("x", picture())
                raise RuntimeError("stage failed")

        with pytest.raises(RuntimeError, match="stage failed"):
            fail()
        assert (tmp_path / "a.mp4").read_text() == "older"
        assert len(list(tmp_path.iterdir())) == 1


def test_gif(tmp_path):
    with open_overlay(tmp_path / "a.gif", 12.5, None, replace=False) as sink:
        sink.write("x", picture(RED))
        sink.write("y", picture(BLUE))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 2
        assert gif.info["duration"] == 80
        assert gif.info["loop"] == 0
        assert gif.convert("RGB").getpixel((3, 3)) == RED
        gif.seek(1)
        assert gif.convert("RGB").getpixel((3, 3)) == BLUE


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_one_picture(tmp_path, name):
    with open_overlay(tmp_path / name, None, 1, replace=False) as sink:
        sink.write("x", picture())
    with Image.open(tmp_path / name) as image:
        np.testing.assert_allclose(np.asarray(image).reshape(-1, 3).mean(0), RED, atol=3)


def test_one_picture_does_not_hold_two(tmp_path):
    message = r"a.png: holds one picture and the source has more; give a folder, an .mp4 or a .gif, or --limit 1"
    with pytest.raises(InvalidRequest, match=message):
        open_overlay(tmp_path / "a.png", None, 2, replace=False)
    with open_overlay(tmp_path / "a.png", 5, None, replace=False) as sink:
        sink.write("x", picture())
        with pytest.raises(InvalidRequest, match=message):
            sink.write("y", picture())


def test_a_folder_of_pictures(tmp_path):
    with open_overlay(tmp_path / "new" / "folder", None, 2, replace=False) as sink:
        sink.write("x", picture())
        sink.write("y", picture())
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["x.jpg", "y.jpg"]


def test_labels_are_kept_exactly(tmp_path):
    labels = np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8)
    with ImageFolder(tmp_path / "labels", ".png", replace=False) as sink:
        sink.write("x", labels)
    with Image.open(tmp_path / "labels" / "x.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_a_folder_in_use_needs_force_and_keeps_what_is_in_it(tmp_path):
    (tmp_path / "old.txt").write_text("mine")
    with pytest.raises(InvalidRequest, match=r"is not empty; choose another folder, or pass --force"):
        ImageFolder(tmp_path, ".png", replace=False)
    with ImageFolder(tmp_path, ".png", replace=True) as sink:
        sink.write("x", np.zeros((2, 2), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.txt", "x.png"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png"])
def test_a_file_in_the_way_needs_force(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidRequest, match=rf"{name}: exists already; .*--force"):
        open_overlay(tmp_path / name, None, 1, replace=False)
    with open_overlay(tmp_path / name, None, 1, replace=True) as sink:
        sink.write("x", picture())
    assert (tmp_path / name).read_bytes() != b"mine"


def test_an_unknown_suffix(tmp_path):
    with pytest.raises(InvalidRequest, match=r"a.avi: has the suffix .avi; choose one of .gif, .jpeg, .jpg, .mkv"):
        open_overlay(tmp_path / "a.avi", None, 1, replace=False)


def test_a_folder_where_a_file_was_meant_and_the_other_way_round(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "labels").write_text("")
    with pytest.raises(InvalidRequest, match=r"a.mp4: is a folder; give the name of a file"):
        open_overlay(tmp_path / "a.mp4", None, 1, replace=True)
    with pytest.raises(InvalidRequest, match=r"labels: is a file; give the name of a folder"):
        ImageFolder(tmp_path / "labels", ".png", replace=True)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "folder"])
def test_a_place_that_cannot_be_written_is_found_before_the_first_frame(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"file.*: cannot be written: .*; choose another output"):
        open_overlay(tmp_path / "file" / name, None, 1, replace=False)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SourceError, match=r"a.json: cannot be written: No space left on device"):
        write_atomically(tmp_path / "a.json", fail)
    assert not list(tmp_path.iterdir())
