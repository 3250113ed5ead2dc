"""Labelled frames with the two networks that were trained for them: CamVid's validation clip, and generated streets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from street_data import Data, load_camvid, load_scenes

from cascadert.classes import CAMVID, CITYSCAPES
from experiments.experiment import Context

_REPOSITORY = Path(__file__).parents[2]

Size = tuple[int, int]


@dataclass(frozen=True)
class FastStage:
    """ENet on the frame, shrunk to `input_size` (height, width)."""

    input_size: Size


@dataclass(frozen=True)
class AccurateStage:
    """The small PSPNet on blocks.

    Attributes:
        block: height and width in pixels.
        stride: of the blocks; none for side by side.
        halo: pixels of context around each.
        enlarge: factor by which the network enlarges what it sees.
        merge: "owner" or "average", where blocks overlap.
        weights: safetensors; none for the clip's own.
    """

    block: Size
    stride: Size | None = None
    halo: int = 0
    enlarge: float = 1.25
    merge: str = "owner"
    weights: Path | None = None


@dataclass(frozen=True)
class Clip:
    """Frames uint8 `[F, H, W, 3]` with their truth uint8 `[F, H, W]`, and the cascade that was made for them."""

    name: str
    classes: str
    names: tuple[str, ...]
    frames: NDArray[np.uint8]
    truths: NDArray[np.uint8]
    weights: Path
    fast: FastStage
    accurate: AccurateStage

    @property
    def size(self) -> Size:
        """Height and width of the frames."""
        return self.truths.shape[1], self.truths.shape[2]

    @property
    def fast_weights(self) -> Path:
        """Of ENet."""
        return self.weights / "enet.safetensors"

    @property
    def accurate_weights(self) -> Path:
        """Of the small PSPNet."""
        return self.weights / "pspnet_small.safetensors"


def camvid_clip(context: Context) -> Clip:
    """CamVid's 101 validation frames, and the cascade of examples/camvid/camvid.toml."""
    data, weights = load_camvid(context.camvid, "val"), _REPOSITORY / "examples" / "camvid" / "weights"
    fast, accurate = FastStage((144, 192)), AccurateStage((120, 120), halo=68)
    return _clip("camvid", "camvid", CAMVID.names, data, weights, fast, accurate)


def scenes_clip(context: Context) -> Clip:
    """80 frames of streets that no network was trained on, and the cascade of `cascadert demo`."""
    data = load_scenes("val", 80, context.options.cache)
    weights = _REPOSITORY / "src" / "cascadert" / "scenes" / "weights"
    fast, accurate = FastStage((192, 384)), AccurateStage((96, 96), halo=48, enlarge=1.0)
    return _clip("scenes", "cityscapes", CITYSCAPES.names, data, weights, fast, accurate)


def thinned(clip: Clip, every: int) -> Clip:
    """Return a clip with one of `every` frames: neighbours on a street are much alike."""
    return replace(clip, frames=clip.frames[::every], truths=clip.truths[::every])


def _clip(
    name: str, classes: str, names: tuple[str, ...], data: Data, weights: Path, fast: FastStage, accurate: AccurateStage
) -> Clip:
    return Clip(name, classes, names, data.images.numpy(), data.labels.numpy(), weights, fast, accurate)
