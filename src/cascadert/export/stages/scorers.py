"""How hard each block of a frame is, sorted: what the next decision sees."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.export.confidence import Confidence
from cascadert.export.glue import BlockMeans, sort_blocks
from cascadert.export.stages.answers import SCORE
from cascadert.export.uncertainty import uncertainty
from cascadert.geometry import Grid
from cascadert.stage_spec import LOGITS, ScoreSpec

Scores = tuple[Tensor, Tensor]


class MeanUncertainty(nn.Module):
    """Mean uncertainty of each block at full resolution (paper 000, section 3)."""

    def __init__(self, score: ScoreSpec, grid: Grid) -> None:
        super().__init__()
        self.measure, self.means = score.measure, BlockMeans(grid)

    def forward(self, answer: Mapping[str, Tensor], full: Tensor) -> Scores:
        """Map logits `full` `[N, K, H, W]` to scores and order `[N * G]`."""
        return sort_blocks(self.means(uncertainty(full, self.measure)))


class ImageDoubt(nn.Module):
    """One block, the frame: 1 - c at the logits' own stride; of several cameras the least confident counts."""

    def __init__(self, score: ScoreSpec) -> None:
        super().__init__()
        self.confidence = Confidence(score.pixel, score.smoothing, score.window)

    def forward(self, answer: Mapping[str, Tensor], full: Tensor) -> Scores:
        """Map the logits of `answer`, `[N, K, h, w]`, to a score and order `[1]`."""
        return sort_blocks((1 - self.confidence(answer[LOGITS])).amax(dim=0, keepdim=True))


class LearnedScore(nn.Module):
    """The network's own score of each block (paper 003, s), as a share from 0 to 1."""

    def __init__(self, subject: str, grid: Grid, cameras: int) -> None:
        super().__init__()
        self.subject, self.shape = subject, (cameras, 1, *grid.shape)

    def forward(self, answer: Mapping[str, Tensor], full: Tensor) -> Scores:
        """Map `score` of `answer`, `[N, 1, rows, columns]`, to scores and order `[N * G]`.

        Raises:
            NetworkError: the network returns none, or not one for each block.
        """
        found = tuple(answer[SCORE].shape) if SCORE in answer else None
        if found != self.shape:
            words = f"returned no '{SCORE}'" if found is None else f"returned '{SCORE}' {list(found)}"
            raise NetworkError(self.subject, words, f"return one of {list(self.shape)}: one for each block")
        # Flattened first: a network that takes the sigmoid of its score, too, shares no operator with the glue then.
        return sort_blocks(answer[SCORE].reshape(-1).sigmoid())


def make_scorer(subject: str, score: ScoreSpec, grid: Grid, cameras: int) -> nn.Module:
    """Return the module that scores whole frames."""
    if score.measure == "confidence":
        return ImageDoubt(score)
    if score.measure == "learned":
        return LearnedScore(subject, grid, cameras)
    return MeanUncertainty(score, grid)
