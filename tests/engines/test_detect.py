"""Which target a GPU is. What CUDA and the device trees of Jetsons say is from logs of such boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascadert.deployment import GpuFingerprint
from cascadert.engines import detect
from cascadert.engines.detect import GpuFacts, detect_target, fingerprint, match_target, read_modules
from cascadert.engines.profiles import list_targets
from cascadert.errors import TargetError
from cascadert.runtime.devices import cuda_probe
from cascadert.runtime.devices.choose import open_gpu
from cascadert.runtime.devices.cuda_probe import why_no_gpu

NO_GPU = why_no_gpu()
NO_TREE: tuple[str, ...] = ()
MIB = 2**20


def facts(
    name: str, capability: str, mib: int, modules: tuple[str, ...] = NO_TREE, multiprocessors: int = 8
) -> GpuFacts:
    gpu = GpuFingerprint(
        name=name, compute_capability=capability, multiprocessors=multiprocessors, memory_bytes=mib * MIB
    )
    return GpuFacts(gpu, modules)


def orin(mib: int, *modules: str) -> GpuFacts:
    return facts("Orin", "8.7", mib, tuple(f"nvidia,{module}" for module in modules))


KNOWN = [
    ("gtx-1080-ti", facts("NVIDIA GeForce GTX 1080 Ti", "6.1", 11178)),
    ("gtx-1080-ti", facts("GeForce GTX 1080 Ti", "6.1", 11178)),
    ("t4", facts("Tesla T4", "7.5", 15102)),
    ("rtx-20", facts("NVIDIA GeForce RTX 2080 Ti", "7.5", 11019)),
    ("rtx-20", facts("Quadro RTX 6000", "7.5", 24220)),
    ("a100", facts("NVIDIA A100-SXM4-40GB", "8.0", 40536)),
    ("a100", facts("NVIDIA A30", "8.0", 24258)),
    ("rtx-30", facts("NVIDIA GeForce RTX 3090", "8.6", 24268)),
    ("rtx-30", facts("NVIDIA GeForce RTX 3060 Laptop GPU", "8.6", 5938)),
    ("rtx-30", facts("NVIDIA RTX A6000", "8.6", 48685)),
    ("rtx-30", facts("NVIDIA A10", "8.6", 22731)),
    ("rtx-40", facts("NVIDIA GeForce RTX 4090", "8.9", 24217)),
    ("rtx-40", facts("NVIDIA RTX 6000 Ada Generation", "8.9", 48529)),
    ("l4", facts("NVIDIA L4", "8.9", 22700)),
    ("l40", facts("NVIDIA L40", "8.9", 45488)),
    ("l40", facts("NVIDIA L40S", "8.9", 45488)),
    ("h100", facts("NVIDIA H100 80GB HBM3", "9.0", 81090)),
    ("h200", facts("NVIDIA H200", "9.0", 143156)),
    ("rtx-50", facts("NVIDIA GeForce RTX 5090", "12.0", 32111)),
    ("rtx-50", facts("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "12.0", 97251)),
    ("dgx-spark", facts("NVIDIA GB10", "12.1", 122570)),
    (
        "thor",
        facts("NVIDIA Thor", "11.0", 125772, ("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264")),
    ),
    ("orin-nano-8gb", orin(7618, "p3768-0000+p3767-0005", "p3767-0005", "tegra234")),
    ("orin-nano-8gb", orin(7337, "p3768-0000+p3767-0003", "p3767-0003", "tegra234")),
    ("orin-nano-4gb", orin(3312, "p3768-0000+p3767-0004", "p3767-0004", "tegra234")),
    ("orin-nx", orin(7618, "p3768-0000+p3767-0001", "p3767-0001", "tegra234")),
    ("orin-nx", orin(15388, "p3768-0000+p3767-0000", "p3767-0000", "tegra234")),
    ("agx-orin", orin(62841, "p3737-0000+p3701-0005", "p3701-0005", "tegra234")),
    ("xavier-nx", facts("Xavier", "7.2", 7770, ("nvidia,p3449-0000+p3668-0000", "nvidia,tegra194"))),
    ("agx-xavier", facts("Xavier", "7.2", 15815, ("nvidia,p2972-0000", "nvidia,p2888-0001", "nvidia,tegra194"))),
    ("nano", facts("NVIDIA Tegra X1", "5.3", 3963, ("nvidia,p3450-0000", "nvidia,tegra210"))),
    ("tx2", facts("NVIDIA Tegra X2", "6.2", 7850, ("nvidia,p2771-0000", "nvidia,p3310-1000", "nvidia,tegra186"))),
    # No device tree to be seen, as in a container: the memory decides where it can.
    ("orin-nano-4gb", orin(3312)),
    ("orin-nx", orin(15657)),
    ("agx-orin", orin(62841)),
    ("thor", facts("NVIDIA Thor", "11.0", 125517)),
    ("agx-xavier", facts("Xavier", "7.2", 31919)),
]


@pytest.mark.parametrize(
    ("name", "found"), KNOWN, ids=[f"{name}: {found.gpu.name} {found.modules}" for name, found in KNOWN]
)
def test_a_gpu_is_one_target(name: str, found: GpuFacts) -> None:
    assert match_target(found).name == name


def test_every_gpu_target_was_found_once() -> None:
    assert {name for name, _ in KNOWN} == {target.name for target in list_targets()} - {"cpu"}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            orin(7618),
            r"the GPU may be any of orin-nano-8gb, orin-nx: Orin, compute capability 8\.7, 7\.4 GiB; name the",
        ),
        (facts("Xavier", "7.2", 15815), r"the GPU may be any of agx-xavier, xavier-nx: Xavier"),
        (
            orin(30697, "p9999-0000"),
            r"no target names this GPU: Orin, .* 30\.0 GiB, nvidia,p9999-0000; .*: orin-nano-4gb, ",
        ),
        (
            facts("NVIDIA GeForce GTX 1660 Ti", "7.5", 5927),
            r"no target names this GPU: NVIDIA GeForce GTX 1660 Ti, .*: rtx-20, t4;",
        ),
        (facts("NVIDIA GH200 480GB", "9.0", 97280), r".*; of its compute capability: h100, h200; name the target"),
        (
            facts("Tesla V100-SXM2-16GB", "7.0", 16144),
            r".*; of its compute capability: none; name the target, see cascadert targets",
        ),
        (facts("Tesla T4", "8.6", 15102), r"no target names this GPU: Tesla T4, compute capability 8\.6"),
        (facts("NVIDIA L400", "8.9", 22700), r"no target names this GPU: NVIDIA L400"),
    ],
)
def test_unknown_and_ambiguous_gpus_are_refused(found: GpuFacts, message: str) -> None:
    with pytest.raises(TargetError, match=rf"^target auto: {message}"):
        match_target(found)


def test_modules_of_a_device_tree(tmp_path: Path) -> None:
    tree = tmp_path / "compatible"
    assert read_modules(tree) == ()
    tree.write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    assert read_modules(tree) == ("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234")


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_probe, "LIBRARY", "libnowhere.so.1")
    with pytest.raises(
        TargetError, match=r"^target auto: a CUDA device: there is no NVIDIA driver: .*; name the target"
    ):
        detect_target()


class FakeGpu:
    """A GPU as far as detection reads one."""

    name, compute_capability, multiprocessors, memory_bytes = "Orin", "8.7", 8, 7618 * MIB
    closed = False

    def __enter__(self) -> FakeGpu:
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed = True


def test_gpu_and_device_tree_are_read_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree, gpu = tmp_path / "compatible", FakeGpu()
    tree.write_bytes(b"nvidia,p3768-0000+p3767-0001\0nvidia,p3767-0001\0nvidia,tegra234\0")
    monkeypatch.setattr(detect, "open_gpu", lambda ordinal: gpu if ordinal == 1 else None)
    monkeypatch.setattr(detect, "read_modules", lambda: read_modules(tree))
    assert detect_target(1).name == "orin-nx"
    assert gpu.closed


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")
def test_the_gpu_of_this_machine() -> None:
    with open_gpu() as device:
        found = fingerprint(device)
    assert found.multiprocessors > 0
    assert found.memory_bytes > 2**30
    assert detect_target().compute_capability == found.compute_capability
