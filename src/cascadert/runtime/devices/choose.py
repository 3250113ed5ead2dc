"""Open a device by its name."""

from __future__ import annotations

from collections.abc import Callable

from cascadert.device import Device
from cascadert.errors import InvalidRequest, MissingExtra
from cascadert.runtime.devices.cuda_core import CudaCoreDevice
from cascadert.runtime.devices.cuda_device import CudaDevice
from cascadert.runtime.devices.cuda_probe import why_no_gpu
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.devices.pycuda import PyCudaDevice


def open_device(name: str = "auto", ordinal: int = 0) -> Device:
    """Open a device.

    Args:
        name: "host"; "cuda-core" or "pycuda"; "cuda" for the first of these two that is installed; "auto" for "cuda"
            where there is a GPU and one of them is installed, else "host". `Device.name` says what it became.
        ordinal: which GPU, among those the driver shows; without meaning on the host.

    Raises:
        InvalidRequest: an unknown name, no driver, or no such GPU.
        MissingExtra: no binding of CUDA is installed.
    """
    if name not in _OPENERS:
        raise InvalidRequest(f"device '{name}'", "is not known", f"choose one of {', '.join(_OPENERS)}")
    return _OPENERS[name](ordinal)


def open_gpu(name: str = "cuda", ordinal: int = 0) -> CudaDevice:
    """Open a GPU; see `open_device`.

    Raises:
        InvalidRequest: also where `name` is not that of a GPU.
        MissingExtra: no binding of CUDA is installed.
    """
    device = open_device(name, ordinal)
    if not isinstance(device, CudaDevice):
        raise InvalidRequest(f"device '{name}'", f"is {device.name}, and engines run on a GPU", "choose cuda")
    return device


def _open_host(ordinal: int) -> Device:
    return HostDevice()


def _open_cuda(ordinal: int) -> Device:
    try:
        return CudaCoreDevice(ordinal)
    except MissingExtra as missing:
        try:
            return PyCudaDevice(ordinal)
        except MissingExtra:
            raise missing from None


def _open_auto(ordinal: int) -> Device:
    if why_no_gpu() is not None:
        return HostDevice()
    try:
        return _open_cuda(ordinal)
    except MissingExtra:
        return HostDevice()


_OPENERS: dict[str, Callable[[int], Device]] = {
    "auto": _open_auto,
    "host": _open_host,
    "cuda": _open_cuda,
    "cuda-core": CudaCoreDevice,
    "pycuda": PyCudaDevice,
}
