"""The glue around a network: entropy in bits, block scores, the order of blocks, pixel formats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.export.glue import (
    BlockMeans,
    Normalise,
    Resample,
    ToRgb,
    as_class_logits,
    entropy_bits,
    labels_of,
    plane_shapes,
    resize,
    sort_blocks,
    whole_frame,
)
from cascadert.geometry import Grid
from cascadert.pixels import planes_from_rgb
from cascadert.spec import FrameSpec, PixelFormat, Preprocessing

FORMATS: tuple[PixelFormat, ...] = ("rgb8", "bgr8", "rgba8", "nv12")


def entropy_by_the_book(logits: np.ndarray) -> np.ndarray:
    """Paper 000, equation 1, in float64: z = softmax(y), H = -sum z log2 z."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    z = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return -(z * np.log2(np.where(z > 0, z, 1))).sum(axis=1)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("classes", [2, 11, 19, 255])
def test_entropy_equals_float64(classes: int, spread: float) -> None:
    logits = np.random.default_rng(0).normal(3, spread, (2, classes, 5, 7)).astype(np.float32)
    found = entropy_bits(torch.from_numpy(logits)).numpy()
    assert found.shape == (2, 5, 7)
    assert np.abs(found - entropy_by_the_book(logits)).max() < 1e-4


@pytest.mark.parametrize("classes", [2, 11, 19])
@pytest.mark.parametrize("level", [0.0, -300.0, 1e4])
def test_uniform_logits_have_log2_k_bits(classes: int, level: float) -> None:
    found = entropy_bits(torch.full((1, classes, 2, 2), level))
    assert torch.allclose(found, torch.tensor(math.log2(classes)), atol=1e-5)


@pytest.mark.parametrize("peak", [50.0, 1e3, 1e30, 3e38])
def test_certainty_has_no_bits_and_no_nan(peak: float) -> None:
    logits = torch.zeros(1, 19, 1, 1)
    logits[0, 4] = peak
    assert entropy_bits(logits).item() == pytest.approx(0, abs=1e-6)


@given(st.floats(-30, 30), st.floats(-1e3, 1e3))
def test_entropy_does_not_change_when_all_logits_shift(gap: float, shift: float) -> None:
    logits = torch.tensor([0.0, gap, -gap, 1.0]).view(1, 4, 1, 1)
    assert entropy_bits(logits + shift).item() == pytest.approx(entropy_bits(logits).item(), abs=2e-3)


def test_one_channel_is_a_binary_decision() -> None:
    y = torch.linspace(-8, 8, 33).view(1, 1, 3, 11)
    logits = as_class_logits(y)
    p = torch.sigmoid(y[:, 0].double())
    by_hand = -(p * p.log2() + (1 - p) * (1 - p).log2())
    assert logits.shape == (1, 2, 3, 11)
    assert torch.allclose(logits.softmax(1)[:, 1].double(), p, atol=1e-6)
    assert torch.allclose(entropy_bits(logits).double(), by_hand, atol=1e-5)
    assert torch.equal(labels_of(logits), (y[:, 0] > 0).to(torch.uint8))
    many = torch.randn(1, 3, 2, 2)
    assert as_class_logits(many) is many


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    block = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    size = tuple(draw(st.integers(side, 40)) for side in block)
    stride = tuple(draw(st.integers(1, side)) for side in block)
    return Grid(*size, block, stride)


@settings(max_examples=60, deadline=None)
@given(grids(), st.integers(1, 3))
def test_block_means_equal_brute_force(grid: Grid, cameras: int) -> None:
    values = torch.rand(cameras, grid.height, grid.width, generator=torch.Generator().manual_seed(0))
    found = BlockMeans(grid)(values)
    boxes = [grid.box(i) for i in range(grid.size)]
    by_hand = [values[n, t:b, a:c].double().mean() for n in range(cameras) for t, a, b, c in boxes]
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), torch.stack(by_hand), atol=1e-6)


