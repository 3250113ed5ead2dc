"""Seeded procedural street video with exact labels (19 Cityscapes classes).

    >>> from cascadert.scenes import SceneOptions, render
    >>> scene = render(seed=3, index=0, options=SceneOptions(height=96, width=192))
    >>> scene.image.shape, scene.labels.shape
    ((96, 192, 3), (96, 192))
"""

from cascadert.classes import CLASS_NAMES, IGNORE_LABEL, PALETTE
from cascadert.scenes.frame import FRAMES_PER_S, clip, render
from cascadert.scenes.options import Scene, SceneOptions

__all__ = ["CLASS_NAMES", "FRAMES_PER_S", "IGNORE_LABEL", "PALETTE", "Scene", "SceneOptions", "clip", "render"]
