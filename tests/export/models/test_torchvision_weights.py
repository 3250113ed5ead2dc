"""Files that torchvision's networks were saved to load into ours, whole or not at all."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cascadert.errors import WeightsError
from cascadert.export.models import deeplabv3, deeplabv3_plus, fcn, pspnet_r50
from cascadert.export.models.deeplab import DeepLabHead
from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.mobilenet import MobileNetShape, MobileNetV2
from cascadert.export.models.resnet import Bottleneck, EagerBottleneck, ResNet, ResNetShape
from cascadert.export.models.segmenter import Segmenter
from cascadert.export.models.torchvision_weights import from_torchvision, torchvision_names
from cascadert.export.networks import load_weights
from tests.export.models.torchvision_forms import Forward, State, fcn_head, mobilenet_v2, resnet, segmentation

R18, R34, R50, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3)
PATH = Path("weights.pth")


def parameters(state: State) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(tensor.numel() for name, tensor in state.items() if not name.endswith(buffers))


Case = tuple[Callable[[], nn.Module], Callable[[], State], int, str]
FULL: list[Case] = [
    (lambda: dilated_backbone("resnet18", BackboneForm()), lambda: resnet(R18, 1), 11_689_512, "fc."),
    (lambda: dilated_backbone("resnet34", BackboneForm()), lambda: resnet(R34, 1), 21_797_672, "fc."),
    (lambda: dilated_backbone("resnet50", BackboneForm()), lambda: resnet(R50, 4), 25_557_032, "fc."),
    (lambda: dilated_backbone("resnet101", BackboneForm()), lambda: resnet(R101, 4), 44_549_160, "fc."),
    (lambda: MobileNetV2(MobileNetShape(last=1280)), mobilenet_v2, 3_504_872, "classifier."),
    (lambda: fcn(21, "resnet50"), lambda: segmentation("fcn", R50), 35_322_218, "aux_classifier."),
    (lambda: fcn(21, "resnet101"), lambda: segmentation("fcn", R101), 54_314_346, "aux_classifier."),
    (lambda: deeplabv3(21, "resnet50"), lambda: segmentation("deeplabv3", R50), 42_004_074, "aux_classifier."),
    (lambda: deeplabv3(21, "resnet101"), lambda: segmentation("deeplabv3", R101), 60_996_202, "aux_classifier."),
]


@pytest.mark.parametrize(("ours", "theirs", "count", "left_out"), FULL, ids=range(len(FULL)))
def test_every_tensor_of_theirs_has_its_place_or_is_left_out_by_name(
    ours: Callable[[], nn.Module], theirs: Callable[[], State], count: int, left_out: str
) -> None:
    with torch.device("meta"):
        network, state = ours(), theirs()
    assert parameters(state) == count  # as torchvision documents: the form in the tests is complete
    loaded, own = from_torchvision(network, state, PATH), network.state_dict()
    assert {name: tensor.shape for name, tensor in loaded.items()} == {name: t.shape for name, t in own.items()}
    assert {id(tensor) for tensor in loaded.values()} == {
        id(tensor) for name, tensor in state.items() if not name.startswith(left_out)
    }


def saved(state: State, folder: Path) -> Path:
    torch.save(state, folder / "theirs.pth")
    return folder / "theirs.pth"


def small(kind: str) -> tuple[nn.Module, State, Callable[[Tensor], Tensor]]:
    """One of our networks, narrow, with weights of torchvision's form and what torchvision computes with them."""
    if kind == "mobilenet":
        state = mobilenet_v2()
        return MobileNetV2(MobileNetShape(last=1280)), state, Forward(state).mobilenet_v2
    if kind == "resnet18":
        state = resnet(R18, 1, width=8)
        network: nn.Module = dilated_backbone(kind, BackboneForm(output_stride=32, width=0.125))
        return network, state, lambda x: Forward(state).resnet(x, R18)
    state = segmentation(kind, R50, classes=5, width=8, channels=16)
    forward = Forward(state)
    network = fcn(5, width=0.125) if kind == "fcn" else deeplabv3(5, width=0.125, channels=16)
    head = forward.fcn_head if kind == "fcn" else forward.deeplab_head
    return network, state, lambda x: head(forward.resnet(x, R50, "backbone.", dilated=True))


@pytest.mark.parametrize("kind", ["resnet18", "mobilenet", "fcn", "deeplabv3"])
def test_what_was_loaded_computes_what_torchvision_does(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, state, forward = small(kind)
    load_weights(network.eval(), saved(state, tmp_path))
    x = torch.randn(1, 3, 120, 64)  # 15 rows at 1/8: the first rate of the pyramid sees another row
    with torch.no_grad():
        expected = forward(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_a_backbone_without_its_last_convolution_leaves_that_out_too(tmp_path: Path) -> None:
    state, network = mobilenet_v2(), MobileNetV2(MobileNetShape())
    load_weights(network, saved(state, tmp_path))
    assert torch.equal(network.layers[16].project[0].weight, state["features.17.conv.2.weight"])


def test_files_from_before_batches_were_counted_load(tmp_path: Path) -> None:
    network, state, _ = small("fcn")
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    load_weights(network, saved(old, tmp_path))
    assert network.state_dict()["backbone.stem.0.1.num_batches_tracked"] == 0
    assert torch.equal(network.head.classifier.bias, state["classifier.4.bias"])


def _other_classes(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")} | fcn_head(
        "classifier", 256, 7
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda s: {name: t for name, t in s.items() if name != "backbone.layer3.2.bn1.running_var"},
            "lacks 'backbone.layer3.2.bn1.running_var'; give weights of this very network",
        ),
        (
            lambda s: {name: t for name, t in s.items() if not name.startswith("classifier.")},
            "lacks 'classifier.0.weight' and 6 more; give",
        ),
        (lambda s: {**s, "backbone.layer3.6.bn1.bias": torch.zeros(1)}, "unexpected 'backbone.layer3.6.bn1.bias'"),
        (lambda s: {**s, "backbone.fc.weight": torch.zeros(1)}, "has the unexpected 'backbone.fc.weight'; give"),
        (lambda s: {f"module.{name}": t for name, t in s.items()}, "every name in it begins with 'module.'"),
        (_other_classes, "'head.classifier.weight' is [7, 64, 1, 1] where the network has [5, 64, 1, 1]; check args"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(damage: Callable[[State], State], message: str, tmp_path: Path) -> None:
    network, state, _ = small("fcn")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_weights(network, saved(damage(state), tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_weights_under_our_own_names_are_never_renamed() -> None:
    network, _, _ = small("fcn")
    state = network.state_dict()
    assert from_torchvision(network, state, PATH) is state


def test_networks_that_torchvision_does_not_have_take_no_weights_of_its() -> None:
    with torch.device("meta"):
        deep = ResNet(Bottleneck, ResNetShape(R50, stem=(64, 64, 128)))
        mobile = MobileNetV2(MobileNetShape())
        others = [
            deep,
            ResNet(EagerBottleneck, ResNetShape(R50)),
            deeplabv3_plus(19),
            pspnet_r50(19, deep_stem=False),
            Segmenter(deep, DeepLabHead(2048, 21)),
            Segmenter(mobile, DeepLabHead(320, 21)),
        ]
    assert [torchvision_names(network) for network in others] == [None] * len(others)
