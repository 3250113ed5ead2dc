"""Bundles: what is written is what is read, and nothing else is accepted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cascadert.bundle import BUNDLE_FILE, Bundle, BundleManifest, read_bundle, write_bundle
from cascadert.errors import BundleError, InvalidRequest
from cascadert.graph import Graph, TensorSpec

ONNX = b"any bytes: a bundle does not look into its graphs"
GOLDEN = """{
 "schema": "cascadert-bundle-2",
 "created_by": "cascadert 0.1.0",
 "spec": {
  "name": "street",
  "classes": {
   "names": [
    "off",
    "on"
   ],
   "palette": [
    [
     0,
     0,
     0
    ],
    [
     255,
     255,
     255
    ]
   ]
  },
  "frame": {
   "height": 32,
   "width": 48,
   "pixel_format": "rgb8",
   "cameras": 1,
   "fit": "none"
  },
  "grid": {
   "block": [
    16,
    16
   ],
   "stride": null
  },
  "networks": [],
  "stages": [
   {
    "name": "fast",
    "input": null,
    "model": "enet",
    "args": {
     "classes": 2
    },
    "weights": "enet.safetensors",
    "network": null,
    "part": null,
    "reads": [],
    "after": null,
    "emit": null,
    "preprocessing": {
     "mean": [
      0.485,
      0.456,
      0.406
     ],
     "std": [
      0.229,
      0.224,
      0.225
     ]
    },
    "scale": 1.0,
    "input_size": null,
    "upsample": "bilinear",
    "score": {
     "measure": "entropy",
     "pixel": 0.9,
     "smoothing": "median",
     "window": 2
    },
    "halo": 0,
    "merge": "owner",
    "select": null,
    "speculate": false
   }
  ]
 },
 "spec_folder": "/specs",
 "stages": [
  {
   "name": "fast",
   "graph": {
    "path": "stages/fast.onnx",
    "sha256": "cb2db0c0cc877a96c1dbfc2eed11988a259c9e0f5f1cce47123644a2b8cbd75e",
    "bytes": 49
   },
   "inputs": [
    {
     "name": "frame",
     "dtype": "uint8",
     "shape": [
      1,
      32,
      48,
      3
     ],
     "source": "frame",
     "prefix": false
    }
   ],
   "outputs": [
    {
     "name": "labels",
     "dtype": "uint8",
     "shape": [
      1,
      32,
      48
     ],
     "when_skipped": null
    }
   ],
   "select": null,
   "follows": null,
   "speculative": false,
   "network": {
    "model": "enet",
    "part": null,
    "args": {
     "classes": 2
    },
    "weights": "enet.safetensors",
    "random_seed": null,
    "state_sha256": "0123",
    "parameters": 12,
    "macs": 34,
    "input_shapes": [
     [
      1,
      3,
      32,
      48
     ]
    ]
   },
   "memory": {
    "weights_bytes": 48,
    "activation_bytes": 4608,
    "activation_bytes_per_block": 0
   },
   "calibration": null
  }
 ],
 "calibration": null
}
"""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A bundle as version 1 writes it, byte for byte."""
    folder = tmp_path / "golden"
    (folder / "stages").mkdir(parents=True)
    (folder / BUNDLE_FILE).write_text(GOLDEN)
    (folder / "stages" / "fast.onnx").write_bytes(ONNX)
    return folder


def test_a_manifest_from_before_calibration_is_read(golden: Path) -> None:
    before = GOLDEN.replace(',\n   "calibration": null', "").replace(',\n "calibration": null', "")
    assert "calibration" not in before
    (golden / BUNDLE_FILE).write_text(before)
    assert read_bundle(golden).manifest.to_json() == GOLDEN


def test_golden_manifest_is_read_and_written_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    bundle = read_bundle(golden)
    assert bundle.manifest.to_json() == GOLDEN
    frame = TensorSpec("frame", "uint8", (1, 32, 48, 3))
    assert bundle.graphs == {"fast": Graph(ONNX, (frame,), (TensorSpec("labels", "uint8", (1, 32, 48)),))}
    assert bundle.spec.stages[0].args == {"classes": 2}
    copy = write_bundle(tmp_path / "copy", bundle.manifest, bundle.graphs)
    assert (tmp_path / "copy" / BUNDLE_FILE).read_text() == GOLDEN
    assert read_bundle(tmp_path / "copy") == copy


