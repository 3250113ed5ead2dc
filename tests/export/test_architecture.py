"""Checkpoints of one network are one architecture; another network, or another stage, is another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cascadert.bundle import Bundle
from cascadert.export.architecture import architecture_sha256
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.precision import lower_to
from cascadert.graph import Graph

Export = Callable[..., Bundle]

SMALL = {"net": "deeplabv3", "role": "first", "classes": 4, "context": False, "backbone": "resnet18", "width": 0.125}


@pytest.fixture
def export(
    tmp_path: Path, toy_folder: Path, toy_data: dict[str, Any], save_spec: Callable[[Path, dict[str, Any]], Path]
) -> Export:
    """`export(seed, ...)` exports a cascade of one toy network; the rest are fields of its stage."""

    def export(seed: int, **fields: Any) -> Bundle:
        folder = tmp_path / f"export-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "networks.py").write_bytes((toy_folder / "networks.py").read_bytes())
        stage = {"name": "only", "model": "networks.py:toy", **fields}
        path = save_spec(folder, {**toy_data, "stages": [stage]})
        return export_bundle(path, folder / "bundle", ExportOptions(random_weights=seed))

    return export


def forms(bundle: Bundle) -> list[Graph]:
    (graph,) = bundle.graphs.values()
    dialects = ("tensorrt", "onnxruntime")
    lowered = [lower_to(graph, dialect, numerics) for dialect in dialects for numerics in ("fp32", "fp16")]
    return [graph, *lowered]


def digests(bundle: Bundle) -> list[str]:
    return [architecture_sha256(graph) for graph in forms(bundle)]


@pytest.mark.parametrize(
    "network", [{}, pytest.param({"model": "two-stage", "args": SMALL}, marks=pytest.mark.slow)], ids=["toy", "deeplab"]
)
def test_checkpoints_are_of_one_architecture_in_every_form(export: Export, network: dict[str, Any]) -> None:
    """However they were trained (paper 002, approaches 1 and 2): other weights for the exporter, and nothing else."""
    one, other = export(0, **network), export(1, **network)
    assert digests(one) == digests(other)
    assert all(a.sha256 != b.sha256 for a, b in zip(forms(one), forms(other), strict=True))
    assert len(set(digests(one))) == len(digests(one)), "each form is another graph"


@pytest.mark.parametrize(
    "change",
    [
        {"args": {"width": 7}},
        {"args": {"stride": 4}},
        {"scale": 0.5},
        {"upsample": "nearest"},
        {"emit": ["labels", "entropy"]},
        {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]}},
    ],
)
def test_anything_else_is_another(export: Export, change: dict[str, Any]) -> None:
    (one,), (other,) = export(0).graphs.values(), export(0, **change).graphs.values()
    assert architecture_sha256(one) != architecture_sha256(other)


def test_other_stages_and_frames_are_others(toy_bundle: Bundle, cameras_bundle: Bundle) -> None:
    graphs = (toy_bundle.graphs["fast"], toy_bundle.graphs["accurate"], cameras_bundle.graphs["fast"])
    assert len({architecture_sha256(graph) for graph in graphs}) == 3
