"""Crops and pastes against brute force: halo, ownership, averaging, cameras."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.export.blocks import AveragePaste, Crop, OwnerPaste
from cascadert.export.glue import ToRgb, whole_frame
from cascadert.geometry import Grid
from cascadert.pixels import planes_from_rgb

CAMERAS = 2
OVERLAPPING = Grid(23, 31, (10, 12), (7, 8))
GRIDS = (OVERLAPPING, Grid(24, 36, (8, 12), (8, 12)), Grid(25, 25, (10, 10), (10, 10)), Grid(9, 7, (9, 7), (9, 7)))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    block = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    size = tuple(draw(st.integers(side, 27)) for side in block)
    stride = tuple(draw(st.integers(1, side)) for side in block)
    return Grid(*size, block, stride)


@st.composite
def choices(draw: st.DrawFn) -> tuple[Grid, torch.Tensor]:
    """A grid, and a choice of blocks of two cameras in any order, at least one."""
    grid = draw(grids())
    order = draw(st.permutations(range(CAMERAS * grid.size)))
    return grid, torch.tensor(order[: draw(st.integers(1, len(order)))], dtype=torch.int32)


def _random(*shape: int, high: int = 256) -> torch.Tensor:
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


@settings(max_examples=60, deadline=None)
@given(choices(), st.integers(0, 5))
def test_crop_equals_a_frame_padded_by_its_edge(choice: tuple[Grid, torch.Tensor], halo: int) -> None:
    grid, indices = choice
    plane = _random(CAMERAS, grid.height, grid.width, 3)
    found = Crop(grid, CAMERAS, halo)(plane, indices).numpy()
    padded = np.pad(plane.numpy(), ((0, 0), (halo, halo), (halo, halo), (0, 0)), mode="edge")
    for patch, index in zip(found, indices.tolist(), strict=True):
        camera, block = divmod(index, grid.size)
        top, left, bottom, right = grid.box(block)
        assert np.array_equal(patch, padded[camera, top : bottom + 2 * halo, left : right + 2 * halo])


@settings(max_examples=60, deadline=None)
@given(choices())
def test_owner_paste_equals_brute_force(choice: tuple[Grid, torch.Tensor]) -> None:
    grid, indices = choice
    labels = _random(CAMERAS, grid.height, grid.width)
    refined = _random(len(indices), *grid.block)
    by_hand = labels.clone()
    for values, index in zip(refined, indices.tolist(), strict=True):
        camera, block = divmod(index, grid.size)
        (top, left, bottom, right), (y, x, _, _) = grid.owned_box(block), grid.box(block)
        by_hand[camera, top:bottom, left:right] = values[top - y : bottom - y, left - x : right - x]
    before = labels.clone()
    assert torch.equal(OwnerPaste(grid, CAMERAS)(labels, indices, refined), by_hand)
    assert torch.equal(labels, before)


@settings(max_examples=60, deadline=None)
@given(choices(), st.integers(0, 3))
def test_crop_then_paste_is_the_identity(choice: tuple[Grid, torch.Tensor], halo: int) -> None:
    grid, indices = choice
    frame = _random(CAMERAS, grid.height, grid.width)
    patches = Crop(grid, CAMERAS, halo)(frame[..., None], indices)[..., 0]
    inside = patches[:, halo : halo + grid.block[0], halo : halo + grid.block[1]]
    paste = OwnerPaste(grid, CAMERAS)
    assert torch.equal(paste(frame, indices, inside), frame)
    everything = torch.arange(CAMERAS * grid.size, dtype=torch.int32)
    blocks = Crop(grid, CAMERAS, 0)(frame[..., None], everything)[..., 0]
    assert torch.equal(paste(torch.full_like(frame, 255), everything, blocks), frame)


@settings(max_examples=40, deadline=None)
@given(choices())
def test_no_index_is_written_twice(choice: tuple[Grid, torch.Tensor]) -> None:
    grid, indices = choice
    written: list[torch.Tensor] = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.index_put:
                written.append(args[1][0].as_subclass(torch.Tensor))
            return super().__torch_function__(function, types, args, kwargs or {})

    labels = _random(CAMERAS, grid.height, grid.width).as_subclass(Watched)
    OwnerPaste(grid, CAMERAS)(labels, indices, _random(len(indices), *grid.block))
    (targets,) = written
    assert targets.numel() == len(indices) * grid.block[0] * grid.block[1]
    assert targets.unique().numel() == targets.numel()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_order_of_indices_does_not_matter(grid: Grid) -> None:
    total = CAMERAS * grid.size
    labels, refined = _random(CAMERAS, grid.height, grid.width), _random(total, *grid.block)
    scores = torch.rand(total, 3, *grid.block, generator=torch.Generator().manual_seed(1))
    forward = torch.arange(total, dtype=torch.int32)
    for seed in range(3):
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        owner, average = OwnerPaste(grid, CAMERAS), AveragePaste(grid, CAMERAS)
        shuffled = order.to(torch.int32)
        assert torch.equal(owner(labels, shuffled, refined[order]), owner(labels, forward, refined))
        assert torch.equal(average(labels, shuffled, scores[order]), average(labels, forward, scores))


@settings(max_examples=40, deadline=None)
@given(choices(), st.integers(2, 5))
def test_average_equals_sums_and_counts_by_hand(choice: tuple[Grid, torch.Tensor], classes: int) -> None:
    grid, indices = choice
    generator = torch.Generator().manual_seed(classes)
    probabilities = torch.randn(len(indices), classes, *grid.block, generator=generator).softmax(1)
    total = torch.zeros(CAMERAS, classes, grid.height, grid.width, dtype=torch.float64)
    count = torch.zeros(CAMERAS, grid.height, grid.width)
    for values, index in zip(probabilities, indices.tolist(), strict=True):
        camera, block = divmod(index, grid.size)
        top, left, bottom, right = grid.box(block)
        total[camera, :, top:bottom, left:right] += values
        count[camera, top:bottom, left:right] += 1
    paste = AveragePaste(grid, CAMERAS)
    sums, covered = paste.accumulate(indices, probabilities)
    sums = sums.reshape(CAMERAS, grid.height, grid.width, classes).permute(0, 3, 1, 2)
    assert torch.equal(covered, count > 0)
    assert torch.allclose(sums.double(), total, atol=1e-5)
    assert torch.allclose(sums.sum(1), count, atol=1e-5)  # probabilities sum to one: the count of covering blocks

    labels = torch.full((CAMERAS, grid.height, grid.width), 200, dtype=torch.uint8)
    merged = paste(labels, indices, probabilities)
    best = total.topk(2, dim=1).values
    clear = (best[:, 0] - best[:, 1]) > 1e-5
    assert torch.equal(merged[count == 0], labels[count == 0])
    assert torch.equal(merged[clear & (count > 0)].long(), total.argmax(1)[clear & (count > 0)])


@pytest.mark.parametrize("grid", GRIDS)
def test_blocks_of_constant_probability_stay_constant(grid: Grid) -> None:
    probability = torch.tensor([0.1, 0.2, 0.6, 0.1])
    indices = torch.arange(0, CAMERAS * grid.size, 2, dtype=torch.int32)
    constant = probability.view(1, 4, 1, 1).expand(len(indices), 4, *grid.block)
    paste = AveragePaste(grid, CAMERAS)
    sums, covered = paste.accumulate(indices, constant)
    sums = sums.reshape(*covered.shape, 4)[covered]
    assert torch.allclose(sums / sums.sum(1, keepdim=True), probability, atol=1e-6)
    labels = torch.full((CAMERAS, grid.height, grid.width), 9, dtype=torch.uint8)
    assert torch.equal(paste(labels, indices, constant), torch.where(covered, 2, labels))


@pytest.mark.parametrize("grid", GRIDS)
def test_two_cameras_equal_two_times_one_bit_for_bit(grid: Grid) -> None:
    frames, labels = _random(2, grid.height, grid.width, 3), _random(2, grid.height, grid.width)
    indices = torch.arange(grid.size, dtype=torch.int32).flip(0)
    both = torch.stack([indices, indices + grid.size], dim=1).reshape(-1)  # the cameras' blocks interleaved
    probabilities = torch.rand(len(both), 3, *grid.block, generator=torch.Generator().manual_seed(0))
    crops = Crop(grid, 2, 4)(frames, both)
    averaged = AveragePaste(grid, 2)(labels, both, probabilities)
    refined = probabilities.argmax(1).to(torch.uint8)
    owned = OwnerPaste(grid, 2)(labels, both, refined)
    for camera in range(2):
        mine = slice(camera, None, 2)
        one = slice(camera, camera + 1)
        assert torch.equal(crops[mine], Crop(grid, 1, 4)(frames[one], indices))
        assert torch.equal(averaged[one], AveragePaste(grid, 1)(labels[one], indices, probabilities[mine]))
        assert torch.equal(owned[one], OwnerPaste(grid, 1)(labels[one], indices, refined[mine]))


@pytest.mark.parametrize("grid", [Grid(24, 36, (10, 12), (7, 9)), Grid(24, 36, (7, 9), (7, 9))])
@pytest.mark.parametrize("halo", [0, 1, 3])
def test_crops_of_nv12_are_crops_of_the_converted_frame(grid: Grid, halo: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, grid.height, grid.width, 3), dtype=np.uint8)
    planes = tuple(torch.from_numpy(plane) for plane in planes_from_rgb(rgb, "nv12").values())
    indices = torch.arange(2 * grid.size, dtype=torch.int32)
    luma, chroma = (Crop(grid, 2, halo, step)(plane, indices) for step, plane in zip((1, 2), planes, strict=True))
    to_rgb = ToRgb("nv12")
    whole = Crop(grid, 2, halo)(whole_frame(planes), indices)
    assert torch.equal(torch.cat([luma, chroma], dim=3), whole)
    converted = np.pad(to_rgb(whole_frame(planes)).numpy(), ((0, 0), (0, 0), (halo, halo), (halo, halo)), "edge")
    for patch, index in zip(to_rgb(whole).numpy(), indices.tolist(), strict=True):
        camera, block = divmod(index, grid.size)
        top, left, bottom, right = grid.box(block)
        wanted = converted[camera, :, top : bottom + 2 * halo, left : right + 2 * halo]
        np.testing.assert_allclose(patch, wanted, atol=1e-5)
