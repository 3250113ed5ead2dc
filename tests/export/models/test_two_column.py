"""Two-column networks: shapes, fast against classic inference, fusions and what the arguments do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cascadert.errors import NetworkError
from cascadert.export.macs import count_parameters
from cascadert.export.models import dense_columns, two_column
from cascadert.export.models.two_column import MODEL_A
from tests.export.models.two_column_chain import TINY, chained, tiny

FRAME, GRID = (1, 3, 128, 256), (4, 8)


def image(cameras: int = 1) -> torch.Tensor:
    return torch.randn(cameras, *FRAME[1:], generator=torch.Generator().manual_seed(3))


def mask_of(chosen: list[int], cameras: int = 1) -> torch.Tensor:
    mask = torch.zeros(cameras * GRID[0] * GRID[1])
    mask[chosen] = 1
    return mask.reshape(cameras, 1, *GRID)


def halved(frames: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(frames, scale_factor=0.5, mode="bilinear")


def enlarged(maps: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(maps, scale_factor=2, mode="bilinear")


@pytest.fixture(scope="module")
def network():
    return tiny()


def test_half_column_of_model_a_has_the_published_shapes() -> None:
    with torch.device("meta"):
        outputs = two_column(19).half_column(torch.empty(1, 3, 512, 1024))
    assert {name: tuple(tensor.shape) for name, tensor in outputs.items()} == {
        "logits": (1, 19, 128, 256),
        "score": (1, 1, 4, 8),
        "weight": (1, 1, 128, 256),
        "cross32": (1, 128, 32, 64),
        "cross16": (1, 64, 64, 128),
        "cross8": (1, 32, 128, 256),
    }


def test_model_a_hands_over_the_levels_it_has() -> None:
    with torch.device("meta"):
        network, early = two_column(19), two_column(19, in_column="crops")
        regions = torch.empty(8, 3, 256, 256)
        levels, reduced = network.crops(regions), early.crops(regions)
    sizes = {"level2": (64, 64), "level3": (32, 32), "level4": (16, 16)}
    for name, channels, fewer in (("level2", 256, 32), ("level3", 512, 64), ("level4", 1024, 128)):
        assert levels[name].shape == (8, channels, *sizes[name])
        assert reduced[name].shape == (8, fewer, *sizes[name])
    assert levels.keys() == reduced.keys() == sizes.keys()
    assert network.fuse.reads == ("level2", "level3", "level4", "logits", "weight", "cross32", "cross16", "cross8")


@pytest.mark.parametrize(("score_map", "region"), [("decoder", 32), ("decoder", 64), ("level5", 64)])
def test_every_region_has_a_score(score_map: str, region: int) -> None:
    network = tiny(score_map=score_map, region=region)
    with torch.no_grad():
        score = network.half_column(torch.randn(2, 3, 64, 128))["score"]
    assert score.shape == (2, 1, 128 // region, 256 // region)
    stride = 64 if score_map == "level5" else 8
    assert network.half_column.sparse.kernel_size == network.half_column.sparse.stride == (region // stride,) * 2


def test_tiny_form_is_tiny() -> None:
    assert count_parameters(two_column(11, **TINY)) < 500_000


@settings(max_examples=12, deadline=None)
@given(chosen=st.lists(st.integers(0, 31), min_size=1, max_size=32, unique=True))
def test_fast_inference_equals_classic_inference(network, chosen) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            chained(network, image(), chosen), network(image(), mask_of(chosen)), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cross_column": False},
        {"decoder": "basic"},
        {"decoder": "basic", "cross_column": False},
        {"units": "1-1-1-0-1-1-1-1"},
        {"units": "1-1-1-0-1-1-1-1", "cross_column": False},
        {"units": "1-1-1-1-1-1-1-0", "in_column": "crops"},
        {"decoder": "basic", "in_column": "crops"},
        {"region": 64, "score_map": "level5"},
    ],
)
def test_the_quarter_with_the_highest_scores_equals_classic_inference(options) -> None:
    network = tiny(**options)
    with torch.no_grad():
        score = network.half_column(halved(image()))["score"]
        chosen = score.flatten().topk(score.numel() // 4).indices.tolist()
        mask = (score >= score.flatten()[chosen[-1]]).float()
        assert int(mask.sum()) == len(chosen)
        torch.testing.assert_close(chained(network, image(), chosen), network(image(), mask), rtol=1e-5, atol=1e-5)


def test_regions_of_several_cameras(network) -> None:
    chosen = [5, 31, 32, 40, 63]
    with torch.no_grad():
        classic = network(image(2), mask_of(chosen, cameras=2))
        torch.testing.assert_close(chained(network, image(2), chosen), classic, rtol=1e-5, atol=1e-5)


def test_only_what_was_computed_differs_from_the_half_column(network) -> None:
    chosen = [9, 10, 18]
    with torch.no_grad():
        coarse = enlarged(network.half_column(halved(image()))["logits"])
        none, some = network(image(), mask_of([])), network(image(), mask_of(chosen))
        every = network(image())
    differs = (some - coarse).abs().amax(1).reshape(4, 8, 8, 8).amax((1, 3))
    assert torch.equal(none, coarse)
    assert torch.equal(differs > 1e-3, mask_of(chosen)[0, 0] > 0)
    assert ((every - coarse).abs().amax(1).reshape(4, 8, 8, 8).amax((1, 3)) > 1e-3).all()


def test_all_regions_are_the_default(network) -> None:
    with torch.no_grad():
        assert torch.equal(network(image()), network(image(), torch.ones(1, 1, *GRID)))


def test_decoding_on_full_maps_reaches_across_the_borders_of_regions(network) -> None:
    with torch.no_grad():
        alone, beside = network(image(), mask_of([9])), network(image(), mask_of([9, 10]))
    differs = (alone - beside).abs().amax(1).reshape(4, 8, 8, 8).amax((1, 3))
    assert differs[1, 1] > 1e-4


@pytest.mark.parametrize(("decoder", "level5"), [("optimised", True), ("optimised", False), ("basic", True)])
def test_in_column_connections_may_run_on_regions(decoder: str, level5: bool) -> None:
    units = "1-1-1-1-1-1-1-1" if level5 else "1-1-1-0-1-1-1-1"
    on_frame, on_crops = (tiny(decoder=decoder, units=units, in_column=where) for where in ("frame", "crops"))
    state = {name.replace("fuse.in_column.", "crops.in_column."): t for name, t in on_frame.state_dict().items()}
    on_crops.load_state_dict(state)
    with torch.no_grad():
        wanted = chained(on_frame, image(), [3, 9, 17])
        torch.testing.assert_close(chained(on_crops, image(), [3, 9, 17]), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blocked", [False, True])
def test_gradients_into_cross_column_connections_can_be_blocked(blocked: bool) -> None:
    network = tiny(block_gradients=blocked)
    half = network.half_column(halved(image()))
    given = {name: tensor.requires_grad_() for name, tensor in half.items()}
    sizes = {"level2": (32, 32, 64), "level3": (64, 16, 32), "level4": (128, 8, 16), "level5": (256, 4, 8)}
    given |= {name: torch.randn(1, *size) for name, size in sizes.items()}
    network.fuse(*(given[name] for name in network.fuse.reads), torch.ones(1, 1, *GRID)).square().sum().backward()
    assert given["weight"].grad is not None
    assert [given[name].grad is None for name in ("cross32", "cross16", "cross8")] == [blocked] * 3


def weights_and_columns(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a dense network's weights, if it has any, and the logits of its columns at the size of its result."""
    seen: list[torch.Tensor] = []
    hook = network.attention.register_forward_hook(lambda *call: seen.append(call[2])) if network.attention else None
    with torch.no_grad():
        network(x)
        full, half = network.columns
        logits = full(x).logits, enlarged(half(halved(x)).logits)
    if hook:
        hook.remove()
    return seen[0].softmax(1) if seen else torch.ones(1, 2, 1, 1), *logits


