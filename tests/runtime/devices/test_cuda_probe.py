"""The driver is asked through its C interface: here a double of that library, or none."""

import ctypes

import pytest

from cascadert.errors import InvalidRequest
from cascadert.runtime.devices import cuda_probe
from cascadert.runtime.devices.cuda_probe import count_gpus, require_gpu, why_no_gpu


class Library:
    def __init__(self, count: int = 0, status: int = 0) -> None:
        self.count, self.status = count, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: "ctypes._Pointer[ctypes.c_int]") -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuGetErrorName(self, status: int, name: "ctypes._Pointer[ctypes.c_char_p]") -> int:  # noqa: N802
        name._obj.value = b"CUDA_ERROR_NO_DEVICE" if status == 100 else None
        return 0


def use(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Library(count=2))
    assert (count_gpus(), why_no_gpu()) == (2, None)
    require_gpu(1)
    with pytest.raises(InvalidRequest, match=r"CUDA device 2: the driver shows 2 GPU\(s\); choose one of 0 to 1"):
        require_gpu(2)


def test_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Library(count=0))
    assert why_no_gpu() == "the NVIDIA driver shows no GPU"
    with pytest.raises(InvalidRequest, match="CUDA_VISIBLE_DEVICES"):
        require_gpu(0)


def test_a_driver_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Library(status=100))
    assert why_no_gpu() == "the driver says CUDA_ERROR_NO_DEVICE (100)"
    use(monkeypatch, Library(status=7))
    assert why_no_gpu() == "the driver says an unknown error (7)"


def test_no_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_probe, "LIBRARY", "libnowhere.so.1")
    with pytest.raises(InvalidRequest, match=r"there is no NVIDIA driver: libnowhere.so.1"):
        require_gpu(0)
