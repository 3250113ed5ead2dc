"""From RGB to the planes of a pixel format, on the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadert.spec import PixelFormat

# BT.601, limited range: the inverse of what the stages do.
_RGB_TO_YUV = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float32)
_YUV_OFFSET = np.array([16.0, 128.0, 128.0], np.float32)


def planes_from_rgb(rgb: NDArray[np.uint8], pixel_format: PixelFormat) -> dict[str, NDArray[np.uint8]]:
    """Turn uint8 `[N, H, W, 3]` RGB into the planes of the port `frame`, by name.

    Chroma of NV12 is the mean of 2 x 2 pixels.
    """
    if pixel_format == "nv12":
        return _nv12(rgb)
    if pixel_format == "bgr8":
        return {"frame": np.ascontiguousarray(rgb[..., ::-1])}
    if pixel_format == "rgba8":
        return {"frame": np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)}
    return {"frame": np.ascontiguousarray(rgb)}


def _nv12(rgb: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    yuv = rgb.astype(np.float32) / 255 @ _RGB_TO_YUV.T + _YUV_OFFSET
    n, height, width, _ = yuv.shape
    chroma = yuv[..., 1:].reshape(n, height // 2, 2, width // 2, 2, 2).mean(axis=(2, 4))
    luma, chroma = (np.rint(plane).clip(0, 255).astype(np.uint8) for plane in (yuv[..., :1], chroma))
    return {"frame.y": luma, "frame.uv": chroma}