def test_an_exported_bundle_is_read_as_it_was_written(toy_bundle: Bundle) -> None:
    again = read_bundle(toy_bundle.path)
    assert again == toy_bundle
    assert again.graphs == toy_bundle.graphs
    fast, accurate = again.manifest.stages
    assert [(i.name, i.source, i.prefix) for i in accurate.inputs] == [
        ("frame", "frame", False), ("indices", "fast.order", True), ("prior_labels", "fast.labels", False),
    ]  # fmt: skip
    assert accurate.inputs[1].shape == ("n",)
    assert accurate.select is not None
    assert (accurate.select.scores, accurate.select.order) == ("fast.scores", "fast.order")
    assert [output.when_skipped for output in fast.outputs] == [None, None, None]
    assert [output.when_skipped for output in accurate.outputs] == ["fast.labels"]
    assert [part.path for part in again.manifest.parts()] == ["stages/fast.onnx", "stages/accurate.onnx"]
    assert accurate.inputs[0].producer == "frame"
    assert accurate.inputs[1].producer == "fast"


def test_an_output_that_exists_is_refused_unless_forced(golden: Path) -> None:
    bundle = read_bundle(golden)
    with pytest.raises(InvalidRequest, match=r"golden: exists already; choose another output, or pass --force"):
        write_bundle(golden, bundle.manifest, bundle.graphs)
    newer = bundle.manifest.model_copy(update={"spec_folder": "/elsewhere"})
    write_bundle(golden, newer, bundle.graphs, replace=True)
    assert read_bundle(golden).manifest.spec_folder == "/elsewhere"


Change = Callable[[dict[str, Any]], None]


def _source(data: dict[str, Any]) -> None:
    data["stages"][0]["inputs"][0]["source"] = "slow.labels"


def _plane(data: dict[str, Any]) -> None:
    data["stages"][0]["inputs"][0]["source"] = "frame.depth"


def _itself(data: dict[str, Any]) -> None:
    data["stages"][0]["inputs"][0]["source"] = "fast.labels"


def _select(data: dict[str, Any]) -> None:
    policy = {"policy": "threshold", "theta": 0.5}
    data["stages"][0]["select"] = {"scores": "fast.scores", "order": "fast.order", "policy": policy}


def _stand_in(data: dict[str, Any]) -> None:
    data["stages"][0]["outputs"][0]["when_skipped"] = "slow.labels"


def _no_labels(data: dict[str, Any]) -> None:
    data["stages"][0]["outputs"][0]["name"] = "classes"


def _twice(data: dict[str, Any]) -> None:
    data["stages"] *= 2


def _outside(data: dict[str, Any]) -> None:
    data["stages"][0]["graph"]["path"] = "../fast.onnx"


def _dtype(data: dict[str, Any]) -> None:
    data["stages"][0]["outputs"][0]["dtype"] = "float8"


def _nested_extra(data: dict[str, Any]) -> None:
    data["spec"]["frame"]["depth"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_source, r"bundle\.json: stage 'fast' reads 'slow\.labels', which no earlier stage makes; write it anew$"),
        (_plane, r"bundle\.json: stage 'fast' reads 'frame\.depth', which no earlier stage makes"),
        (_itself, r"bundle\.json: stage 'fast' reads 'fast\.labels', which no earlier stage makes"),
        (_select, r"bundle\.json: stage 'fast' reads 'fast\.scores', which no earlier stage makes"),
        (_stand_in, r"bundle\.json: stage 'fast' reads 'slow\.labels', which no earlier stage makes"),
        (_no_labels, r"bundle\.json: no stage makes labels; write it anew$"),
        (_twice, r"bundle\.json: the stages are \['fast', 'fast'\] where the spec has \['fast'\]; write it anew$"),
        (_outside, r"golden: \.\./fast\.onnx: lies outside the folder; do not use this artefact$"),
        (_dtype, r"bundle\.json: stages\.0\.outputs\.0\.dtype: Input should be 'uint8', .*; write it anew$"),
        (_nested_extra, r"bundle\.json: spec\.frame\.depth: Extra inputs are not permitted; write it anew$"),
        (
            lambda d: d.update(schema="cascadert-bundle-3"),
            r"has schema 'cascadert-bundle-3'; this version reads 'cascadert-bundle-2'",
        ),
        (lambda d: d.update(note="hi"), r"bundle\.json: note: Extra inputs are not permitted; write it anew$"),
        (lambda d: d.update(stages=[]), r"bundle\.json: stages: .*at least 1 item"),
        (lambda d: d["stages"][0].pop("memory"), r"bundle\.json: stages\.0\.memory: Field required; write it anew$"),
        (lambda d: d.pop("spec"), r"bundle\.json: spec: Field required; write it anew$"),
    ],
)
def test_manifests_that_do_not_fit_together_are_refused(golden: Path, change: Change, message: str) -> None:
    data = json.loads(GOLDEN)
    change(data)
    (golden / BUNDLE_FILE).write_text(json.dumps(data))
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(golden)
    assert "\n" not in str(caught.value)


