"""How confident a network is of a whole image: the score that decides about an early exit (paper 004).

Everything happens at the stride of the logits: the windows of eq. 9 would move a gigabyte at full resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cascadert.stage_spec import Smoothing


class Confidence(nn.Module):
    """Confidence of each image, float32 `[N]` from 0 to 1.

    Args:
        pixel: the probability that the best class needs for a pixel to be confident; the result is the share of such
            pixels (eq. 7). None: the mean probability, the baseline of the paper.
        smoothing: what stands for a pixel on an edge of the labels (eq. 9): the mean, median or maximum of the window
            around it. Edges are uncertain in every image, and say little about this one.
        window: its radius w in pixels of the logits; it has (2w + 1)² of them, the nearest repeated beyond the border.
    """

    def __init__(self, pixel: float | None, smoothing: Smoothing, window: int) -> None:
        super().__init__()
        self.pixel, self.smoothing, self.window = pixel, smoothing, window

    def forward(self, logits: Tensor) -> Tensor:
        """Map float32 logits `[N, K, h, w]`, K of 2 or more, to `[N]`."""
        plain = confidence = top_probability(logits)
        if self.smoothing != "none":
            smooth = self._smoothed(windows(confidence, self.window))
            confidence = torch.where(label_edges(logits), smooth, confidence)
        if self.pixel is not None:
            confidence = (confidence >= self.pixel).to(torch.float32)
        return (confidence + 0 * plain).mean(dim=(1, 2))  # NaN is neither sure nor unsure: it has to show

    def _smoothed(self, values: Tensor) -> Tensor:
        if self.smoothing == "max":
            return values.amax(dim=1)
        if self.smoothing == "mean":
            return values.mean(dim=1)
        middle = values.shape[1] // 2 + 1  # torch.median has no ONNX form; the size of a window is odd
        return values.topk(middle, dim=1).values[:, -1]


def top_probability(logits: Tensor) -> Tensor:
    """Return the softmax probability of the best class, `[N, K, h, w]` to `[N, h, w]`: 1 / Σ exp(y - max y)."""
    shifted = logits - logits.amax(dim=1, keepdim=True)
    return 1 / shifted.exp().sum(dim=1)


def label_edges(logits: Tensor) -> Tensor:
    """Return where the label differs from that of a neighbour above, below, left or right: bool `[N, h, w]` (eq. 8)."""
    labels = logits.argmax(dim=1).to(torch.float32)
    neighbours = windows(labels, 1)[:, 1::2]  # of the nine, the odd ones share a side with the middle
    return (neighbours - labels[:, None]).abs().amax(dim=1) > 0


def windows(values: Tensor, radius: int) -> Tensor:
    """Return what lies around each pixel: `[N, h, w]` to `[N, (2 radius + 1)², h, w]`, row by row.

    The nearest pixel stands for those beyond the border. Two gathers whatever the radius, where slices would be
    one operator for each place in the window.
    """
    n, height, width = values.shape
    side = 2 * radius + 1
    for axis, length in ((1, height), (2, width)):
        values = values.index_select(axis, _shifted(length, radius).to(values.device))
    around = values.reshape(n, side, height, side, width).permute(0, 1, 3, 2, 4)
    return around.reshape(n, side * side, height, width)


def _shifted(length: int, radius: int) -> Tensor:
    """Return the positions 0 to length - 1 moved by each offset from -radius to radius: int64, kept in bounds."""
    offsets = torch.arange(-radius, radius + 1)[:, None]
    return (torch.arange(length) + offsets).clamp(0, length - 1).reshape(-1)
