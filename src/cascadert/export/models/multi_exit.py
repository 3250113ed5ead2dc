"""Multi-exit networks: one backbone, cut into segments, with a head of its own after each.

Source: Kouris et al., "Multi-Exit Semantic Segmentation Networks", arXiv:2106.03527 (paper 004). Every segment and
every head is a submodule that becomes the network of one stage (`part = "segments.0"`, `"exits.0"`), so that a head can
run beside the next segment, and what lies behind the exit that is taken never runs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cascadert.errors import InvalidRequest
from cascadert.export.macs import count_macs
from cascadert.export.models.backbone import Backbone
from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.exit_head import ExitHead, exit_network

REFERENCE_SIZE = 520
"""Side of the image whose multiply-adds place the candidates (the paper's base resolution)."""


@dataclass(frozen=True, kw_only=True)
class PlacedExit(ExitHead):
    """An exit before the last: its head, and the candidate point that it lies at, counted from 1."""

    point: int


class MultiExit(nn.Module):
    """Segments in a row and the head after each; the last is the final one.

    Attributes:
        segments: the first maps normalised images `[N, 3, H, W]` to features, the others features to features.
        exits: features `[N, C, h, w]` to logits `[N, K, h, w]`, one for each segment.
    """

    def __init__(self, segments: Iterable[nn.Module], exits: Iterable[nn.Module]) -> None:
        super().__init__()
        self.segments = nn.ModuleList(segments)
        self.exits = nn.ModuleList(exits)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map normalised images `[N, 3, H, W]` to the logits `[N, K, h, w]` of every exit, the final one last."""
        logits = []
        for segment, head in zip(self.segments, self.exits, strict=True):
            x = segment(x)
            logits.append(head(x))
        return tuple(logits)

    def budgeted(self, index: int) -> nn.Sequential:
        """Return the static network up to one exit, counted from 0: images to its logits, with the same weights.

        What it does not hold is neither exported nor loaded: the budgeted mode of the paper.
        """
        if not 0 <= index < len(self.exits):
            found = f"there are {len(self.exits)}, the final one included"
            raise InvalidRequest(f"exit {index}", found, "count from 0")
        return nn.Sequential(*self.segments[: index + 1], self.exits[index])


def candidate_points(cumulative_macs: Sequence[int], count: int) -> tuple[int, ...]:
    """Place candidates at approximately equal cost.

    Args:
        cumulative_macs: multiply-adds of the backbone up to the end of each unit.
        count: number of candidates N.

    Returns:
        For k = 1 to N, the number of units after which the cost is nearest to k/N of all; where two would fall on the
        same unit, the distinct ones that are nearest in sum. The last is the end of the backbone.

    Raises:
        InvalidRequest: more candidates than units.
    """
    units, total = len(cumulative_macs), cumulative_macs[-1]
    if not 1 <= count <= units:
        raise InvalidRequest(f"{count} candidates", f"the backbone has {units} units", "ask for 1 to that many")
    # By number of units: the least deviation of the candidates so far, none of them deeper, and where they lie.
    within: dict[int, tuple[int, tuple[int, ...]]] = dict.fromkeys(range(units + 1), (0, ()))
    for k in range(1, count + 1):
        at_depth = []
        for depth in range(k, units + 1):
            deviation, points = within[depth - 1]
            at_depth.append((deviation + abs(count * cumulative_macs[depth - 1] - k * total), (*points, depth)))
        within = dict(enumerate(itertools.accumulate(at_depth, min), start=k))
    return within[units][1]


def unit_costs(backbone: Backbone, size: int = REFERENCE_SIZE) -> tuple[list[int], list[int]]:
    """Return for each unit the multiply-adds up to its end, stem included, and the channels that it ends with.

    Counted for one square image; nothing is computed.
    """
    shadow = copy.deepcopy(backbone).to("meta").eval()
    macs, channels, total = [], [], 0
    x = torch.empty(1, 3, size, size, device="meta")
    for module in (shadow.stem, *shadow.layers):
        total += count_macs(module, tuple(x.shape))
        x = module(x)
        macs.append(total)
        channels.append(x.shape[1])
    return macs[1:], channels[1:]


def multi_exit(
    classes: int,
    exits: Sequence[Mapping[str, Any]],
    final: Mapping[str, Any] | None = None,
    *,
    backbone: str = "resnet50",
    output_stride: int = 8,
    width: float = 1.0,
    candidates: int = 6,
    deeplab_channels: int = 256,
) -> MultiExit:
    """Builds a backbone with any of its candidate exits, with fresh weights.

    Args:
        classes: number of classes K.
        exits: a table for each exit before the last: `point`, the number of its candidate, and the fields of
            :class:`~cascadert.export.models.exit_head.ExitHead`.
        final: the fields of the last exit's head.
        backbone: see :func:`~cascadert.export.models.dilated.dilated_backbone`.
        output_stride: 8, 16 or 32; that of the last logits. An exit has the stride of the features it reads.
        width: factor of the backbone's channels; 0.125 makes a network for CPUs and tests.
        candidates: number N of points, of which the last is the backbone's end.
        deeplab_channels: channels of DeepLab heads.

    Raises:
        InvalidRequest: exits that are out of order or no candidates, or options that no head has.
    """
    placed, last = [PlacedExit(**table) for table in exits], ExitHead(**final or {})
    extractor = dilated_backbone(backbone, BackboneForm(output_stride, width))
    macs, channels = unit_costs(extractor)
    ends = [*_ends(placed, candidate_points(macs, candidates)), len(macs)]
    segments = _segments(extractor, ends)
    heads = [
        exit_network(channels[end - 1], classes, head, deeplab_channels)
        for end, head in zip(ends, (*placed, last), strict=True)
    ]
    return MultiExit(segments, heads)


def _ends(placed: Sequence[PlacedExit], points: Sequence[int]) -> list[int]:
    """Return after how many units each exit lies."""
    asked = [one.point for one in placed]
    if asked != sorted(set(asked)) or not all(1 <= point < len(points) for point in asked):
        remedy = f"name each once, ascending, from 1 to {len(points) - 1}; candidate {len(points)} is the final exit"
        raise InvalidRequest("exits", f"lie at the candidates {asked}", remedy)
    return [points[point - 1] for point in asked]


def _segments(backbone: Backbone, ends: Sequence[int]) -> list[nn.Sequential]:
    units = list(backbone.layers)
    starts = [0, *ends[:-1]]
    pieces = [units[start:end] for start, end in zip(starts, ends, strict=True)]
    return [nn.Sequential(backbone.stem, *pieces[0]), *(nn.Sequential(*piece) for piece in pieces[1:])]