def dense(fusing: str) -> nn.Module:
    torch.manual_seed(1)
    return dense_columns(5, units=TINY["units"], fusing=fusing, width=8).eval()


@pytest.mark.parametrize("fusing", ["sum", "attention", "coarse-to-fine"])
def test_dense_columns_are_a_weighted_sum(fusing: str) -> None:
    network, x = dense(fusing), torch.randn(2, 3, 64, 128)
    weights, full, half = weights_and_columns(network, x)
    with torch.no_grad():
        torch.testing.assert_close(network(x), weights[:, :1] * full + weights[:, 1:] * half)


def test_the_larger_of_dense_columns_counts() -> None:
    network, x = dense("max"), torch.randn(2, 3, 64, 128)
    _, full, half = weights_and_columns(network, x)
    with torch.no_grad():
        assert torch.equal(network(x), torch.maximum(full, half))


@pytest.mark.parametrize(("fusing", "depends"), [("attention", True), ("coarse-to-fine", False)])
def test_weights_from_coarse_to_fine_need_no_full_resolution_column(fusing: str, depends: bool) -> None:
    network, x = dense(fusing), torch.randn(1, 3, 64, 128)
    before, *_ = weights_and_columns(network, x)
    with torch.no_grad():
        for parameter in network.columns[0].decoder.parameters():
            parameter.mul_(2)
    after, *_ = weights_and_columns(network, x)
    assert torch.equal(before, after) != depends


@pytest.mark.parametrize(("scales", "side"), [((1.0,), 32), ((1.0, 0.5, 0.25), 32), ((2.0, 1.0), 64)])
def test_the_finest_dense_column_gives_the_size(scales: tuple[float, ...], side: int) -> None:
    network = dense_columns(5, units="-".join(["1-1-1-1"] * len(scales)), scales=scales, width=8).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 128, 128)).shape == (1, 5, side, side)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_column_still_gives_a_quarter(output_stride: int) -> None:
    network = dense_columns(5, units="1-1-1-1", scales=(1.0,), output_stride=output_stride, width=8).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 96)).shape == (1, 5, 16, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "1-1-2-0"}, "are not 8 numbers"),
        ({"units": "1-1-2-x-1-2-4-1"}, "are not 8 numbers"),
        ({"units": "1-0-2-1-1-2-4-1"}, "keep one unit of each"),
        ({"region": 48}, "does not fit maps of stride 32"),
        ({"region": 96, "score_map": "level5"}, "does not fit maps of stride 64"),
        ({"units": "1-1-1-1-1-1-1-0", "score_map": "level5"}, "is absent"),
        ({"decoder": "optimized"}, "choose one of basic, optimised"),
        ({"in_column": "here"}, "choose one of frame, crops"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message) -> None:
    with pytest.raises(NetworkError, match=message):
        two_column(19, **{"units": MODEL_A, **options})


@pytest.mark.parametrize("options", [{"fusing": "mean"}, {"output_stride": 4}, {"decoder": "none"}, {"scales": [1.0]}])
def test_dense_columns_that_cannot_be_built_are_refused(options) -> None:
    with pytest.raises(NetworkError):
        dense_columns(19, **options)
