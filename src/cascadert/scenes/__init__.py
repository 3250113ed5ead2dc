"""Seeded procedural street video with exact labels (19 Cityscapes classes).

`render(seed, index, options)` returns one frame, `clip(seed, frames, options)` the first frames of a street::

    scene = render(seed=3, index=0, options=SceneOptions(height=96, width=192, light="night", rain=0.5))
    scene.image.shape, scene.labels.shape  # (96, 192, 3), (96, 192)

`stream` renders a clip ahead in worker processes; `frame_of_split` says which frames make up train, val and shift.

Labels are those of the pixel's centre, pictures the mean of 3 by 3 samples. As in Cityscapes, a trunk is vegetation,
window panes belong to their car or house, rails and lane marks are road, a kerb is sidewalk, people on two wheels are
riders and their vehicle is labelled apart; wheels and fences count as closed surfaces. No pixel is 255 (ignore).
"""

from cascadert.classes import CLASS_NAMES, IGNORE_LABEL, PALETTE
from cascadert.scenes.frame import FRAMES_PER_S, clip, render
from cascadert.scenes.options import LIGHTS, LightName, Scene, SceneOptions
from cascadert.scenes.splits import SPLITS, FrameOfSplit, Split, frame_of_split
from cascadert.scenes.streaming import stream

__all__ = [
    "CLASS_NAMES",
    "FRAMES_PER_S",
    "IGNORE_LABEL",
    "LIGHTS",
    "PALETTE",
    "SPLITS",
    "FrameOfSplit",
    "LightName",
    "Scene",
    "SceneOptions",
    "Split",
    "clip",
    "frame_of_split",
    "render",
    "stream",
]
