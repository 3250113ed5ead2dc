"""What torchvision's networks are called and compute: their state dicts, and forward passes that read only those.

Written from torchvision's public naming, without a look at ours; the parameter counts that torchvision documents
(`test_torchvision_weights.py`) say that it is complete.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def _conv(state: State, name: str, inputs: int, outputs: int, kernel: int, bias: bool = False) -> None:
    state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
    if bias:
        state[f"{name}.bias"] = torch.randn(outputs)


def _norm(state: State, name: str, channels: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels) / 4
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.randn(channels) / 4, torch.rand(channels) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def _linear(state: State, name: str, inputs: int, outputs: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(outputs, inputs), torch.randn(outputs)


def resnet(units: Iterable[int], expansion: int, width: int = 64, prefix: str = "", fc: bool = True) -> State:
    state: State = {}
    _conv(state, f"{prefix}conv1", 3, width, 7)
    _norm(state, f"{prefix}bn1", width)
    inputs = width
    for layer, count in enumerate(units):
        inner = width * 2**layer
        for unit in range(count):
            name = f"{prefix}layer{layer + 1}.{unit}"
            kernels = [(inputs, inner, 1), (inner, inner, 3), (inner, inner * 4, 1)]
            if expansion == 1:
                kernels = [(inputs, inner, 3), (inner, inner, 3)]
            for number, kernel in enumerate(kernels, 1):
                _conv(state, f"{name}.conv{number}", *kernel)
                _norm(state, f"{name}.bn{number}", kernel[1])
            if inputs != inner * expansion:
                _conv(state, f"{name}.downsample.0", inputs, inner * expansion, 1)
                _norm(state, f"{name}.downsample.1", inner * expansion)
            inputs = inner * expansion
    if fc:
        _linear(state, f"{prefix}fc", inputs, 1000)
    return state


def fcn_head(name: str, inputs: int, classes: int) -> State:
    state: State = {}
    _conv(state, f"{name}.0", inputs, inputs // 4, 3)
    _norm(state, f"{name}.1", inputs // 4)
    _conv(state, f"{name}.4", inputs // 4, classes, 1, bias=True)
    return state


def deeplab_head(name: str, inputs: int, classes: int, channels: int = 256) -> State:
    state: State = {}
    for index, (kernel, first) in enumerate([(1, 0), (3, 0), (3, 0), (3, 0), (1, 1)]):
        _conv(state, f"{name}.0.convs.{index}.{first}", inputs, channels, kernel)
        _norm(state, f"{name}.0.convs.{index}.{first + 1}", channels)
    _conv(state, f"{name}.0.project.0", 5 * channels, channels, 1)
    _norm(state, f"{name}.0.project.1", channels)
    _conv(state, f"{name}.1", channels, channels, 3)
    _norm(state, f"{name}.2", channels)
    _conv(state, f"{name}.4", channels, classes, 1, bias=True)
    return state


def segmentation(kind: str, units: Iterable[int], classes: int = 21, width: int = 64, channels: int = 256) -> State:
    """``fcn_resnet*`` or ``deeplabv3_resnet*`` with the auxiliary head that published weights have."""
    state = resnet(units, 4, width, "backbone.", fc=False)
    features = width * 32
    state |= (
        fcn_head("classifier", features, classes)
        if kind == "fcn"
        else deeplab_head("classifier", features, classes, channels)
    )
    return state | fcn_head("aux_classifier", features // 2, classes)


_MOBILENET = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def mobilenet_v2() -> State:
    state: State = {}
    _conv(state, "features.0.0", 3, 32, 3)
    _norm(state, "features.0.1", 32)
    index, inputs = 1, 32
    for expansion, outputs, count, _ in _MOBILENET:
        for _ in range(count):
            inner, name, place = inputs * expansion, f"features.{index}.conv", 0
            if expansion != 1:
                _conv(state, f"{name}.0.0", inputs, inner, 1)
                _norm(state, f"{name}.0.1", inner)
                place = 1
            _conv(state, f"{name}.{place}.0", 1, inner, 3)
            _norm(state, f"{name}.{place}.1", inner)
            _conv(state, f"{name}.{place + 1}", inner, outputs, 1)
            _norm(state, f"{name}.{place + 2}", outputs)
            index, inputs = index + 1, outputs
    _conv(state, "features.18.0", 320, 1280, 1)
    _norm(state, "features.18.1", 1280)
    _linear(state, "classifier.1", 1280, 1000)
    return state


class Forward:
    """Computes a network from its state dict."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv_norm(self, x: Tensor, conv: str, norm: str, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        x = functional.conv2d(x, weight, None, stride, padding, dilation, groups)
        mean, var, gain, bias = (
            self.state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, gain, bias)

    def bottleneck(self, x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1").relu()
        y = self.conv_norm(y, f"{name}.conv2", f"{name}.bn2", stride, dilation).relu()
        return self._sum(x, self.conv_norm(y, f"{name}.conv3", f"{name}.bn3"), name, stride)

    def basic(self, x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        assert dilation == 1
        y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
        return self._sum(x, self.conv_norm(y, f"{name}.conv2", f"{name}.bn2"), name, stride)

    def _sum(self, x: Tensor, y: Tensor, name: str, stride: int) -> Tensor:
        if f"{name}.downsample.0.weight" in self.state:
            x = self.conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return (x + y).relu()

    def resnet(self, x: Tensor, units: Iterable[int], prefix: str = "", dilated: bool = False) -> Tensor:
        """Dilated: ``replace_stride_with_dilation=[False, True, True]``."""
        x = functional.max_pool2d(self.conv_norm(x, f"{prefix}conv1", f"{prefix}bn1", 2).relu(), 3, 2, 1)
        dilation, block = 1, self.bottleneck if f"{prefix}layer1.0.conv3.weight" in self.state else self.basic
        for layer, count in enumerate(units):
            before, stride = dilation, 1 if layer == 0 else 2
            if dilated and layer > 1:
                dilation, stride = dilation * 2, 1
            for unit in range(count):
                name = f"{prefix}layer{layer + 1}.{unit}"
                x = block(x, name, stride, before) if unit == 0 else block(x, name, 1, dilation)
        return x

    def fcn_head(self, x: Tensor, name: str = "classifier") -> Tensor:
        x = self.conv_norm(x, f"{name}.0", f"{name}.1").relu()
        return functional.conv2d(x, self.state[f"{name}.4.weight"], self.state[f"{name}.4.bias"])

    def deeplab_head(self, x: Tensor, name: str = "classifier") -> Tensor:
        aspp, size = f"{name}.0", x.shape[-2:]
        maps = [
            self.conv_norm(x, f"{aspp}.convs.{i}.0", f"{aspp}.convs.{i}.1", dilation=rate).relu()
            for i, rate in enumerate((1, 12, 24, 36))
        ]
        mean = self.conv_norm(x.mean((2, 3), keepdim=True), f"{aspp}.convs.4.1", f"{aspp}.convs.4.2").relu()
        joined = torch.cat([*maps, mean.expand(-1, -1, *size)], 1)
        x = self.conv_norm(joined, f"{aspp}.project.0", f"{aspp}.project.1").relu()
        x = self.conv_norm(x, f"{name}.1", f"{name}.2").relu()
        return functional.conv2d(x, self.state[f"{name}.4.weight"], self.state[f"{name}.4.bias"])

    def mobilenet_v2(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.conv_norm(x, "features.0.0", "features.0.1", 2))
        index = 1
        for expansion, _, count, step in _MOBILENET:
            for unit in range(count):
                x = self._inverted(x, f"features.{index}.conv", expansion, step if unit == 0 else 1)
                index += 1
        return functional.relu6(self.conv_norm(x, "features.18.0", "features.18.1"))

    def _inverted(self, x: Tensor, name: str, expansion: int, stride: int) -> Tensor:
        y, place = x, 0
        if expansion != 1:
            y, place = functional.relu6(self.conv_norm(x, f"{name}.0.0", f"{name}.0.1")), 1
        y = self.conv_norm(y, f"{name}.{place}.0", f"{name}.{place}.1", stride, groups=y.shape[1])
        y = self.conv_norm(functional.relu6(y), f"{name}.{place + 1}", f"{name}.{place + 2}")
        return x + y if x.shape == y.shape else y
