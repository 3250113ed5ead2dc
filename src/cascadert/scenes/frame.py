"""Render one frame, or a clip."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cascadert.classes import PERSON
from cascadert.errors import SceneError
from cascadert.scenes.camera import Camera
from cascadert.scenes.display import OVERSAMPLING, DisplayList
from cascadert.scenes.finish import Moment, finish
from cascadert.scenes.ground import draw_ground
from cascadert.scenes.night import StreetLight
from cascadert.scenes.options import Scene, SceneOptions
from cascadert.scenes.pen import Pen
from cascadert.scenes.relight import relit
from cascadert.scenes.rng import keyed
from cascadert.scenes.sky import draw_skyline, sky_background
from cascadert.scenes.standing import cross_streets
from cascadert.scenes.style import Style, style_of
from cascadert.scenes.world import items_in_view

FRAMES_PER_S = 15.0
_USUAL = SceneOptions()


def camera_of(style: Style, time_s: float, height: int, width: int) -> Camera:
    """Return where the camera is at `time_s`: it drives in its lane, sways and nods a little."""
    rng = keyed(style.seed, "camera")
    focal = rng.uniform(0.70, 1.0) * math.sqrt(2.0 * width * height)
    horizon = rng.uniform(0.40, 0.50)
    phase = [rng.uniform(0, 2 * math.pi) for _ in range(4)]
    yaw = rng.gauss(0, 0.02) + 0.006 * math.sin(0.5 * time_s + phase[0])
    nod = 0.0025 * math.sin(4.1 * time_s + phase[1]) + 0.003 * math.sin(0.9 * time_s + phase[2])
    layout = style.layout
    return Camera(
        width=width,
        height=height,
        focal_px=focal,
        centre_px=width * 0.5 + yaw * focal,
        horizon_px=height * horizon + nod * focal,
        x_m=layout.lane_centre(layout.ego_lane) + rng.uniform(-0.3, 0.3) + 0.12 * math.sin(0.6 * time_s + phase[3]),
        y_m=rng.uniform(1.2, 1.75),
        z_m=rng.uniform(0, 400) + style.speed_mps * time_s,
        bend=layout.bend,
    )


def render(seed: int, index: int = 0, options: SceneOptions = _USUAL) -> Scene:
    """Render frame `index` of the street `seed`.

    Args:
        seed: Which street; any integer. The street, its light and everything on it follow from it.
        index: Which frame at 15 Hz, from 0. Any frame can be rendered on its own.
        options: Size, clutter, light, rain, and whether to tell objects apart.

    Returns:
        The picture and its exact labels (and instances). The same arguments give the same bits.

    Raises:
        SceneError: `index` is negative.
    """
    if index < 0:
        raise SceneError(f"scene frame index {index}", "negative", "give 0 or more")
    style = relit(style_of(seed), options.light, options.rain)
    time_s = index / FRAMES_PER_S
    camera = camera_of(style, time_s, options.height, options.width)
    pen = Pen(camera, style, time_s)
    canvas = sky_background(style, camera, OVERSAMPLING)
    light = style.light
    lighting = StreetLight(style, camera) if light.lamps else None
    skyline = DisplayList()
    draw_skyline(pen, skyline)
    skyline.paint(canvas, camera, OVERSAMPLING, light.haze_per_m, light.horizon, lighting)
    draw_ground(pen, cross_streets(style, camera.z_m)).paint(canvas, camera, OVERSAMPLING)
    for item in items_in_view(style, options.clutter, time_s, camera):
        pen.solid.begin(item.instance)
        item.draw(pen)
    ids = Image.new("I", canvas.size) if options.instances else None
    pen.solid.paint(canvas, camera, OVERSAMPLING, light.haze_per_m, light.horizon, lighting, ids)
    image, labels = finish(canvas, pen.shadows, Moment(style, camera, index, time_s), OVERSAMPLING, lighting)
    return Scene(image=image, labels=labels, instances=None if ids is None else _numbers(ids, labels))


def _numbers(ids: Image.Image, labels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The id at each pixel's centre `[H, W]`; 0 where something else hides the object."""
    numbers = np.asarray(ids.resize(labels.shape[::-1], Image.Resampling.NEAREST))
    return np.where(labels >= PERSON, numbers, np.int32(0))


def clip(seed: int, frames: int, options: SceneOptions = _USUAL) -> Iterator[Scene]:
    """Yield the first `frames` frames of the street `seed`.

    Raises:
        SceneError: `frames` is negative.
    """
    if frames < 0:
        raise SceneError(f"scene clip of {frames} frames", "a negative number", "give 0 or more")
    for index in range(frames):
        yield render(seed, index, options)
