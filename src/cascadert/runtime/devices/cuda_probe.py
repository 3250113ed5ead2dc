"""Whether there is an NVIDIA driver with a GPU. Asks the driver itself, so no binding need be installed."""

from __future__ import annotations

import ctypes

from cascadert.errors import InvalidRequest

LIBRARY = "libcuda.so.1"


def count_gpus() -> int:
    """Return how many GPUs the driver shows this process.

    Raises:
        InvalidRequest: there is no driver, or it does not start.
    """
    wanted, host = "a CUDA device", "install NVIDIA's driver, or run the bundle, or what was built for cpu"
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise InvalidRequest(wanted, f"there is no NVIDIA driver: {error}", host) from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        raise InvalidRequest(wanted, f"the driver says {_error_name(driver, status)}", host)
    return count.value


def why_no_gpu() -> str | None:
    """Return why there is no GPU to run on, or none where there is one."""
    try:
        return None if count_gpus() else "the NVIDIA driver shows no GPU"
    except InvalidRequest as error:
        return error.found


def require_gpu(ordinal: int) -> None:
    """Check that a GPU is there.

    Raises:
        InvalidRequest: no driver, no GPU at all, or none of this ordinal.
    """
    count = count_gpus()
    if not 0 <= ordinal < count:
        none = "check CUDA_VISIBLE_DEVICES, or run the bundle, or what was built for cpu"
        remedy = f"choose one of 0 to {count - 1}" if count else none
        raise InvalidRequest(f"CUDA device {ordinal}", f"the driver shows {count} GPU(s)", remedy)


def _error_name(driver: ctypes.CDLL, status: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    return (name.value or b"an unknown error").decode() + f" ({status})"
