"""Costs of two-column networks: all entries of tables 1 to 5 of arXiv:1712.00213, and those of a real Model A."""

import functools

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_macs
from cascadert.export.models import dense_columns, two_column
from cascadert.export.models.two_column import MODEL_A, TwoColumn, counted_by_paper
from tests.export.models.two_column_chain import Fast

FRAME = (1, 3, 1024, 2048)
RESNET_50 = "3-4-6-3"
BASIC = {"units": f"{RESNET_50}-{RESNET_50}", "decoder": "basic"}


def giga(network: nn.Module, *shapes: tuple[int, ...], **options) -> float:
    return count_macs(network, *shapes, **options) / 1e9


def dense(*scales: float, **options) -> float:
    with torch.device("meta"):
        network = dense_columns(19, units="-".join([RESNET_50] * len(scales)), scales=scales, **options)
    return giga(network, FRAME, counted=counted_by_paper)


@functools.cache
def sparse(**options) -> TwoColumn:
    with torch.device("meta"):
        return two_column(19, **options)


def classic(**options) -> float:
    return giga(sparse(**options), FRAME, counted=counted_by_paper)


def fast(k: int, **options) -> float:
    return giga(Fast(sparse(**options), k), FRAME, counted=counted_by_paper)


@pytest.mark.parametrize(
    ("output_stride", "paper", "calculated"), [(8, 786, 786.3), (16, 256, 256.0), (32, 165, 164.8)]
)
def test_table_1_one_column(output_stride: int, paper: float, calculated: float) -> None:
    found = dense(1.0, output_stride=output_stride)
    assert found == pytest.approx(calculated, rel=1e-3)
    assert found == pytest.approx(paper, abs=0.35)


@pytest.mark.parametrize(
    ("scales", "paper", "calculated"),
    [
        ((1.0, 0.5), 206, 206.05),
        ((1.0, 0.5, 0.25), 216, 216.35),
        ((2.0, 1.0), 824, 824.2),
        ((2.0, 1.0, 0.5), 865, 865.4),
    ],
)
def test_table_2_input_columns(scales: tuple[float, ...], paper: float, calculated: float) -> None:
    found = dense(*scales)
    assert found == pytest.approx(calculated, rel=1e-3)
    assert found == pytest.approx(paper, abs=0.4)  # 865.39 is the paper's 865g


@pytest.mark.parametrize("fusing", ["max", "sum", "attention", "coarse-to-fine"])
def test_table_2_dense_fusions_cost_the_same(fusing: str) -> None:
    assert dense(1.0, 0.5, fusing=fusing) == pytest.approx(206.05, rel=1e-3)


@pytest.mark.parametrize(("cross_column", "paper", "calculated"), [(False, 206, 206.05), (True, 212, 212.39)])
def test_table_2_sparse_columns_in_classic_inference(cross_column: bool, paper: float, calculated: float) -> None:
    found = classic(cross_column=cross_column, **BASIC)
    assert found == pytest.approx(calculated, rel=1e-3)
    assert found == pytest.approx(paper, abs=0.4)


@pytest.mark.parametrize(
    ("cross_column", "k", "paper", "calculated"),
    [
        (False, 16, 133, 132.98),
        (True, 4, 84.5, 84.52),
        (True, 6, 93.7, 93.66),
        (True, 8, 103, 102.8),
        (True, 12, 121, 121.06),
        (True, 16, 139, 139.3),
    ],
)
def test_table_3_fast_inference(cross_column: bool, k: int, paper: float, calculated: float) -> None:
    found = fast(k, cross_column=cross_column, **BASIC)
    assert found == pytest.approx(calculated, rel=1e-3)
    assert found == pytest.approx(paper, abs=0.35)


def test_table_3_smaller_regions_cost_the_same() -> None:
    assert fast(64, region=128, **BASIC) == pytest.approx(139.3, rel=1e-3)


@pytest.mark.parametrize(
    ("units", "paper", "calculated"),
    [
        ("3-4-6-3-3-4-6-3", 77.0, 76.97),
        ("1-1-1-0-2-3-4-1", 33.8, 33.82),
        ("1-1-1-0-1-2-5-2", 33.8, 33.82),
        (MODEL_A, 31.5, 31.54),
        ("1-1-1-1-1-2-4-1", 31.3, 31.34),
        ("1-1-1-0-1-2-4-1", 29.3, 29.26),
        ("1-1-1-0-1-1-3-1", 24.7, 24.70),
    ],
)
def test_table_4_removed_units(units: str, paper: float, calculated: float) -> None:
    found = fast(8, units=units)
    assert found == pytest.approx(calculated, rel=1e-3)
    assert found == pytest.approx(paper, abs=0.05)


def test_table_5_is_25_times_cheaper() -> None:
    assert dense(1.0, output_stride=8) / fast(8) == pytest.approx(25, abs=0.1)


def without_weights(name: str, layer: nn.Module) -> bool:
    """Shortcuts too, but none of the convolutions that make z1, z2 and s."""
    return counted_by_paper(name, layer) or "shortcut" in name.split(".")


def test_model_a_with_its_projections() -> None:
    network = sparse()
    halved, regions = (1, 3, 512, 1024), (8, 3, 256, 256)
    backbone = giga(network.half_column.column.backbone, halved)
    half = giga(network.half_column, halved, counted=without_weights)
    assert backbone == pytest.approx(22.04, rel=1e-3)
    assert half - backbone == pytest.approx(0.708, rel=1e-3)
    assert giga(network.crops, regions) / 8 == pytest.approx(1.513, rel=1e-3)
    assert giga(network.crops, regions, counted=counted_by_paper) / 8 == pytest.approx(1.178, rel=1e-3)
    everything = giga(Fast(network, 8), FRAME, counted=without_weights)
    assert everything == pytest.approx(37.98, rel=1e-3)
    assert everything - half - giga(network.crops, regions) == pytest.approx(3.133, rel=1e-3)
    assert giga(Fast(network, 8), FRAME) - everything < 0.03


def test_model_a_has_as_many_weights_in_convolutions_as_it_should() -> None:
    layers = [(name, layer) for name, layer in sparse().named_modules() if isinstance(layer, nn.Conv2d)]
    weights = sum(layer.weight.numel() for name, layer in layers if without_weights(name, layer))
    assert weights == pytest.approx(15.43e6, rel=1e-3)


def test_in_column_connections_on_regions_cost_the_share_that_is_computed() -> None:
    whole = (16384 * 64 * 128 + 8192 * 128 * 256 + 4096 * 256 * 512) / 1e9  # of levels 4, 3 and 2 of Model A
    assert fast(8) - fast(8, in_column="crops") == pytest.approx(whole * 24 / 32, rel=1e-6)
