"""Frames as callers give them: checked, and told apart by whose memory they are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cascadert.device import Device
from cascadert.errors import InvalidRequest
from cascadert.runtime.plan import Plan, Tensor
from cascadert.runtime.results import Array, Planes

_HOST_DEVICES = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost


def sort_planes(frame: Planes, plan: Plan, device: Device) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the planes of a frame on the host, as arrays `[N, H, W, C]`, and those in device memory as they are.

    Raises:
        InvalidRequest: other planes than the pixel format has, or one of another size, type or device.
    """
    planes = dict(frame) if isinstance(frame, Mapping) else {"frame": frame}
    if set(planes) != set(plan.planes):
        raise InvalidRequest("frame", f"has the planes {sorted(planes)}", f"give {sorted(plan.planes)}")
    host: dict[str, Array] = {}
    foreign: dict[str, Any] = {}
    for name, plane in planes.items():
        array = _on_host(plane)
        if array is not None:
            host[name] = _checked(array, plan.planes[name])
        else:
            foreign[name] = _checked_foreign(plane, plan.planes[name], device)
    return host, foreign


def _on_host(plane: Any) -> Array | None:
    if isinstance(plane, np.ndarray):
        return plane
    if hasattr(plane, "__dlpack_device__") and int(plane.__dlpack_device__()[0]) in _HOST_DEVICES:
        array: Array = np.from_dlpack(plane)
        return array
    return None


def _checked(array: Array, tensor: Tensor) -> Array:
    """Return the plane as `[N, H, W, C]`, adding the camera axis where there is one camera."""
    full = array[np.newaxis] if array.ndim == 3 and tensor.shape[0] == 1 else array
    if full.dtype != np.uint8 or full.shape != tensor.shape:
        found = f"is {array.dtype} {list(array.shape)}"
        remedy = f"give uint8 {list(tensor.shape)}, or have the source fitted (frame.fit in the spec)"
        raise InvalidRequest(tensor.name, found, remedy)
    return full


def _checked_foreign(plane: Any, tensor: Tensor, device: Device) -> Any:
    wanted = f"give uint8 {list(tensor.shape)}"
    if not hasattr(plane, "__dlpack_device__"):
        raise InvalidRequest(tensor.name, f"is a {type(plane).__name__}", f"{wanted} as a numpy array")
    if not device.takes_device_arrays:
        found = f"is a {type(plane).__name__} in the memory of a GPU, and the pipeline runs on {device.name}"
        raise InvalidRequest(tensor.name, found, f"{wanted} in host memory")
    if tuple(plane.shape) != tensor.shape:
        raise InvalidRequest(tensor.name, f"is {plane.dtype} {list(plane.shape)} on the GPU", wanted)
    return plane
