"""Which device a name opens, with what is installed and what is not."""

import sys

import cuda_core_double
import pycuda_double
import pytest
from gpu_simulation import SimulatedGpu

from cascadert.errors import InvalidRequest, MissingExtra
from cascadert.runtime.devices import cuda_probe
from cascadert.runtime.devices.choose import open_device
from cascadert.runtime.devices.cuda_core import CudaCoreDevice
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.devices.pycuda import PyCudaDevice

MODULES = {"cuda-core": "cuda.core", "pycuda": "pycuda.driver"}


def have(monkeypatch: pytest.MonkeyPatch, *installed: str) -> None:
    """Two GPUs, and these bindings."""
    for double in (cuda_core_double, pycuda_double):
        double.install(monkeypatch, SimulatedGpu(), integrated=False)
    for name in MODULES.keys() - {*installed}:
        monkeypatch.setitem(sys.modules, MODULES[name], None)


@pytest.mark.parametrize(
    ("name", "installed", "kind"),
    [
        ("host", ["cuda-core", "pycuda"], HostDevice),
        ("cuda", ["cuda-core", "pycuda"], CudaCoreDevice),
        ("cuda", ["pycuda"], PyCudaDevice),
        ("cuda-core", ["cuda-core"], CudaCoreDevice),
        ("pycuda", ["cuda-core", "pycuda"], PyCudaDevice),
        ("auto", ["cuda-core"], CudaCoreDevice),
        ("auto", ["pycuda"], PyCudaDevice),
        ("auto", [], HostDevice),
    ],
)
def test_a_name_opens(monkeypatch: pytest.MonkeyPatch, name: str, installed: list[str], kind: type) -> None:
    have(monkeypatch, *installed)
    assert type(open_device(name)) is kind


@pytest.mark.parametrize(("name", "extra"), [("cuda", "cuda"), ("cuda-core", "cuda"), ("pycuda", "pycuda")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    have(monkeypatch)
    with pytest.raises(MissingExtra, match=rf"cascadert\[{extra}\]"):
        open_device(name)


def test_only_auto_does_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_probe, "LIBRARY", "libnowhere.so.1")
    assert type(open_device()) is HostDevice
    for name in ("cuda", "cuda-core", "pycuda"):
        with pytest.raises(InvalidRequest, match="there is no NVIDIA driver"):
            open_device(name)


def test_a_wrong_name_or_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="device 'tpu': is not known; choose one of auto, host, cuda"):
        open_device("tpu")
    have(monkeypatch, "cuda-core")
    with pytest.raises(InvalidRequest, match="CUDA device 2"):
        open_device("auto", 2)