def test_sorting_is_descending_and_ties_keep_the_order_of_blocks() -> None:
    scores, order = sort_blocks(torch.tensor([0.5, 2.0, 0.5, -math.inf, 2.0, -math.inf, 0.5]))
    assert order.dtype == torch.int32
    assert order.tolist() == [1, 4, 0, 2, 6, 3, 5]
    assert sort_blocks(torch.ones(1000))[1].tolist() == list(range(1000))
    assert scores.tolist() == [2.0, 2.0, 0.5, 0.5, 0.5, -math.inf, -math.inf]


def test_labels_take_the_lowest_class_on_ties() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [1.0, 1.0, 1.0]]).view(2, 3, 1, 1)
    assert labels_of(logits).tolist() == [[[1]], [[0]]]
    assert labels_of(logits).dtype == torch.uint8


def test_resize_takes_pixel_centres_at_half_integers() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4)
    assert resize(ramp, 1, 8).flatten().tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    assert resize(ramp, 1, 2).flatten().tolist() == [0.5, 2.5]
    assert resize(ramp, 1, 4) is ramp


@pytest.mark.parametrize("size", [(12, 20), (6, 10), (6, 20), (3, 5), (48, 80)])
def test_pictures_are_resampled_without_rounding_where_the_scale_is_a_power_of_two(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (2, 3, 12, 20), generator=generator).to(torch.float32)
    found = Resample((12, 20), size)(picture)
    wanted = torch.nn.functional.interpolate(picture.double(), size, mode="bilinear", align_corners=False)
    assert found.shape == (2, 3, *size)
    assert torch.equal(found.double(), wanted)


def _normalised(rgb: np.ndarray, pixel_format: PixelFormat) -> torch.Tensor:
    planes = tuple(torch.from_numpy(plane) for plane in planes_from_rgb(rgb, pixel_format).values())
    return Normalise(Preprocessing())(ToRgb(pixel_format)(whole_frame(planes)))


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_plane_shapes_are_those_of_the_host(pixel_format: PixelFormat) -> None:
    frame = FrameSpec(height=6, width=10, cameras=2, pixel_format=pixel_format)
    planes = planes_from_rgb(np.zeros((2, 6, 10, 3), np.uint8), pixel_format)
    assert {name: plane.shape for name, plane in planes.items()} == plane_shapes(frame)
    assert all(plane.dtype == np.uint8 and plane.flags.c_contiguous for plane in planes.values())


def test_pixel_formats_agree_on_the_same_picture() -> None:
    rng = np.random.default_rng(1)
    # NV12 has one chroma for 2x2 pixels: only a picture of such squares survives it.
    rgb = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2)
    wanted = (torch.from_numpy(rgb).permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / (
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    )
    for pixel_format in ("rgb8", "bgr8", "rgba8"):
        assert torch.allclose(_normalised(rgb, pixel_format), wanted, atol=1e-5), pixel_format
    # A chroma step is up to 2.03 levels of blue, and both planes are rounded by half a step.
    levels = (_normalised(rgb, "nv12") - wanted).abs() * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
    assert levels.max() < 0.5 * (1.164383 + 2.017232) + 1e-3


def test_nv12_beyond_the_gamut_is_clamped() -> None:
    corners = [(y, u, v) for y in (0, 16, 235, 255) for u in (0, 128, 255) for v in (0, 128, 255)]
    pixels = torch.tensor(corners, dtype=torch.uint8).view(1, 4, 9, 3)
    raw = ToRgb("nv12")(pixels)
    assert (raw.min().item(), raw.max().item()) == pytest.approx((0, 255), abs=1e-3)
    assert raw[0, :, 0, 4].tolist() == [0, 0, 0]  # y = 0 is blacker than black
    assert raw[0, :, 2, 4].tolist() == pytest.approx([255, 255, 255], abs=0.01)


def test_alpha_is_left_out() -> None:
    rgba = torch.randint(0, 256, (1, 3, 3, 4), dtype=torch.uint8)
    opaque = rgba.clone()
    opaque[..., 3] = 255
    to_rgb = ToRgb("rgba8")
    assert torch.equal(to_rgb(rgba), to_rgb(opaque))
