"""The parts of a sparse two-column network chained as a runtime does: only the chosen regions are computed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cascadert.export.models import two_column
from cascadert.export.models.two_column import TwoColumn

TINY = {"units": "1-1-1-1-1-1-1-1", "width": 8, "region": 32}


def tiny(**options: object) -> TwoColumn:
    """Build a network of 11 classes with all statistics of its normalisations and all its biases random."""
    torch.manual_seed(0)
    network = two_column(11, **{**TINY, **options}).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(0, 0.3)
    return network.requires_grad_(False)


def chained(network: TwoColumn, image: Tensor, chosen: Sequence[int]) -> Tensor:
    """Compute the regions `chosen` (one at least; counted through all images) and fuse; `image` may be meta."""
    half = network.half_column(functional.interpolate(image, scale_factor=0.5, mode="bilinear"))
    cameras, _, rows, columns = half["score"].shape
    side = network.region
    cells = [(i // (rows * columns), i // columns % rows, i % columns) for i in chosen]
    patches = [image[n, :, r * side : (r + 1) * side, c * side : (c + 1) * side] for n, r, c in cells]
    tensors, mask = dict(half), image.new_zeros(cameras, 1, rows, columns)
    for name, features in network.crops(torch.stack(patches)).items():
        _, channels, height, width = features.shape
        tensors[name] = image.new_zeros(cameras, channels, rows * height, columns * width)
        for (n, r, c), feature in zip(cells, features, strict=True):
            tensors[name][n, :, r * height : (r + 1) * height, c * width : (c + 1) * width] = feature
    for n, r, c in cells:
        mask[n, 0, r, c] = 1
    return network.fuse(*(tensors[name] for name in network.fuse.reads), mask)


class Fast(nn.Module):
    """Fast inference with the first k regions, to count what it costs."""

    def __init__(self, network: TwoColumn, k: int) -> None:
        super().__init__()
        self.network, self.k = network, k

    def forward(self, image):
        return chained(self.network, image, range(self.k))
