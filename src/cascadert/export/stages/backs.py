"""What is made of a network's answer: labels, scores and order, at the resolution of the frame."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cascadert.export.blocks import AveragePaste, OwnerPaste
from cascadert.export.glue import as_class_logits, labels_of, resize, resize_nearest, sort_blocks
from cascadert.export.stages.answers import checked_logits
from cascadert.export.stages.fronts import INDICES, PRIOR_LABELS, Given, StageContext
from cascadert.export.stages.scorers import make_scorer
from cascadert.export.uncertainty import uncertainty
from cascadert.stage_spec import ENTROPY, LABELS, LOGITS, ORDER, SCORES, StageSpec

Answer = Mapping[str, Tensor]


class FrameBack(nn.Module):
    """Of whole frames: logits to full resolution, arg-max and uncertainty there, blocks sorted by it."""

    sources: dict[str, str]

    def __init__(self, subject: str, stage: StageSpec, context: StageContext) -> None:
        super().__init__()
        self.subject, self.context = subject, context
        self.emit, self.measure = context.wiring[stage.name].emit, stage.score.measure
        self.resize = resize_nearest if stage.upsample == "nearest" else resize
        self.scorer = None
        if SCORES in self.emit:
            self.scorer = make_scorer(subject, stage.score, context.grid, context.frame.cameras)
        self.sources = {}

    def logits(self, answer: Answer) -> Tensor:
        """Return what labels are made of: float32 `[N, K, H, W]`."""
        logits = checked_logits(self.subject, answer[LOGITS], self.context.num_classes)
        return self.resize(as_class_logits(logits), self.context.frame.height, self.context.frame.width)

    def forward(self, answer: Answer, given: Given) -> dict[str, Tensor]:
        """Return every output that is made of logits, by name."""
        logits, made = self.logits(answer), dict[str, Tensor]()
        if self.scorer is not None:
            own = {**answer, LOGITS: as_class_logits(answer[LOGITS])}
            made[SCORES], made[ORDER] = self.scorer(own, logits)
        if ENTROPY in self.emit:
            made[ENTROPY] = uncertainty(logits, self.measure)
        if LABELS in self.emit:  # last: ONNX Runtime then needs less memory at once
            made[LABELS] = labels_of(logits)
        if LOGITS in self.emit:
            made[LOGITS] = answer[LOGITS]
        return made

    def margins(self, answer: Answer, given: Given) -> Tensor:
        """Return how far each pixel is from another label: float32 `[N, H, W]`."""
        return top_margin(self.logits(answer))


class BlockBack(nn.Module):
    """Of selected blocks: arg-max inside the block, paste. Blocks that were refined are scored again.

    That makes the stage the first half of the next decision (paper 000, footnote on N models): blocks it refined get
    their new mean uncertainty, all others minus infinity.
    """

    def __init__(self, subject: str, stage: StageSpec, context: StageContext) -> None:
        super().__init__()
        self.subject, self.stage, self.context = subject, stage, context
        wiring = context.wiring[stage.name]
        self.emit = wiring.emit
        paste = AveragePaste if stage.merge == "average" else OwnerPaste
        self.paste = paste(context.grid, context.frame.cameras) if LABELS in self.emit else None
        self.sources = {PRIOR_LABELS: f"{wiring.after}.labels"} if LABELS in self.emit else {}

    def logits(self, answer: Answer) -> Tensor:
        """Return what labels are made of: float32 `[n, K, Bh, Bw]`, the halo cut off."""
        logits = checked_logits(self.subject, answer[LOGITS], self.context.num_classes)
        halo, (height, width) = self.stage.halo, self.context.grid.block
        resize_to = resize_nearest if self.stage.upsample == "nearest" else resize
        logits = resize_to(as_class_logits(logits), height + 2 * halo, width + 2 * halo)
        return logits[:, :, halo : halo + height, halo : halo + width]

    def forward(self, answer: Answer, given: Given) -> dict[str, Tensor]:
        """Return every output that is made of logits, by name."""
        logits, made = self.logits(answer), {}
        if self.paste is not None:
            refined = logits.softmax(dim=1) if isinstance(self.paste, AveragePaste) else labels_of(logits)
            made[LABELS] = self.paste(given[PRIOR_LABELS], given[INDICES], refined)
        if SCORES in self.emit:
            made[SCORES], made[ORDER] = self._rescored(logits, given[INDICES])
        return made

    def margins(self, answer: Answer, given: Given) -> Tensor:
        """Return how far each refined pixel is from another label, infinity elsewhere: float32 `[N, H, W]`.

        The difference of the two best logits; of the two best summed probabilities where blocks are averaged.
        """
        logits, labels, indices = self.logits(answer), given[PRIOR_LABELS], given[INDICES]
        untouched = torch.full(labels.shape, torch.inf, device=labels.device)
        if isinstance(self.paste, AveragePaste):
            total, covered = self.paste.accumulate(indices, logits.softmax(dim=1))
            return torch.where(covered, top_margin(total).reshape(labels.shape), untouched)
        assert self.paste is not None, "a stage without labels has no margins"
        margins: Tensor = self.paste(untouched, indices, top_margin(logits))
        return margins

    def _rescored(self, logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        total = self.context.frame.cameras * self.context.grid.size
        blocks = torch.full((total,), -torch.inf, device=logits.device)
        means = uncertainty(logits, self.stage.score.measure).mean(dim=(1, 2))
        return sort_blocks(blocks.index_put((indices.to(torch.int64),), means))


def top_margin(logits: Tensor) -> Tensor:
    """Return the best value along axis 1 minus the second best."""
    best = logits.topk(2, dim=1).values
    return best.select(1, 0) - best.select(1, 1)
