"""The two kinds of stage: one sees the whole frame, the others refine the blocks that selection picked.

A stage is a torch module that holds everything that touches pixels. It is exported as it stands, and it is the
reference that parity compares with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.export.blocks import AveragePaste, Crop, OwnerPaste
from cascadert.export.glue import (
    BlockMeans,
    Normalise,
    Resample,
    ToRgb,
    as_class_logits,
    entropy_bits,
    labels_of,
    plane_shapes,
    resize,
    sort_blocks,
    whole_frame,
)
from cascadert.geometry import Grid
from cascadert.spec import CascadeSpec, FrameSpec, StageSpec


@dataclass(frozen=True)
class StageContext:
    """What every stage of a cascade shares."""

    frame: FrameSpec
    grid: Grid
    num_classes: int


class FirstStage(nn.Module):
    """Whole frames: `frame` to `labels`, `scores`, `order` (and `entropy`, if the spec asks for it).

    Resize to the network's input, normalise, network, logits back to full resolution, entropy and arg-max there, mean
    entropy per block, blocks sorted by it (paper 000, section 3).
    """

    def __init__(
        self, network: nn.Module, stage: StageSpec, context: StageContext, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.network = network
        self.to_rgb = ToRgb(context.frame.pixel_format)
        self.normalise = Normalise(stage.preprocessing)
        self.resample = Resample((context.frame.height, context.frame.width), input_size)
        self.block_means = BlockMeans(context.grid)
        self.stage, self.context, self.input_size = stage, context, input_size

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the positional inputs of `forward`."""
        return tuple(plane_shapes(self.context.frame))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of `forward`."""
        return ("labels", "scores", "order", *(["entropy"] if self.stage.emit_entropy else []))

    def pixels(self, *planes: Tensor) -> Tensor:
        """Return what the network sees of the frames: float32 `[N, 3, h, w]`."""
        normalised: Tensor = self.normalise(self.resample(self.to_rgb(whole_frame(planes))))
        return normalised

    def logits(self, *planes: Tensor) -> Tensor:
        """Return what entropy and labels are made of: float32 `[N, K, H, W]` at full resolution."""
        logits = checked(self.network(self.pixels(*planes)), self.stage, self.context)
        return resize(as_class_logits(logits), self.context.frame.height, self.context.frame.width)

    def forward(self, *planes: Tensor) -> tuple[Tensor, ...]:
        """Map the planes of N frames to labels `[N, H, W]`, scores and order `[N * G]` (, entropy `[N, H, W]`)."""
        logits = self.logits(*planes)
        entropy = entropy_bits(logits)
        scores, order = sort_blocks(self.block_means(entropy))
        outputs = (labels_of(logits), scores, order)
        return (*outputs, entropy) if self.stage.emit_entropy else outputs

    def margins(self, *planes: Tensor) -> Tensor:
        """Return how far each pixel is from another label: the best logit minus the second, float32 `[N, H, W]`."""
        return top_margin(self.logits(*planes))


class RefineStage(nn.Module):
    """Selected blocks: `frame`, `indices`, `prior_labels` to `labels`; with `rescores`, also `scores` and `order`.

    Crop the first n of `order` with their halo, normalise, network, arg-max inside the block, paste. `rescores` makes
    the stage the first half of the next decision (paper 000, footnote on N models): blocks it refined get their new
    mean entropy, all others minus infinity.
    """

    def __init__(self, network: nn.Module, stage: StageSpec, context: StageContext, rescores: bool) -> None:
        super().__init__()
        frame, grid = context.frame, context.grid
        self.network = network
        self.to_rgb = ToRgb(frame.pixel_format)
        self.normalise = Normalise(stage.preprocessing)
        self.crops = nn.ModuleList(
            Crop(grid, frame.cameras, stage.halo, subsampled=frame.height // shape[1])
            for shape in plane_shapes(frame).values()
        )
        self.paste: nn.Module = (AveragePaste if stage.merge == "average" else OwnerPaste)(grid, frame.cameras)
        self.stage, self.context, self.rescores = stage, context, rescores

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the positional inputs of `forward`."""
        return (*plane_shapes(self.context.frame), "indices", "prior_labels")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of `forward`."""
        return ("labels", "scores", "order") if self.rescores else ("labels",)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of what the network sees: the block and its halo."""
        height, width = self.context.grid.block
        return height + 2 * self.stage.halo, width + 2 * self.stage.halo

    def pixels(self, *tensors: Tensor) -> Tensor:
        """Return what the network sees: float32 `[n, 3, Bh + 2 halo, Bw + 2 halo]`."""
        *planes, indices, _ = tensors
        patches = [crop(plane, indices) for crop, plane in zip(self.crops, planes, strict=True)]
        patch = torch.cat(patches, dim=3) if len(patches) > 1 else patches[0]
        normalised: Tensor = self.normalise(self.to_rgb(patch))
        return normalised

    def logits(self, *tensors: Tensor) -> Tensor:
        """Return what labels are made of: float32 `[n, K, Bh, Bw]`, the halo cut off."""
        logits = checked(self.network(self.pixels(*tensors)), self.stage, self.context)
        logits = resize(as_class_logits(logits), *self.patch_size)
        halo, (height, width) = self.stage.halo, self.context.grid.block
        return logits[:, :, halo : halo + height, halo : halo + width]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map planes, indices int32 `[n]` and labels `[N, H, W]` to refined labels (, scores and order `[N * G]`)."""
        *_, indices, labels = tensors
        logits = self.logits(*tensors)
        refined = logits.softmax(dim=1) if isinstance(self.paste, AveragePaste) else labels_of(logits)
        labels = self.paste(labels, indices, refined)
        return (labels, *self._rescored(logits, indices)) if self.rescores else (labels,)

    def margins(self, *tensors: Tensor) -> Tensor:
        """Return how far each refined pixel is from another label, infinity elsewhere: float32 `[N, H, W]`.

        The difference of the two best logits; of the two best summed probabilities where blocks are averaged.
        """
        *_, indices, labels = tensors
        logits = self.logits(*tensors)
        untouched = torch.full(labels.shape, torch.inf, device=labels.device)
        if isinstance(self.paste, AveragePaste):
            total, covered = self.paste.accumulate(indices, logits.softmax(dim=1))
            return torch.where(covered, top_margin(total, dim=1).reshape(labels.shape), untouched)
        margins: Tensor = self.paste(untouched, indices, top_margin(logits))
        return margins

    def _rescored(self, logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        total = self.context.frame.cameras * self.context.grid.size
        blocks = torch.full((total,), -torch.inf, device=logits.device)
        means = entropy_bits(logits).mean(dim=(1, 2))
        return sort_blocks(blocks.index_put((indices.to(torch.int64),), means))


Stage = FirstStage | RefineStage


def checked(logits: Tensor, stage: StageSpec, context: StageContext) -> Tensor:
    """Return float32 logits.

    Raises:
        NetworkError: the network does not return `[n, K, h, w]` with K the number of classes (or 1 for two classes).
    """
    subject = f"stage '{stage.name}': {stage.model}"
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        found = str(list(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
        raise NetworkError(subject, f"returned {found}", "return logits [N, K, h, w]")
    allowed = {context.num_classes} | ({1} if context.num_classes == 2 else set())
    if logits.shape[1] not in allowed:
        found = f"returned {logits.shape[1]} channels where the spec names {context.num_classes} classes"
        raise NetworkError(subject, found, "mend args or classes")
    return logits.to(torch.float32)


def top_margin(logits: Tensor, dim: int = 1) -> Tensor:
    """Return the best value along `dim` minus the second best."""
    best = logits.topk(2, dim=dim).values
    return best.select(dim, 0) - best.select(dim, 1)


def make_stages(spec: CascadeSpec, networks: dict[str, nn.Module]) -> tuple[Stage, ...]:
    """Put the glue of `spec` around its networks (by stage name), in evaluation mode."""
    context = StageContext(spec.frame, spec.make_grid(), spec.num_classes)
    first, *others = spec.stages
    stages: list[Stage] = [FirstStage(networks[first.name], first, context, spec.network_input_size())]
    for i, stage in enumerate(others, start=2):
        stages.append(RefineStage(networks[stage.name], stage, context, rescores=i < len(spec.stages)))
    for module in stages:
        module.eval()
    return tuple(stages)
