"""Networks that come with cascadert, by name.

A network maps normalised images ``[N, 3, H, W]`` to logits ``[N, K, h, w]`` at any stride. Any other
``torch.nn.Module`` that does so serves as well.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from cascadert.export.models.enet import enet
from cascadert.export.models.pspnet import pspnet_r50, pspnet_small

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "enet": enet,
    "pspnet-r50": pspnet_r50,
    "pspnet-small": pspnet_small,
}

__all__ = ["NETWORKS", "enet", "pspnet_r50", "pspnet_small"]
