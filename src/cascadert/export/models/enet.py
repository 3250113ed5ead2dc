"""ENet: a fast encoder-decoder for street scenes.

Source: Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation",
arXiv:1606.02147, table 1; layer order and parameter count follow davidtvs/PyTorch-ENet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

Activation = Callable[[], nn.Module]

# Kind and dilation of the eight bottlenecks that make up stage 2, repeated as stage 3.
_CONTEXT_STAGE: tuple[tuple[str, int], ...] = (
    ("regular", 1),
    ("regular", 2),
    ("asymmetric", 1),
    ("regular", 4),
    ("regular", 1),
    ("regular", 8),
    ("asymmetric", 1),
    ("regular", 16),
)


def _conv(
    inputs: int, outputs: int, activation: Activation, *, kernel: int = 1, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel // 2) if kernel % 2 else 0
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )


def _asymmetric(channels: int, activation: Activation) -> nn.Sequential:
    layers: list[nn.Module] = []
    for kernel, padding in (((5, 1), (2, 0)), ((1, 5), (0, 2))):
        layers += [
            nn.Conv2d(channels, channels, kernel, padding=padding, bias=False),
            nn.BatchNorm2d(channels),
            activation(),
        ]
    return nn.Sequential(*layers)


class InitialBlock(nn.Module):
    """Strided convolution beside max pooling of the image: ``[N, 3, H, W] -> [N, 16, H/2, W/2]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.activation = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, 3, H, W]` to `[N, 16, H/2, W/2]`."""
        joined: torch.Tensor = self.activation(self.norm(torch.cat((self.conv(x), self.pool(x)), 1)))
        return joined


class Bottleneck(nn.Module):
    """Residual bottleneck of internal width ``channels / 4``: ``[N, C, H, W] -> [N, C, H, W]``."""

    def __init__(
        self,
        channels: int,
        dropout: float,
        activation: Activation,
        *,
        kind: str = "regular",
        dilation: int = 1,
    ) -> None:
        super().__init__()
        inner = channels // 4
        self.reduce = _conv(channels, inner, activation)
        self.middle = (
            _asymmetric(inner, activation)
            if kind == "asymmetric"
            else _conv(inner, inner, activation, kernel=3, dilation=dilation)
        )
        self.expand = _conv(inner, channels, activation)
        self.dropout = nn.Dropout2d(dropout)
        self.activation = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to the same shape."""
        residual = self.dropout(self.expand(self.middle(self.reduce(x))))
        out: torch.Tensor = self.activation(x + residual)
        return out


class DownBottleneck(nn.Module):
    """Halves the map and keeps pooling indices (int64): ``[N, C, H, W] -> [N, D, H/2, W/2]``."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = inputs // 4
        self.extra_channels = outputs - inputs
        self.pool = nn.MaxPool2d(2, stride=2, return_indices=True)
        self.reduce = _conv(inputs, inner, nn.PReLU, kernel=2, stride=2)
        self.middle = _conv(inner, inner, nn.PReLU, kernel=3)
        self.expand = _conv(inner, outputs, nn.PReLU)
        self.dropout = nn.Dropout2d(dropout)
        self.activation = nn.PReLU()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map `[N, C, h, w]` to `[N, C', h/2, w/2]`, and the indices of the maxima."""
        pooled, indices = self.pool(x)
        main = functional.pad(pooled, (0, 0, 0, 0, 0, self.extra_channels))
        residual = self.dropout(self.expand(self.middle(self.reduce(x))))
        return self.activation(main + residual), indices


class UpBottleneck(nn.Module):
    """Doubles the map with the indices of its mirror: ``[N, C, H, W] -> [N, D, 2H, 2W]``."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = inputs // 4
        self.main = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.unpool = nn.MaxUnpool2d(2)
        self.reduce = _conv(inputs, inner, nn.ReLU)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False), nn.BatchNorm2d(inner), nn.ReLU()
        )
        # No activation before the sum here, unlike in the encoder.
        self.expand = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.dropout = nn.Dropout2d(dropout)
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to `[N, C', 2h, 2w]`, un-pooling at the indices of the maxima."""
        main = self.unpool(self.main(x), indices)
        residual = self.dropout(self.expand(self.up(self.reduce(x))))
        out: torch.Tensor = self.activation(main + residual)
        return out


class ENet(nn.Module):
    """ENet with ``classes`` outputs at the size of its input.

    PReLU has one slope per activation (not one per channel): only that form gives 350,508 parameters at
    11 classes and 351,660 at 19.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.initial = InitialBlock()
        self.down1 = DownBottleneck(16, 64, 0.01)
        self.stage1 = nn.Sequential(*(Bottleneck(64, 0.01, nn.PReLU) for _ in range(4)))
        self.down2 = DownBottleneck(64, 128, 0.1)
        self.stage2 = self._context()
        self.stage3 = self._context()
        self.up4 = UpBottleneck(128, 64, 0.1)
        self.stage4 = nn.Sequential(*(Bottleneck(64, 0.1, nn.ReLU) for _ in range(2)))
        self.up5 = UpBottleneck(64, 16, 0.1)
        self.stage5 = Bottleneck(16, 0.1, nn.ReLU)
        self.head = nn.ConvTranspose2d(16, classes, 3, stride=2, padding=1, output_padding=1, bias=False)

    @staticmethod
    def _context() -> nn.Sequential:
        return nn.Sequential(
            *(Bottleneck(128, 0.1, nn.PReLU, kind=kind, dilation=dilation) for kind, dilation in _CONTEXT_STAGE)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segments normalised images.

        Args:
            x: float images ``[N, 3, H, W]``; H and W are multiples of 8.

        Returns:
            Logits ``[N, K, H, W]``.
        """
        x, indices1 = self.down1(self.initial(x))
        x, indices2 = self.down2(self.stage1(x))
        x = self.stage3(self.stage2(x))
        x = self.stage4(self.up4(x, indices2))
        logits: torch.Tensor = self.head(self.stage5(self.up5(x, indices1)))
        return logits


def enet(classes: int) -> ENet:
    """Builds ENet (350,508 parameters at 11 classes, 351,660 at 19) with fresh weights."""
    return ENet(classes)
