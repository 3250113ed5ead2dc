"""RGB pictures in the pixel format that a bundle takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cascadert.spec import PixelFormat

Image8: TypeAlias = NDArray[np.uint8]
Planes: TypeAlias = Image8 | Mapping[str, Image8]

# BT.601, limited range: NV12 as cameras and decoders of embedded boards hand it out and as exported graphs read it.
_RGB_TO_YUV = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float32
) / np.float32(255)
_YUV_OFFSET = np.array([16, 128, 128], np.float32)


def to_planes(rgb: Image8, pixel_format: PixelFormat) -> Planes:
    """Map an RGB picture uint8 `[H, W, 3]` to a bundle's pixel format: uint8 `[H, W, C]`.

    For NV12, a mapping of `frame.y` `[H, W, 1]` and `frame.uv` `[H/2, W/2, 2]`; H and W are even.
    """
    if pixel_format == "nv12":
        return _nv12(rgb)
    if pixel_format == "bgr8":
        return np.ascontiguousarray(rgb[..., ::-1])
    if pixel_format == "rgba8":
        return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=2)
    return rgb


def _nv12(rgb: Image8) -> Mapping[str, Image8]:
    yuv = rgb.astype(np.float32) @ _RGB_TO_YUV.T + _YUV_OFFSET
    height, width = rgb.shape[:2]
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3))
    luma, chroma = (np.rint(values).clip(0, 255).astype(np.uint8) for values in (yuv[..., :1], chroma))
    return {"frame.y": luma, "frame.uv": chroma}


def stack_cameras(planes: Sequence[Planes]) -> Planes:
    """Put the pictures of N cameras on a new first axis, plane by plane."""
    first = planes[0]
    if isinstance(first, Mapping):
        return {name: np.stack([plane[name] for plane in planes if isinstance(plane, Mapping)]) for name in first}
    return np.stack([plane for plane in planes if not isinstance(plane, Mapping)])
