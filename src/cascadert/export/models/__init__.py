"""Networks that come with cascadert, by name.

A network maps normalised images ``[N, 3, H, W]`` to logits ``[N, K, h, w]`` at any stride. Any other
``torch.nn.Module`` that does so serves as well.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from cascadert.export.models.deeplab import deeplabv3, deeplabv3_plus
from cascadert.export.models.enet import enet
from cascadert.export.models.ensemble import ensemble
from cascadert.export.models.fcn import fcn
from cascadert.export.models.icnet import icnet
from cascadert.export.models.multi_exit import multi_exit
from cascadert.export.models.pspnet import pspnet_r50, pspnet_r101, pspnet_small
from cascadert.export.models.two_column import dense_columns, two_column
from cascadert.export.models.two_stage import two_stage

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3": deeplabv3,
    "deeplabv3-plus": deeplabv3_plus,
    "dense-columns": dense_columns,
    "enet": enet,
    "ensemble": ensemble,
    "fcn": fcn,
    "icnet": icnet,
    "multi-exit": multi_exit,
    "pspnet-r101": pspnet_r101,
    "pspnet-r50": pspnet_r50,
    "pspnet-small": pspnet_small,
    "two-column": two_column,
    "two-stage": two_stage,
}

__all__ = [
    "NETWORKS",
    "deeplabv3",
    "deeplabv3_plus",
    "enet",
    "ensemble",
    "fcn",
    "icnet",
    "pspnet_r50",
    "pspnet_r101",
    "pspnet_small",
    "two_stage",
]
