"""The paper's networks at the paper's sizes: exported, accepted by the parser, built."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascadert.engines.build import BuildOptions, build_engine
from cascadert.export.compile import ExportOptions, export_bundle

pytestmark = pytest.mark.slow

SPEC = """
name = "paper"
classes = "cityscapes"
[frame]
height = {height}
width = {width}
[grid]
block = {block}
stride = {stride}
[[stages]]
name = "fast"
model = "enet"
args = {{ classes = 19 }}
[[stages]]
name = "accurate"
model = "pspnet-r50"
args = {{ classes = 19 }}
select = {{ policy = "threshold", theta = 0.5 }}
"""


@pytest.mark.parametrize(
    ("height", "width", "block", "stride"), [(1024, 2048, 256, 256), (1080, 1920, 480, 320)], ids=["256", "480-320"]
)
def test_enet_and_pspnet_r50_build(tmp_path: Path, height: int, width: int, block: int, stride: int) -> None:
    spec = tmp_path / "paper.toml"
    spec.write_text(SPEC.format(height=height, width=width, block=block, stride=stride))
    bundle = export_bundle(spec, tmp_path / "bundle", ExportOptions(random_weights=0))
    assert [stage.network.parameters for stage in bundle.manifest.stages] == [351_660, 46_715_347]
    for target in ("rtx-20", "rtx-40"):  # Turing lacks operators that all later ones have
        deployment = build_engine(bundle, target, tmp_path / target, BuildOptions(max_blocks=8))
        assert deployment.manifest.built_for.target == target
        assert all(entry.engine.bytes > 0 for entry in deployment.manifest.engines)
