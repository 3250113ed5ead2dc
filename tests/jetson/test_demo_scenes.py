"""The demo as it ships: the networks in the package, on streets they never saw."""

from pathlib import Path

import pytest

from cascadert.jetson.demo import DemoOptions, DemoSummary, make_demo
from cascadert.jetson.demo.measure import EVERY_BLOCK, FAST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    output = tmp_path_factory.mktemp("scenes") / "demo"
    return make_demo(output, DemoOptions(frames_per_street=2, thetas=(), sweep_every=1, targets=("rtx-40", "cpu")))


def test_cascade_is_better_than_the_fast_network_and_cheaper_than_every_block(demo: DemoSummary) -> None:
    fast, cascade, every = demo.sweep.rows
    assert (fast.name, every.name) == (FAST, EVERY_BLOCK)
    assert cascade.mean_iou > fast.mean_iou + 0.03
    assert 0 < cascade.mean_n < 0.75 * every.mean_n
    assert cascade.median_ms < every.median_ms


def test_onnx_computes_what_pytorch_computes(demo: DemoSummary) -> None:
    assert demo.parity.passed
    assert demo.parity.classes > 8


def test_engines_were_built(demo: DemoSummary) -> None:
    engine = demo.deployments[0].engine("fast")
    assert demo.deployments[0].manifest.built_for.compute_capability == "8.9"
    assert len(engine) > 100_000


def test_report_is_there(demo: DemoSummary) -> None:
    assert isinstance(demo.report, Path)
    assert demo.report.stat().st_size > 100_000
