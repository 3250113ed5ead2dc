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

SPEC: dict[str, Any] = {
    "name": "two",
    "classes": {"names": ["a", "b"], "palette": [[0, 0, 0], [255, 0, 0]]},
    "frame": {"height": 64, "width": 128},
    "grid": {"block": 32},
}
SMALL = {"net": "deeplabv3", "role": "first", "classes": 2, "context": False, "backbone": "resnet18", "width": 0.125}


@pytest.fixture
def export(tmp_path: Path, save_spec: Callable[[Path, dict[str, Any]], Path]) -> Export:
    """`export(seed, model, args, ...)` exports a cascade of one network; the rest are fields of its stage."""

    def export(seed: int, model: str = "two-stage", args: dict[str, Any] = SMALL, **fields: Any) -> Bundle:
        folder = tmp_path / f"export-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        stage = {"name": "only", "model": model, "args": args, **fields}
        path = save_spec(folder, {**SPEC, "stages": [stage]})
        return export_bundle(path, folder / "bundle", ExportOptions(random_weights=seed))

    return export


def forms(bundle: Bundle) -> list[Graph]:
    (graph,) = bundle.graphs.values()
    dialects = ("tensorrt", "onnxruntime")
    lowered = [lower_to(graph, dialect, numerics) for dialect in dialects for numerics in ("fp32", "fp16")]
    return [graph, *lowered]


def digests(bundle: Bundle) -> list[str]:
    return [architecture_sha256(graph) for graph in forms(bundle)]


def test_checkpoints_are_of_one_architecture_in_every_form(export: Export) -> None:
    """Paper 002's training approaches, for one: the exporter sees other weights and nothing else (row C5)."""
    one, other = export(0), export(1)
    assert digests(one) == digests(other)
    assert all(a.sha256 != b.sha256 for a, b in zip(forms(one), forms(other), strict=True))
    assert len(set(digests(one))) == len(digests(one)), "each form is another graph"


@pytest.mark.parametrize(
    "change",
    [
        {"args": {**SMALL, "width": 0.25}},
        {"args": {**SMALL, "net": "fcn"}},
        {"scale": 0.5},
        {"upsample": "nearest"},
        {"emit": ["labels", "entropy"]},
        {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]}},
    ],
)
def test_anything_else_is_another(export: Export, change: dict[str, Any]) -> None:
    (one,), (other,) = export(0).graphs.values(), export(0, **change).graphs.values()
    assert architecture_sha256(one) != architecture_sha256(other)


def test_other_classes_are_another(toy_bundle: Bundle, cameras_bundle: Bundle) -> None:
    assert architecture_sha256(toy_bundle.graphs["fast"]) != architecture_sha256(cameras_bundle.graphs["fast"])
    assert architecture_sha256(toy_bundle.graphs["fast"]) != architecture_sha256(toy_bundle.graphs["accurate"])
