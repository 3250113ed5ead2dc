"""The networks of the two-stage system (paper 001) against its code and its table 1, and both roles of each."""

import functools
import itertools
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import NETWORKS, two_stage
from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.fcn import FCNHead

NETS = ("deeplabv3", "fcn", "unet", "segnet")
CHANNELS = {"deeplabv3": 256, "fcn": 512, "unet": 32, "segnet": 32}
TINY = {"backbone": "resnet18", "width": 0.125}
# torchvision runs its auxiliary head (on layer 3, 21 classes) in evaluation too; paper 001 counts it, no engine has it.
AUXILIARY = ("deeplabv3", "fcn")
SIZES = (48, 96, 192, 384, 768)
TABLE_1 = {
    "resnet50": (215, 759, 3_035, 12_142, 48_567),
    "deeplabv3": (1_533, 6_132, 24_527, 98_107, 392_425),
    "unet": (695, 2_413, 9_653, 38_613, 154_452),
    "segnet": (594, 1_776, 7_105, 28_421, 113_684),
    "fcn": (1_316, 5_265, 21_060, 84_238, 336_952),
}
NOT_REPRODUCED = {("segnet", 48): 502}


@functools.cache
def full_size(net: str, role: str = "first") -> nn.Module:
    with torch.device("meta"):
        if net == "resnet50":
            return dilated_backbone(net, BackboneForm(output_stride=32)).eval()
        return two_stage(net, role).eval()


def auxiliary_head() -> FCNHead:
    with torch.device("meta"):
        return FCNHead(1024, 21)


