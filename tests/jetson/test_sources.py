from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascadert.errors import InvalidRequest, SourceError
from cascadert.jetson.images import natural_key
from cascadert.jetson.sources import Cameras, open_source
from cascadert.jetson.video import VideoWriter
from cascadert.spec import FrameSpec

FRAME = FrameSpec(height=40, width=56)


def names(source, frame=FRAME, **options):
    with open_source(source, frame, **options) as opened:
        return [picture.name for picture in opened]


def test_one_image(save_images):
    (path,) = save_images("a.png")
    with open_source(path, FRAME) as source:
        assert source.length == 1
        assert source.fps is None
        (frame,) = source
    assert frame.name == "a"
    assert frame.timestamp_s is None
    assert frame.rgb.shape == (40, 56, 3)
    assert (frame.rgb == 10).all()


def test_a_folder_is_read_in_natural_order(save_images):
    paths = save_images("f10.png", "f9.png", "f1.png", "e.png")
    assert names(paths[0].parent) == ["e", "f1", "f9", "f10"]


def test_natural_order_mixes_digits_and_letters():
    ordered = ["1", "2a", "10", "a", "a1b2", "a1b10", "b"]
    assert [p.name for p in sorted(map(Path, reversed(ordered)), key=natural_key)] == ordered


def test_jpg_and_jpeg_are_one_kind_and_case_does_not_matter(save_images):
    paths = save_images("a.jpg", "b.jpeg", "c.JPG")
    assert names(paths[0].parent) == ["a", "b", "c"]


def test_other_files_are_no_frames(save_images):
    folder = save_images("a.png")[0].parent
    (folder / "labels.json").write_text("{}")
    (folder / "sub").mkdir()
    assert names(folder) == ["a"]


def test_label_maps_beside_photographs_are_not_taken_for_frames(save_images):
    save_images("a_trainIds.png", grey=True)
    folder = save_images("a.jpg", "b.jpg")[0].parent
    with pytest.raises(SourceError, match=r"frames: mixes images of several kinds: 2 .jpg, 1 .png; .*--glob '\*.jpg'"):
        open_source(folder, FRAME)
    assert names(folder, pattern="*.jpg") == ["a", "b"]


def test_label_maps_of_the_same_suffix_are_found_by_their_pixels(save_images):
    save_images("a_labels.png", grey=True)
    folder = save_images("a.png")[0].parent
    with pytest.raises(
        SourceError, match=r"a_labels.png: is of one channel \(a label map\?\) while a.png is in colour"
    ):
        open_source(folder, FRAME)


def test_grey_images_alone_are_fine(save_images):
    (path,) = save_images("a.png", grey=True)
    with open_source(path, FRAME) as source:
        (frame,) = source
    assert frame.rgb.shape == (40, 56, 3)


