"""The recipe's command, and the product on what it wrote: the bundle's labels are those of the recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import two_column
from measure import resize
from PIL import Image
from street_data import normalise
from two_column_inference import segment, top_regions

from cascadert.export.compile import export_bundle
from cascadert.export.networks import build_network, load_weights
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.spec import load_spec
from tests.recipes.test_two_column import coloured_frames

K = 2
SPEC = """
name = "coloured"
classes = "camvid"
frame = { height = 64, width = 128 }
grid = { block = 32 }

[[networks]]
name = "columns"
model = "two-column"
args = { classes = 11, units = "1-1-1-0-1-1-1-1", region = 32, width = 8, decoder = "basic", in_column = "crops" }
weights = "out/two_column.safetensors"

[[stages]]
name = "half"
network = "columns"
part = "half_column"
scale = 0.5
score = "learned"
emit = ["labels", "scores", "order", "logits", "weight", "cross32", "cross16", "cross8"]

[[stages]]
name = "crops"
network = "columns"
part = "crops"
emit = ["level2", "level3", "level4"]
select = { policy = "top-k", k = 2 }

[[stages]]
name = "fuse"
network = "columns"
part = "fuse"
input = "carried"
reads = [
    "crops.level2", "crops.level3", "crops.level4",
    "half.logits", "half.weight", "half.cross32", "half.cross16", "half.cross8",
]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A specification beside a data set of three frames."""
    frames = coloured_frames(3)
    for split in ("train", "val"):
        for kind, pixels in (("images", frames.images), ("labels", frames.labels)):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            for index, picture in enumerate(pixels):
                Image.fromarray(picture.numpy()).save(folder / f"{index}.png")
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def command(spec: Path, *more: str) -> list[str]:
    data = ["--data", "camvid", "--root", str(spec.parent)]
    return [str(spec), *data, "--threads", "1", "-o", str(spec.parent / "out"), *more]


@pytest.mark.slow
def test_the_bundle_computes_what_was_trained(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_column.main(command(spec, "--steps", "20", "--learning-rate", "0.03"))
    log = json.loads((spec.parent / "out" / "two_column.json").read_text())
    assert log == json.loads(capsys.readouterr().out)
    assert log["steps"] == 20
    assert log["regions"] == K
    network = build_network("network", load_spec(spec).networks[0], spec.parent)
    load_weights(network, spec.parent / "out" / "two_column.safetensors")
    bundle = export_bundle(spec, spec.parent / "bundle")
    frames = coloured_frames(3).images
    with open_pipeline(bundle, RuntimeOptions(mode="serial")) as pipeline:
        results = list(pipeline.stream([frame.numpy()[None] for frame in frames]))
    for frame, result in zip(frames, results, strict=True):
        with torch.no_grad():
            seen = segment(network, normalise(frame[None]), lambda score: top_regions(score, K))
        wanted = resize(seen.fused, (64, 128)).argmax(1)
        assert {run.stage: run.n for run in result.runs}["crops"] == K
        assert len(wanted.unique()) > 1
        np.testing.assert_array_equal(result.labels.reshape(wanted.shape), wanted.numpy())
        half = resize(seen.half, (64, 128)).argmax(1)
        assert (wanted != half).any()  # the regions have a say


def test_a_run_out_of_time_says_so(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_column.main(
        command(spec, "--steps", "2", "--minutes", "0", "--mask", "threshold", "--whole", "--sparsity", "0")
    )
    assert "0 of 2 steps are done" in capsys.readouterr().out


@pytest.mark.parametrize("change", [('model = "two-column"', 'model = "enet"'), ('policy = "top-k", k', "theta")])
def test_a_specification_of_something_else_is_refused(spec: Path, change: tuple[str, str]) -> None:
    text = SPEC.replace(*change)
    if "enet" in text:
        text = text.replace(text[text.index("args") : text.index("weights")], "args = { classes = 11 }\n")
    else:
        text = text.replace("theta = 2", 'policy = "threshold", theta = 0.2')
    spec.write_text(text)
    with pytest.raises(SystemExit, match="needs a network of two columns and a stage of policy top-k"):
        two_column.build(load_spec(spec), spec.parent)