def tiny(net: str, role: str, **options: object) -> nn.Module:
    """A tiny network whose batch norms do something, the same weights for every role."""
    torch.manual_seed(0)
    network = two_stage(net, role, **TINY, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network


def profiled_operations(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Operations as the paper's profiler (thop) has them: convolutions, 4 per normalised value, adaptive pools."""
    total = count_macs(network, shape)

    def normalised(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += 4 * output.numel()

    def pooled(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        kernel = math.prod(inputs[0].shape[2:]) // math.prod(output.shape[2:])
        total += (kernel + 1) * output.numel()  # its sums and the division

    counted = {nn.BatchNorm2d: normalised, nn.AdaptiveAvgPool2d: pooled}
    hooks = [
        module.register_forward_hook(counted[type(module)]) for module in network.modules() if type(module) in counted
    ]
    network.eval()(torch.empty(shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("net", "published", "deployed"),
    [
        ("deeplabv3", 42_000_982, 39_635_777),
        ("fcn", 35_316_054, 32_950_849),
        ("unet", 73_387_201, 73_387_201),
        ("segnet", 48_448_705, 48_448_705),
    ],
)
def test_parameters_are_those_of_the_paper(net: str, published: int, deployed: int) -> None:
    assert count_parameters(full_size(net)) == deployed
    auxiliary = count_parameters(auxiliary_head()) if net in AUXILIARY else 0
    assert auxiliary in (0, 2_365_205)
    assert deployed + auxiliary == published


@pytest.mark.parametrize("net", TABLE_1)
def test_cost_reproduces_table_1_but_for_one_cell(net: str) -> None:
    network, auxiliary = full_size(net), auxiliary_head()
    for size, printed in zip(SIZES, TABLE_1[net], strict=True):
        total = profiled_operations(network, (1, 3, size, size))
        if net in AUXILIARY:
            total += profiled_operations(auxiliary, (1, 1024, size // 8, size // 8))
        assert round(total / 1e6) == NOT_REPRODUCED.get((net, size), printed)


@pytest.mark.parametrize(
    ("net", "small", "large"),
    [
        ("resnet50", 3.003e9, 48.045e9),
        ("deeplabv3", 24.448e9, 391.155e9),
        ("unet", 9.582e9, 153.307e9),
        ("segnet", 7.034e9, 112.538e9),
        ("fcn", 20.984e9, 335.740e9),
    ],
)
def test_multiply_adds_of_the_convolutions_alone(net: str, small: float, large: float) -> None:
    network, auxiliary = full_size(net), auxiliary_head()
    for size, macs in ((192, small), (768, large)):
        total = count_macs(network, (1, 3, size, size))
        if net in AUXILIARY:
            total += count_macs(auxiliary, (1, 1024, size // 8, size // 8))
        assert total == pytest.approx(macs, rel=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_first_stage_costs_a_sixteenth_and_all_patches_one_more_than_the_whole(net: str) -> None:
    """Ratio 4: 1 + n networks of 192 x 192 in the place of one of 768 x 768; adding the context costs nothing."""
    whole, small = (count_macs(full_size(net), (1, 3, side, side)) for side in (768, 192))
    patches = count_macs(full_size(net), (16, 3, 192, 192))
    assert small / whole == pytest.approx(1 / 16, rel=1e-3)
    assert (small + patches) / whole == pytest.approx(17 / 16, rel=1e-3)


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
@pytest.mark.parametrize("net", NETS)
def test_context_has_the_channels_of_the_paper_and_comes_at_low_resolution(net: str, ratio: int) -> None:
    first, second, side = full_size(net), full_size(net, "second"), 768 // ratio
    with torch.device("meta"):
        small = first(torch.empty(1, 3, side, side))
        cell = small["features"][:, :, : side // ratio, : side // ratio]
        refined = second(torch.empty(3, 3, side, side), cell.expand(3, -1, -1, -1))
    assert small["logits"].shape == (1, 1, side, side)
    assert small["features"].shape == (1, CHANNELS[net], side, side)
    assert refined.shape == (3, 1, side, side)


@pytest.mark.parametrize("net", NETS)
def test_every_form_has_the_same_state(net: str) -> None:
    forms = [
        tiny(net, "first"),
        tiny(net, "second"),
        tiny(net, "first", context=False),
        tiny(net, "second", context=False),
    ]
    shapes = [{name: tensor.shape for name, tensor in form.state_dict().items()} for form in forms]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]
    assert {name.partition(".")[0] for name in shapes[0]} == {"body", "final"}


@pytest.mark.parametrize("net", NETS)
def test_second_stage_adds_the_nearest_of_its_cell_before_the_last_convolution(net: str) -> None:
    """Algorithm 1 of paper 001 with ratio 4, written out: the patch in row 2, column 1 of 4 x 4."""
    first, second = tiny(net, "first"), tiny(net, "second")
    second.load_state_dict(first.state_dict())
    nn.init.normal_(second.final.weight)  # fine-tuned since, so that the two differ
    small, patch = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        carried = first(small)["features"]
        cell = carried[:, :, 2 * 16 : 3 * 16, 1 * 24 : 2 * 24]
        repeated = cell.repeat_interleave(4, 2).repeat_interleave(4, 3)
        own = second.body(patch)
        expected = functional.conv2d(own + repeated, second.final.weight, second.final.bias, padding=1)
        got = second(patch, cell)
        assert carried.shape[1] == own.shape[1] == second.final.in_channels
        torch.testing.assert_close(got, expected)
        assert not torch.allclose(got, second(patch, torch.zeros_like(cell)))


@pytest.mark.parametrize("net", NETS)
def test_context_disabled_equals_a_context_of_zeros(net: str) -> None:
    second, alone, first = tiny(net, "second"), tiny(net, "second", context=False), tiny(net, "first")
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = alone(x)
        assert torch.equal(second(x, torch.zeros(2, second.final.in_channels, 16, 16)), logits)
        assert torch.equal(first(x)["logits"], logits)
    assert float(logits.std()) > 1e-6


@pytest.mark.parametrize("net", ["unet", "segnet"])
def test_decoders_are_plain_convolutions_and_nearest_interpolation(net: str) -> None:
    """The loops of the paper's code, on the layers of a network of ours."""
    body = tiny(net, "first").body
    backbone, ends = body.backbone, (0, *body.backbone.ends)
    layers = [backbone.layers[start:end] for start, end in itertools.pairwise(ends)]
    stem, pool = backbone.stem[:-1], backbone.stem[-1]
    encoders = [stem, nn.Sequential(layers[0], pool), *layers[1:]]
    x = image = torch.rand(1, 3, 96, 160)
    sizes, skips = [], []
    with torch.no_grad():
        for encoder in encoders:
            sizes.append(x.shape[2:])
            x = encoder(x)
            skips.append(x)
        assert x.shape[2:] == (3, 5)
        for skip, size, decoder in zip(skips[::-1], sizes[::-1], body.decoders, strict=True):
            x = functional.conv2d(
                torch.cat((skip, x), 1) if net == "unet" else x, decoder.weight, decoder.bias, padding=1
            )
            x = functional.interpolate(x, size)
        torch.testing.assert_close(body(image), x)
    assert float(x.min()) < 0  # no activation at the end


@pytest.mark.parametrize("net", ["deeplabv3", "fcn"])
def test_features_of_heads_are_enlarged_without_aligned_corners(net: str) -> None:
    body = tiny(net, "first").body
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        small = body.features(body.backbone(x))
        assert small.shape[2:] == (8, 12)
        expected = functional.interpolate(small, size=(64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(body(x), expected)


def check_export(network: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> None:
    """Export with a dynamic n, run it in ONNX Runtime with another n, and lower it for TensorRT."""
    graph = export_graph(network, inputs, outputs, {name: {0: "n"} for name in inputs})
    session = onnxruntime.InferenceSession(graph.onnx, providers=["CPUExecutionProvider"])
    feeds = {name: torch.rand(3, *tensor.shape[1:]) for name, tensor in inputs.items()}
    with torch.no_grad():
        result = network(*feeds.values())
    expected = result if isinstance(result, dict) else {"logits": result}
    found = session.run(outputs, {name: tensor.numpy() for name, tensor in feeds.items()})
    for name, got in zip(outputs, found, strict=True):
        want = expected[name].numpy()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), err_msg=name)
    lowered = onnx.load_model_from_string(lower(graph, "tensorrt").onnx)
    assert "Shape" not in {node.op_type for node in lowered.graph.node}  # every resize is by constant scales


@pytest.mark.parametrize("net", [pytest.param(net, marks=() if net == "unet" else pytest.mark.slow) for net in NETS])
def test_first_stage_exports(net: str) -> None:
    check_export(tiny(net, "first"), {"image": torch.rand(2, 3, 64, 96)}, ["logits", "features"])


@pytest.mark.parametrize("net", [pytest.param(net, marks=() if net == "fcn" else pytest.mark.slow) for net in NETS])
def test_second_stage_exports(net: str) -> None:
    network = tiny(net, "second", classes=2)
    context = torch.rand(2, network.final.in_channels, 16, 24)
    check_export(network, {"patch": torch.rand(2, 3, 64, 96), "context": context}, ["logits"])


def test_tiny_forms_are_small_and_go_by_name() -> None:
    for net in NETS:
        network = NETWORKS["two-stage"](net=net, role="second", classes=3, **TINY)
        assert count_parameters(network) < 500_000
        assert network.final.out_channels == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"net": "deeplab", "role": "first"}, "^net is 'deeplab', not one of deeplabv3, fcn, unet, segnet$"),
        ({"net": "unet", "role": "third"}, "^role is 'third', not one of first, second$"),
        (
            {"net": "unet", "role": "first", "backbone": "mobilenet-v2"},
            "^backbone is 'mobilenet-v2', but 'unet' needs a",
        ),
    ],
)
def test_wrong_arguments_are_refused(args: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_stage(**args)