def test_changed_missing_and_linked_graphs_are_refused(golden: Path, tmp_path: Path) -> None:
    graph = golden / "stages" / "fast.onnx"
    graph.write_bytes(ONNX.replace(b"any", b"ANY"))
    with pytest.raises(BundleError, match=r"stages/fast\.onnx: was changed: sha256 \w{12}…, not \w{12}…; write the"):
        read_bundle(golden)
    graph.write_bytes(ONNX[:-1])
    with pytest.raises(BundleError, match=r"stages/fast\.onnx: has 48 bytes, not 49; write the artefact anew$"):
        read_bundle(golden)
    graph.unlink()
    with pytest.raises(BundleError, match=r"stages/fast\.onnx: is missing; write the artefact anew$"):
        read_bundle(golden)
    (tmp_path / "outside.onnx").write_bytes(ONNX)
    graph.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match=r"golden: stages/fast\.onnx: lies outside the folder; do not use"):
        read_bundle(golden)


DEEP = """
from torch import nn

def deep(width):
    wide = nn.Conv2d(width, width, 3)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(width, 2, 1))
"""


@pytest.fixture(scope="module")
def shared(save_spec: Callable[[Path, dict[str, Any]], Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One network as the fast stage and on blocks."""
    from cascadert.export.compile import ExportOptions, export_bundle

    folder = tmp_path_factory.mktemp("shared")
    (folder / "networks.py").write_text(DEEP)
    network = {"name": "wide", "model": "networks.py:deep", "args": {"width": 64}}
    stages = [{"name": "fast", "network": "wide"}, {"name": "accurate", "network": "wide", "halo": 3}]
    stages[1]["select"] = {"policy": "top-k", "k": 2}  # type: ignore[assignment]
    parts = {name: json.loads(GOLDEN)["spec"][name] for name in ("classes", "frame")}
    data = {"name": "shared", **parts, "grid": {"block": 16}, "networks": [network], "stages": stages}
    return export_bundle(save_spec(folder, data), folder / "bundle", ExportOptions(random_weights=0))


def test_weights_that_two_stages_share_are_stored_once(shared: Bundle, tmp_path: Path) -> None:
    fast, accurate = shared.manifest.stages
    assert fast.network.state_sha256 == accurate.network.state_sha256
    assert [part.path for part in shared.manifest.parts()] == ["stages/fast.onnx", "stages/accurate.pieces"]
    weights = 4 * 64 * 64 * 9
    assert fast.graph.bytes > weights < accurate.graph.bytes
    stored = (shared.path / "stages" / "accurate.pieces").stat().st_size
    assert stored < accurate.graph.bytes - weights
    again = read_bundle(shared.path)
    assert again == shared
    assert [graph.sha256 for graph in again.graphs.values()] == [fast.graph.sha256, accurate.graph.sha256]
    copy = write_bundle(tmp_path / "copy", again.manifest, again.graphs)
    assert copy.manifest == shared.manifest
    assert read_bundle(copy.path).graphs == shared.graphs
    alone = shared.manifest.model_copy(update={"stages": shared.manifest.stages[1:]})
    assert (
        write_bundle(tmp_path / "alone", alone, shared.graphs).manifest.stages[0].graph.path == "stages/accurate.onnx"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content[:-1],
            r"accurate\.pieces: has a piece that lies outside itself; write the artefact anew",
        ),
        (lambda content: content[:-1] + b"?", r"accurate\.pieces: was changed: sha256 \w{12}…, not \w{12}…; write the"),
        (
            lambda content: content.replace(b"fast.onnx", b"f.onnx", 1),
            r"has a piece of 'stages/f\.onnx', which is no ear",
        ),
        (lambda content: b"[]\n", r"accurate\.pieces: has 0 bytes, not \d+; write the artefact anew"),
        (lambda content: None, r"accurate\.pieces: is missing; write the artefact anew"),
    ],
)
def test_pieces_that_do_not_make_the_graph_are_refused(
    shared: Bundle, tmp_path: Path, change: Callable[[bytes], bytes | None], message: str
) -> None:
    folder = write_bundle(tmp_path / "copy", shared.manifest, shared.graphs).path
    pieces = folder / "stages" / "accurate.pieces"
    content = change(pieces.read_bytes())
    if content is None:
        pieces.unlink()
    else:
        pieces.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_the_manifest_is_a_value() -> None:
    manifest = BundleManifest.model_validate(json.loads(GOLDEN))
    assert manifest == BundleManifest.model_validate(json.loads(manifest.to_json()))
    with pytest.raises(Exception, match="frozen"):
        manifest.created_by = "me"
