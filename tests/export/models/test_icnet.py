"""ICNet against the published network: weights, cost of each branch, grids, and the form in which its weights come."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cascadert.errors import NetworkError
from cascadert.export.exporter import export_graph
from cascadert.export.glue import Normalise
from cascadert.export.lowering import lower
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import icnet
from cascadert.export.models.icnet import ICNet, PyramidSum, pool_geometry
from cascadert.spec import Preprocessing

FULL = (1, 3, 1025, 2049)


@pytest.fixture(scope="module")
def public() -> ICNet:
    with torch.device("meta"):
        return icnet(19)


@pytest.fixture(scope="module")
def tiny() -> ICNet:
    torch.manual_seed(0)
    network = icnet(5, width=4).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def test_parameters_are_those_of_the_public_network(public: ICNet) -> None:
    convolutions = [module for module in public.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in public.modules() if isinstance(module, nn.BatchNorm2d)]
    weights = sum(convolution.weight.numel() for convolution in convolutions)
    biases = sum(convolution.out_channels for convolution in convolutions)
    assert weights == 6_671_424
    assert weights + biases == 6_685_715  # as published: with norms merged, each convolution has a bias
    # Unmerged, only the classifier has biases, and every norm two values per channel.
    assert count_parameters(public) == weights + 19 + 2 * sum(norm.num_features for norm in norms) == 6_699_987
    assert biases == 19 + sum(norm.num_features for norm in norms)


def test_costs_what_the_public_network_does(public: ICNet) -> None:
    fine = count_macs(public.fuse_sub12.fine, (1, 64, 129, 257))  # counted with the branch it belongs to
    sub1 = count_macs(public.sub1, FULL) + fine
    sub2 = count_macs(public.sub2, (1, 3, 513, 1025))
    sub4 = count_macs(public.sub4, (1, 256, 33, 65))
    total = count_macs(public, FULL)
    assert total == pytest.approx(29.81e9, rel=1e-3)
    assert sub1 == pytest.approx(2.55e9, rel=1e-3)
    assert sub2 == pytest.approx(6.48e9, rel=1e-3)
    assert sub4 == pytest.approx(12.82e9, rel=1e-3)
    assert total - sub1 - sub2 - sub4 == pytest.approx(7.96e9, rel=1e-3)


def test_maps_have_the_sizes_of_the_public_network(public: ICNet) -> None:
    sizes: dict[str, tuple[int, ...]] = {}
    watched = ("sub1", "sub2", "sub4", "fuse_sub24", "fuse_sub12", "classifier")
    hooks = [
        public.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: sizes.update({name: tuple(output.shape)})
        )
        for name in watched
    ]
    logits = public(torch.empty(FULL, device="meta"))
    for hook in hooks:
        hook.remove()
    assert [sizes[name] for name in watched] == [
        (1, 64, 129, 257),
        (1, 256, 65, 129),
        (1, 256, 33, 65),
        (1, 128, 65, 129),
        (1, 128, 129, 257),
        (1, 19, 257, 513),
    ]
    assert logits.shape == (1, 19, 1025, 2049)


def test_residual_branches_dilate_and_stride_where_the_public_network_does(public: ICNet) -> None:
    kernels = [m for m in [*public.sub2[1].modules(), *public.sub4.modules()] if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in kernels if m.kernel_size == (3, 3)] == [1] * 7 + [2] * 6 + [4] * 3
    strided = [m.kernel_size for m in kernels if m.stride == (2, 2)]
    assert strided == [(1, 1), (1, 1)]  # conv3_1: its reduction and its projection


def test_pools_are_the_published_ones_and_cover_any_map() -> None:
    published = {1: (33, 65), 2: (17, 33), 3: (13, 25), 6: (8, 15)}
    strides = {2: (16, 32), 3: (10, 20), 6: (5, 10)}
    for bins, kernels in published.items():
        found = pool_geometry(33, bins), pool_geometry(65, bins)
        assert tuple(kernel for kernel, _ in found) == kernels
        if bins > 1:
            assert tuple(stride for _, stride in found) == strides[bins]
        for length in range(7, 80):
            kernel, stride = pool_geometry(length, bins)
            assert (bins - 1) * stride + kernel == length
            assert 0 < stride <= kernel or bins == 1


def test_pyramid_adds_four_enlarged_means() -> None:
    x = torch.randn(2, 3, 33, 65)
    expected = x.clone()
    for kernel, stride in (((33, 65), 1), ((17, 33), (16, 32)), ((13, 25), (10, 20)), ((8, 15), (5, 10))):
        pooled = functional.avg_pool2d(x, kernel, stride)
        expected += functional.interpolate(pooled, size=(33, 65), mode="bilinear", align_corners=True)
    torch.testing.assert_close(PyramidSum()(x), expected)


def test_branches_fuse_from_the_coarsest_up(tiny: ICNet) -> None:
    def enlarge(x: Tensor, height: int, width: int) -> Tensor:
        return functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)

    def fuse(fusion: nn.Module, coarse: Tensor, fine: Tensor) -> Tensor:
        (kernel, coarse_norm), (pointwise, fine_norm) = fusion.coarse, fusion.fine
        dilated = functional.conv2d(coarse, kernel.weight, padding=2, dilation=2)
        return (coarse_norm(dilated) + fine_norm(functional.conv2d(fine, pointwise.weight))).relu()

    x = torch.randn(2, 3, 193, 257)
    with torch.no_grad():
        sub2 = tiny.sub2(x[:, :, ::2, ::2])  # 1/16: 13 x 17
        sub4 = tiny.sub4(sub2[:, :, ::2, ::2])  # 1/32: 7 x 9
        fused = fuse(tiny.fuse_sub24, enlarge(sub4, 13, 17), sub2)
        fused = fuse(tiny.fuse_sub12, enlarge(fused, 25, 33), tiny.sub1(x))
        expected = enlarge(tiny.classifier(enlarge(fused, 49, 65)), 193, 257)
        torch.testing.assert_close(tiny(x), expected)


def test_branches_see_what_bilinear_shrinking_with_aligned_corners_gives(tiny: ICNet) -> None:
    seen: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for m in (tiny.sub2, tiny.sub4)]
    x = torch.randn(1, 3, 257, 321)
    with torch.no_grad():
        tiny(x)
        half = tiny.sub2(seen[0])
    for hook in hooks:
        hook.remove()
    for got, source, size in ((seen[0], x, (129, 161)), (seen[1], half, (9, 11))):
        shrunk = functional.interpolate(source, size=size, mode="bilinear", align_corners=True)
        torch.testing.assert_close(got, shrunk, rtol=0, atol=2e-6)


def test_public_weights_see_bgr_through_flipped_kernels(tiny: ICNet) -> None:
    """As its docstring has it: the stage subtracts the mean of RGB, and the kernels that see pixels are flipped."""
    rgb = torch.randint(0, 256, (1, 3, 193, 193)).float()
    mean = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    preprocessing = Preprocessing(mean=(0.485020, 0.457957, 0.407604), std=(0.003921569,) * 3)
    flipped = icnet(5, width=4).eval()
    state = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    for name in ("sub2.0.0.0.weight", "sub1.0.0.weight"):
        assert state[name].shape[1] == 3
        state[name] = state[name].flip(1)
    flipped.load_state_dict(state)
    with torch.no_grad():
        expected = tiny(rgb.flip(1) - mean)
        got = flipped(Normalise(preprocessing)(rgb))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    with torch.no_grad():
        assert not torch.allclose(tiny(rgb - mean.flip(0)), expected, rtol=1e-2)


def test_tiny_form_is_small_and_any_size_fits(tiny: ICNet) -> None:
    assert count_parameters(tiny) < 500_000
    for size in ((193, 225), (256, 320)):
        with torch.no_grad():
            assert tiny(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_an_image_too_small_for_the_pyramid_is_refused(tiny: ICNet) -> None:
    with pytest.raises(NetworkError, match=r"^ICNet's image: reaches its pyramid as a map of 6x12, .*; give images of"):
        tiny(torch.randn(1, 3, 192, 384))


class Fused(nn.Module):
    """What ICNet has that no other network of ours does: every second pixel, the pyramid, one fusion."""

    def __init__(self, network: ICNet) -> None:
        super().__init__()
        self.pyramid, self.fusion = PyramidSum(), network.fuse_sub24

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(self.pyramid(x[..., ::2, ::2]), x)


def check_export(network: nn.Module, x: Tensor) -> None:
    """Export with a dynamic n, run it in ONNX Runtime with another n, and lower it for TensorRT."""
    graph = export_graph(network.eval(), {"x": x}, ["y"], {"x": {0: "n"}})
    lowered = onnx.load_model_from_string(lower(graph, "tensorrt").onnx)
    assert "Shape" not in {node.op_type for node in lowered.graph.node}  # every resize is by constant scales
    session = onnxruntime.InferenceSession(graph.onnx, providers=["CPUExecutionProvider"])
    other = torch.randn(x.shape[0] + 1, *x.shape[1:])
    with torch.no_grad():
        expected = network(other).numpy()
    np.testing.assert_allclose(session.run(None, {"x": other.numpy()})[0], expected, atol=1e-4 * np.abs(expected).max())


def test_fusion_and_pyramid_export(tiny: ICNet) -> None:
    check_export(Fused(tiny), torch.randn(2, 32, 15, 17))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(193, 257), (256, 320)])
def test_whole_network_exports(tiny: ICNet, size: tuple[int, int]) -> None:
    check_export(tiny, torch.randn(2, 3, *size))