def test_two_frames_of_one_name_are_refused(save_images):
    folder = save_images("a.jpg", "a.jpeg")[0].parent
    with pytest.raises(SourceError, match=r"a.jpe?g: and a.jpe?g would write outputs of one name"):
        open_source(folder, FRAME)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_damaged_images(save_images, suffix):
    (path,) = save_images(f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(SourceError, match=rf"a.{suffix}: .*; give"), open_source(path, FRAME) as source:
        list(source)


def test_text_that_calls_itself_an_image(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(SourceError, match=r"a.png: is not an image that Pillow knows; give another file"):
        open_source(tmp_path / "a.png", FRAME)


def test_sixteen_bit_images_are_not_squeezed_silently(tmp_path):
    Image.fromarray(np.full((40, 56), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SourceError, match=r"deep.png: has pixels of mode I;16; convert it to one of L, P, RGB, RGBA"):
        open_source(tmp_path / "deep.png", FRAME)


def test_images_are_turned_upright(tmp_path):
    image = Image.new("RGB", (40, 56))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "phone.jpg", exif=exif)
    with open_source(tmp_path / "phone.jpg", FRAME) as source:
        (frame,) = source
    assert frame.rgb.shape == (40, 56, 3)


def test_every_size_is_checked_before_the_first_frame(save_images):
    save_images("b.png", size=(41, 56))
    folder = save_images("a.png")[0].parent
    with pytest.raises(SourceError, match=r"b.png: is 56x41 pixels where the bundle takes 56x40"):
        open_source(folder, FRAME)


def test_other_sizes_are_fitted_where_the_bundle_says_so(save_images):
    save_images("b.png", size=(20, 28))
    folder = save_images("a.png")[0].parent
    with open_source(folder, FrameSpec(height=40, width=56, fit="resize")) as source:
        frames = list(source)
    assert [frame.rgb.shape for frame in frames] == [(40, 56, 3)] * 2
    assert frames[1].fit.invert(np.zeros((40, 56), np.uint8)).shape == (20, 28)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"x: does not exist; give an image, a folder of images or a video"),
        (lambda path: path.mkdir(), r"x: holds no image \(.*.png.*\); give a folder of images"),
        (lambda path: path.write_text("words"), r"x: cannot be read as a video: Invalid data found"),
        (lambda path: path.write_bytes(b""), r"x: cannot be read as a video"),
    ],
    ids=["missing", "empty folder", "text", "empty file"],
)
def test_what_is_no_source(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x", FRAME)


def test_a_pattern_that_matches_nothing(save_images):
    folder = save_images("a.png")[0].parent
    with pytest.raises(SourceError, match=r"holds no image .* that matches --glob \*.jpg"):
        open_source(folder, FRAME, pattern="*.jpg")


def test_a_pattern_that_is_none(save_images):
    folder = save_images("a.png")[0].parent
    with pytest.raises(SourceError, match=r"frames: /abs: .*give a folder and a relative pattern"):
        open_source(folder, FRAME, pattern="/abs")


def test_a_pattern_for_a_file(save_images):
    (path,) = save_images("a.png")
    with pytest.raises(SourceError, match=r"a.png: is a file, so --glob \*.png picks nothing; leave --glob out"):
        open_source(path, FRAME, pattern="*.png")


class TestVideo:
    def test_frames_times_and_names(self, save_video):
        path = save_video("clip.mp4")
        with open_source(path, FRAME) as source:
            assert source.length == 5
            assert source.fps == pytest.approx(12.5)
            frames = list(source)
        assert [frame.name for frame in frames] == [f"clip_{index:06d}" for index in range(5)]
        assert [frame.timestamp_s for frame in frames] == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
        assert [int(frame.rgb.mean().round()) for frame in frames] == pytest.approx([20, 40, 60, 80, 100], abs=2)

    def test_some_frames(self, save_video):
        with open_source(save_video("clip.mp4", frames=5), FRAME) as source:
            assert [frame.name for frame in source.at([1, 3])] == ["clip_000001", "clip_000003"]

    def test_another_size(self, save_video):
        with pytest.raises(SourceError, match=r"clip.mp4: is 64x48 pixels where the bundle takes 56x40"):
            open_source(save_video("clip.mp4", size=(48, 64)), FRAME)

    def test_a_file_without_its_end(self, save_video):
        path = save_video("clip.mp4")
        path.write_bytes(path.read_bytes()[:400])
        with pytest.raises(SourceError, match=r"clip.mp4: cannot be read as a video: .*intact video"):
            open_source(path, FRAME)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("clip.mp4", r"clip.mp4: breaks off near frame \d: Invalid data.*; give an intact video"),
            ("clip.mkv", r"clip.mkv: ends after \d+ frames where its header says 12; give an intact video"),
        ],
    )
    def test_damage_inside(self, tmp_path, name, message):
        writer, noise = VideoWriter(tmp_path / name, 10), np.random.default_rng(0)
        for _ in range(12):
            writer.write(noise.integers(0, 256, (40, 56, 3), np.uint8))
        writer.close()
        with open_source(tmp_path / name, FRAME) as source:
            assert len(list(source)) == 12
        content = bytearray((tmp_path / name).read_bytes())
        middle = len(content) // 3
        content[middle : middle + 3000] = bytes(3000)
        (tmp_path / name).write_bytes(bytes(content))
        with open_source(tmp_path / name, FRAME) as source, pytest.raises(SourceError, match=message):
            list(source)

    def test_sound_alone(self, tmp_path):
        import av

        with av.open(str(tmp_path / "sound.wav"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
        with pytest.raises(SourceError, match=r"sound.wav: holds no video stream"):
            open_source(tmp_path / "sound.wav", FRAME)

    def test_a_gif_is_a_video(self, tmp_path):
        frames = [Image.new("RGB", (56, 40), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
        assert names(tmp_path / "a.gif") == ["a_000000", "a_000001"]


class TestCameras:
    FRAME = FrameSpec(height=40, width=56, cameras=2, pixel_format="bgr8")

    def test_frames_in_step(self, save_images):
        left = save_images("a.png", "b.png", folder="left")[0].parent
        right = save_images("c.png", "d.png", folder="right")[0].parent
        with Cameras([left, right], self.FRAME) as cameras:
            assert cameras.length == 2
            steps = list(cameras)
            assert cameras.planes(steps[1])["frame"].shape == (2, 40, 56, 3)
        assert [[frame.name for frame in step] for step in steps] == [["a", "c"], ["b", "d"]]

    def test_one_ends_first(self, save_images):
        left = save_images("a.png", "b.png", folder="left")[0].parent
        right = save_images("c.png", folder="right")[0].parent
        with Cameras([left, right], self.FRAME) as cameras, pytest.raises(SourceError, match=r"right: ends before the"):
            list(cameras)

    def test_some_frames_in_step(self, save_images):
        left = save_images("a.png", "b.png", "c.png", folder="left")[0].parent
        right = save_images("d.png", "e.png", "f.png", folder="right")[0].parent
        with Cameras([left, right], self.FRAME) as cameras:
            steps = list(cameras.at([0, 2]))
        assert [[frame.name for frame in step] for step in steps] == [["a", "d"], ["c", "f"]]

    def test_some_frames_of_sources_of_different_length(self, save_images):
        left = save_images("a.png", "b.png", folder="left")[0].parent
        right = save_images("c.png", folder="right")[0].parent
        with Cameras([left, right], self.FRAME) as cameras, pytest.raises(SourceError, match=r"right: ends before the"):
            cameras.at([0])

    def test_their_number(self, save_images):
        (path,) = save_images("a.png")
        with pytest.raises(InvalidRequest, match=r"sources: 1 given where the bundle takes 2 camera\(s\)"):
            Cameras([path], self.FRAME)

    def test_planes_have_the_bundles_pixel_format(self, tmp_path):
        Image.new("RGB", (56, 40), (1, 2, 3)).save(tmp_path / "a.png")
        frame = FrameSpec(height=40, width=56, pixel_format="bgr8")
        with Cameras([tmp_path / "a.png"], frame) as cameras:
            (step,) = cameras
            assert cameras.planes(step)["frame"][0, 0, 0].tolist() == [3, 2, 1]
