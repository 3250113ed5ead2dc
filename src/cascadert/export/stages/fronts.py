"""What a stage's network sees: whole frames, selected blocks, or tensors of other stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from cascadert.export.blocks import Crop
from cascadert.export.carried import Cells, Uncrop
from cascadert.export.glue import Normalise, Resample, ToRgb, plane_shapes, whole_frame
from cascadert.geometry import Grid
from cascadert.spec import FrameSpec
from cascadert.stage_spec import StageSpec
from cascadert.wiring import Wiring

INDICES, PRIOR_LABELS = "indices", "prior_labels"

Given = Mapping[str, Tensor]


@dataclass(frozen=True)
class StageContext:
    """What every stage of a cascade shares; `wiring` is by stage."""

    frame: FrameSpec
    grid: Grid
    num_classes: int
    wiring: Mapping[str, Wiring]


class Front(Protocol):
    """From the inputs of a stage to those of its network.

    `sources` names the inputs of the stage, in order, and the tensor that each is.
    """

    sources: dict[str, str]

    def __call__(self, given: Given) -> tuple[Tensor, ...]:
        """Return what the network sees."""
        ...


class WholeFrame(nn.Module):
    """Frames, resized to the network's input and normalised: float32 `[N, 3, h, w]`."""

    def __init__(self, stage: StageSpec, context: StageContext, input_size: tuple[int, int]) -> None:
        super().__init__()
        frame = context.frame
        self.to_rgb = ToRgb(frame.pixel_format)
        self.resample = Resample((frame.height, frame.width), input_size)
        self.normalise = Normalise(stage.preprocessing)
        self.sources = {name: name for name in plane_shapes(frame)}

    def forward(self, given: Given) -> tuple[Tensor, ...]:
        """Return `[N, 3, h, w]` alone."""
        planes = tuple(given[name] for name in self.sources)
        return (self.normalise(self.resample(self.to_rgb(whole_frame(planes)))),)


class Blocks(nn.Module):
    """The first n of `order` with their halo, normalised, `[n, 3, P, P]`; then the cells of carried maps under them."""

    def __init__(self, stage: StageSpec, context: StageContext) -> None:
        super().__init__()
        frame, wiring = context.frame, context.wiring[stage.name]
        self.planes = plane_shapes(frame)
        self.to_rgb = ToRgb(frame.pixel_format)
        self.normalise = Normalise(stage.preprocessing)
        self.crops = nn.ModuleList(
            Crop(context.grid, frame.cameras, stage.halo, subsampled=frame.height // shape[1])
            for shape in self.planes.values()
        )
        self.reads = stage.reads
        self.cells = Cells(f"stage '{stage.name}'", context.grid) if self.reads else None
        self.sources = {name: name for name in self.planes} | {INDICES: f"{wiring.after}.order"}
        self.sources |= {name: name for name in self.reads}

    def forward(self, given: Given) -> tuple[Tensor, ...]:
        """Return the patches, then one tensor `[n, C, h, w]` for each that is carried."""
        indices = given[INDICES]
        patches = [crop(given[name], indices) for crop, name in zip(self.crops, self.planes, strict=True)]
        patch = torch.cat(patches, dim=3) if len(patches) > 1 else patches[0]
        pixels = self.normalise(self.to_rgb(patch))
        if self.cells is None:
            return (pixels,)
        return (pixels, *(self.cells(given[name], indices) for name in self.reads))


class Carried(nn.Module):
    """Tensors of other stages as they are; rows of blocks are put back into whole maps, and their mask comes last."""

    def __init__(self, stage: StageSpec, context: StageContext) -> None:
        super().__init__()
        wiring = context.wiring[stage.name]
        self.reads, self.rows_of = stage.reads, wiring.rows_of
        self.sources = {name: name for name in stage.reads}
        self.uncrop = None
        if wiring.rows_of is not None:
            self.uncrop = Uncrop(f"stage '{stage.name}'", context.grid, context.frame.cameras)
            self.sources |= {INDICES: f"{context.wiring[wiring.rows_of].after}.order"}

    def forward(self, given: Given) -> tuple[Tensor, ...]:
        """Return one tensor for each that is read, whole maps, and where there are rows `[N, 1, rows, columns]`."""
        if self.uncrop is None:
            return tuple(given[name] for name in self.reads)
        indices = given[INDICES]
        maps = [
            self.uncrop(given[name], indices) if name.startswith(f"{self.rows_of}.") else given[name]
            for name in self.reads
        ]
        return (*maps, self.uncrop.mask(indices))
