"""A pinhole camera over a flat street that may bend.

World axes in metres: x to the right, y up, z along the street. The street bends by a shear: a point `d` metres ahead
moves sideways by `bend * d**2`, which keeps far-to-near order by z and costs one multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR_M = 0.7
FAR_M = 230.0


@dataclass(frozen=True)
class Camera:
    """Where the camera is and how it maps metres to pixels.

    Attributes:
        width: Columns of the picture.
        height: Rows of the picture.
        focal_px: Focal length in pixels.
        centre_px: Column of the direction of travel.
        horizon_px: Row of the horizon.
        x_m: Position across the street.
        y_m: Height over the road.
        z_m: Position along the street.
        bend: Curvature of the street, 1/m.
    """

    width: int
    height: int
    focal_px: float
    centre_px: float
    horizon_px: float
    x_m: float
    y_m: float
    z_m: float
    bend: float

    def project(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map world points `[P, 3]` to pixels `[P, 2]` (column, row) and depths `[P]` in metres.

        Points behind the near plane are moved onto it along z: exact for faces that are parallel to an axis.
        """
        ahead = points[:, 2] - self.z_m
        depth = np.maximum(ahead, NEAR_M)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.centre_px + self.focal_px * ((points[:, 0] - self.x_m) / depth + self.bend * depth)
        pixels[:, 1] = self.horizon_px + self.focal_px * (self.y_m - points[:, 1]) / depth
        return pixels, ahead

    def pixels_per_metre(self, z_m: float) -> float:
        """Scale of an upright object that stands at `z_m`."""
        return self.focal_px / max(z_m - self.z_m, NEAR_M)

    def sees(self, x0: float, x1: float, z0: float, z1: float) -> bool:
        """Whether anything of the upright box may be inside the picture's left and right edges."""
        if z1 - self.z_m < NEAR_M or z0 - self.z_m > FAR_M:
            return False
        left, right = self.columns(np.array([x0]), np.array([x1]), np.array([z0]), np.array([z1]))
        return bool(right[0] > 0 and left[0] < self.width)

    def columns(
        self, x0: NDArray[np.float64], x1: NDArray[np.float64], z0: NDArray[np.float64], z1: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Leftmost and rightmost column of upright boxes."""
        near, far = np.maximum(z0 - self.z_m, NEAR_M), np.maximum(z1 - self.z_m, NEAR_M)
        left = np.minimum((x0 - self.x_m) / near + self.bend * near, (x0 - self.x_m) / far + self.bend * far)
        right = np.maximum((x1 - self.x_m) / near + self.bend * near, (x1 - self.x_m) / far + self.bend * far)
        return self.centre_px + self.focal_px * left, self.centre_px + self.focal_px * right
