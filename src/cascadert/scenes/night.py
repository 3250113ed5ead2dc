"""Light of street lamps and of our own headlights, on objects and on the ground."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import BUILDING, FENCE, TRAFFIC_SIGN, WALL
from cascadert.scenes.camera import Camera
from cascadert.scenes.display import CLASS_BITS, LIT
from cascadert.scenes.scaling import enlarged
from cascadert.scenes.standing import lamps_near
from cascadert.scenes.style import Style

# Relit pixel by pixel in `StreetLight.maps`: their polygons are too long for one brightness each.
FRONTS = (BUILDING, WALL, FENCE)
_COARSE = 6  # maps are made at a sixth of the picture's size
_MOST = 3.0  # brightness that the maps' bytes reach
_BEAM = (0.96, 0.98, 1.0)
_BEAM_HEIGHT_M = 0.65


class StreetLight:
    """How bright it is at any place of the street, by night or dusk."""

    def __init__(self, style: Style, camera: Camera) -> None:
        self._style, self._camera = style, camera
        light = style.light
        self._lamps = lamps_near(style, camera.z_m)
        tone = 1 + light.dark * (np.array((0.85, 0.95, 1.20)) - 1)
        # Where lamps are few the camera's exposure is longer.
        exposure = 1 + 0.9 * light.dark / (1 + _lamps_of(style) / 3)
        self._base = ((1 - light.dark) * exposure * tone).astype(np.float32)
        self._colour = (light.lamps * np.asarray(light.lamp_colour)).astype(np.float32)
        self._beam = (light.lamps * np.asarray(_BEAM)).astype(np.float32)

    def gain(self, points: NDArray[np.float64], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the factors `[P, 3]` for surfaces at `points` `[P, 3]` with `codes` (label and flags) `[P]`."""
        x, y, z = points.T.astype(np.float32)
        beam = self._headlights(x, y, z)
        # Signs throw light back to where it came from.
        sign = (codes & CLASS_BITS) == TRAFFIC_SIGN
        ahead = np.maximum(z - self._camera.z_m, 1.0)
        beam = np.where(sign, beam + 0.55 / (1 + (ahead / 45) ** 2), beam)
        found = self._mixed(beam, self._lamplight(x, y, z))
        found[((codes & LIT) > 0) | np.isin(codes, FRONTS)] = 1.0
        return np.asarray(found, dtype=np.float64)

    def maps(self, depth: NDArray[np.float32], wall: NDArray[np.float32]) -> tuple[NDArray[np.uint8], ...]:
        """Return the light on the ground and on the fronts, uint8 `[H, W, 4]` each, in units of `UNIT`.

        Args:
            depth: Distance `[H]` of the ground that each row shows.
            wall: Distance `[W]` of the front that each column shows.
        """
        camera = self._camera
        i, j = (np.arange(0, side, _COARSE) + _COARSE // 2 for side in (camera.height, camera.width))
        near, along = depth.take(i, mode="clip")[:, None], wall.take(j, mode="clip")[None, :]
        rows, columns = i[:, None].astype(np.float32), j[None, :].astype(np.float32)
        tangent = (columns - camera.centre_px) / camera.focal_px
        across = (tangent - camera.bend * near) * near + camera.x_m
        ground = self._at(across, np.float32(0.0), near + camera.z_m)
        layout = self._style.layout
        front = np.where(tangent < 0, layout.frontage(-1), layout.frontage(1)).astype(np.float32)
        height = camera.y_m + (camera.horizon_px - rows) / camera.focal_px * along
        fronts = self._at(front, height, along + camera.z_m)
        return self._enlarged(ground), self._enlarged(fronts)

    def _enlarged(self, light: NDArray[np.float32]) -> NDArray[np.uint8]:
        planes = light.transpose(2, 0, 1) * np.float32(1 / UNIT)
        return enlarged(planes, _COARSE, self._camera.height, self._camera.width)

    def _at(
        self, x: NDArray[np.float32], y: NDArray[np.float32] | np.float32, z: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self._mixed(self._headlights(x, y, z), self._lamplight(x, y, z))

    def _mixed(self, beam: NDArray[np.float32], lamps: NDArray[np.float32]) -> NDArray[np.float32]:
        found = self._base + lamps[..., None] * self._colour + beam[..., None] * self._beam
        return np.asarray(found, dtype=np.float32)

    def _headlights(
        self, x: NDArray[np.float32], y: NDArray[np.float32] | np.float32, z: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Dipped beams: wide and near, cut off above the height at which they leave the car."""
        camera = self._camera
        ahead = np.maximum(z - np.float32(camera.z_m), np.float32(0.7))
        aside = (x - np.float32(camera.x_m)) / ahead + np.float32(camera.bend) * ahead
        rise = (y - np.float32(_BEAM_HEIGHT_M)) / ahead
        cut = 1 / (1 + np.exp(np.minimum((rise - 0.012) / 0.012, 40)))
        spread = np.exp(-((aside / 0.42) ** 2)) * np.exp(-((rise / 0.20) ** 2))
        return np.asarray(1.15 * cut * spread / (1 + (ahead / 20) ** 2), dtype=np.float32)

    def _lamplight(
        self, x: NDArray[np.float32], y: NDArray[np.float32] | np.float32, z: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What lamps shed downwards, each by the inverse square of its distance and the cosine to the vertical."""
        total = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(z)), dtype=np.float32)
        for at_x, at_y, at_z in self._lamps:
            below = np.maximum(np.float32(at_y) - y, np.float32(0))
            flat = (x - np.float32(at_x)) ** 2 + (z - np.float32(at_z)) ** 2
            square = below * below + flat
            total += np.float32(0.62 * at_y**2) * below / (square * np.sqrt(square) + 1)
        return np.asarray(total / (1 + np.float32(0.35) * total), dtype=np.float32)


UNIT = _MOST / 255.0


@lru_cache(maxsize=8)
def _lamps_of(style: Style) -> int:
    """How many lamps a fixed 180 m of the street have, so that no frame is exposed unlike the one before."""
    return len(lamps_near(style, 300.0))
