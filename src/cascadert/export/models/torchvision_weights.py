"""Weights under the names that torchvision gives them, for the networks that torchvision has too.

Those are bare ResNets with a 7x7 stem (``resnet50``), bare MobileNetV2s (``mobilenet_v2``), and FCN and DeepLabV3 on
a ResNet (``fcn_resnet50``, ``deeplabv3_resnet101``). What a file holds beyond such a network is left out by name: the
classifier behind a backbone, the auxiliary head of a segmentation network. Anything else must fit exactly.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cascadert.errors import WeightsError
from cascadert.export.models.deeplab import DeepLabHead
from cascadert.export.models.fcn import FCNHead
from cascadert.export.models.mobilenet import InvertedResidual, MobileNetV2
from cascadert.export.models.resnet import EagerBottleneck, ResNet
from cascadert.export.models.segmenter import Segmenter

_COUNTER = ".num_batches_tracked"  # of batch norms: files from before PyTorch 0.4.1 have none, and inference reads none


@dataclass(frozen=True)
class TorchvisionNames:
    """How torchvision names the modules of one of our networks.

    Attributes:
        modules: our name of each module that holds tensors, and torchvision's; may name more than there are.
        left_out: prefixes of tensors that the network has no place for.
    """

    modules: dict[str, str]
    left_out: tuple[str, ...]

    def of(self, tensor: str) -> str:
        """Return torchvision's name of a tensor that we name `tensor`."""
        module, _, kind = tensor.rpartition(".")
        return f"{self.modules[module]}.{kind}"


def from_torchvision(network: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a state dict under our names, if its names are torchvision's; else as it is.

    Args:
        network: the network that it is for.
        state: what the file holds.
        path: of the file, for errors.

    Raises:
        WeightsError: a tensor is missing, or one is there that the network has no place for.
    """
    names, own = torchvision_names(network), network.state_dict()
    if names is None or own.keys() & state.keys():
        return state
    theirs = {ours: names.of(ours) for ours in own}
    if state.keys().isdisjoint(theirs.values()):
        return state
    required = {name for name in theirs.values() if not name.endswith(_COUNTER) or name in state}
    check_names(path, required, {name for name in state if not name.startswith(names.left_out)})
    return {ours: state.get(name, own[ours]) for ours, name in theirs.items()}


def check_names(path: Path, required: Set[str], given: Set[str]) -> None:
    """Check that the tensors of a file are exactly those that are required.

    Raises:
        WeightsError: names the first that is missing, or else the first that is unexpected.
    """
    for problem, names in (("lacks", required - given), ("has the unexpected", given - required)):
        if names:
            found = f"{problem} '{min(names)}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            raise WeightsError(str(path), found, "give weights of this very network (check model and args)")


def torchvision_names(network: nn.Module) -> TorchvisionNames | None:
    """Return how torchvision names the modules of a network, or None if torchvision has no such network."""
    if isinstance(network, MobileNetV2):
        return _mobilenet(network)
    if isinstance(network, ResNet) and _is_torchvisions(network):
        return TorchvisionNames(_resnet(network), ("fc.",))
    if not isinstance(network, Segmenter) or not isinstance(network.backbone, ResNet):
        return None
    if not _is_torchvisions(network.backbone) or not isinstance(network.head, FCNHead | DeepLabHead):
        return None
    head = _fcn_head() if isinstance(network.head, FCNHead) else _deeplab_head(len(network.head.rates) + 1)
    modules = {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in _resnet(network.backbone).items()}
    modules |= {f"head.{ours}": f"classifier.{theirs}" for ours, theirs in head.items()}
    return TorchvisionNames(modules, ("aux_classifier.",))


def _is_torchvisions(backbone: ResNet) -> bool:
    # A stride in the first convolution would take the same tensors, and mean something else.
    return len(backbone.shape.stem) == 1 and not any(isinstance(unit, EagerBottleneck) for unit in backbone.layers)


def _resnet(backbone: ResNet) -> dict[str, str]:
    names = {"stem.0.0": "conv1", "stem.0.1": "bn1"}
    places = [(layer, unit) for layer, count in enumerate(backbone.shape.units, 1) for unit in range(count)]
    for index, (layer, unit) in enumerate(places):
        ours, theirs = f"layers.{index}", f"layer{layer}.{unit}"
        for number in (1, 2, 3):
            names[f"{ours}.conv{number}"] = f"{theirs}.conv{number}"
            names[f"{ours}.norm{number}"] = f"{theirs}.bn{number}"
        for part in (0, 1):
            names[f"{ours}.shortcut.{part}"] = f"{theirs}.downsample.{part}"
    return names


def _mobilenet(backbone: MobileNetV2) -> TorchvisionNames:
    names = {"stem.0": "features.0.0", "stem.1": "features.0.1"}
    left_out = ["classifier."]
    for index, unit in enumerate(backbone.layers):
        ours, theirs = f"layers.{index}", f"features.{index + 1}"
        if isinstance(unit, InvertedResidual):
            names |= {f"{ours}.{part}": f"{theirs}.{name}" for part, name in _inverted_residual(unit).items()}
        else:
            names |= {f"{ours}.{part}": f"{theirs}.{part}" for part in (0, 1)}
    if isinstance(backbone.layers[-1], InvertedResidual):
        left_out.append(f"features.{len(backbone.layers) + 1}.")
    return TorchvisionNames(names, tuple(left_out))


def _inverted_residual(unit: InvertedResidual) -> dict[str, str]:
    before = ["depthwise"] if isinstance(unit.expand, nn.Identity) else ["expand", "depthwise"]
    names = {f"{part}.{i}": f"conv.{place}.{i}" for place, part in enumerate(before) for i in (0, 1)}
    return names | {f"project.{i}": f"conv.{len(before) + i}" for i in (0, 1)}


def _fcn_head() -> dict[str, str]:
    return {"features.0.0": "0", "features.0.1": "1", "classifier": "4"}


def _deeplab_head(branches: int) -> dict[str, str]:
    names = {f"features.0.branches.{i}.{part}": f"0.convs.{i}.{part}" for i in range(branches) for part in (0, 1)}
    names |= {f"features.0.mean.1.{part}": f"0.convs.{branches}.{part + 1}" for part in (0, 1)}
    names |= {f"features.0.project.0.{part}": f"0.project.{part}" for part in (0, 1)}
    return names | {"features.1.0": "1", "features.1.1": "2", "classifier": "4"}
