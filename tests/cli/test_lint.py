"""The command `lint`: a bundle lowered for its target, or a file as it stands."""

import json
import shutil
import sys

import onnx
import pytest
from typer.testing import CliRunner

from cascadert.cli import app, console


@pytest.fixture
def call(monkeypatch):
    """`call(path, "--target", ...)` runs the command; `code` is the exit code that it must have."""
    monkeypatch.setattr(console.out, "_width", 240)  # rich reads COLUMNS once, when it is imported

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, ["lint", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def raw(tmp_path):
    """A network as someone else exported it: opset 20, and pooling with indices."""
    text = (
        '<ir_version: 9, opset_import: ["" : 20]> agraph (float[1,1,4,4] x) => (float[1,1,2,2] y, int32[1,1,2,2] j)'
        " { y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) j = Cast <to = 6> (i) }"
    )
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "pool"
    onnx.save(model, tmp_path / "raw.onnx")
    return tmp_path / "raw.onnx"


POOL = "returns indices, which TensorRT does not; pair it with nn.MaxUnpool2d of the same kernel and stride"


@pytest.mark.parametrize(
    ("target", "builder"),
    [("gtx-1080-ti", "tensorrt >=8.5,<8.7"), ("rtx-20", "tensorrt-rtx >=1.7,<1.8"), ("cpu", "onnxruntime >=1.20")],
)
def test_a_bundle_is_lowered_for_its_target(call, toy_bundle, target, builder):
    result = call(toy_bundle.path, "--target", target)
    assert (result.stdout, result.stderr) == ("", f"{toy_bundle.path} for {target}: 2 graphs suit {builder}\n")


def test_a_builder_other_than_the_first(call, toy_bundle):
    result = call(toy_bundle.path, "--target", "rtx-40", "--backend", "tensorrt")
    assert "2 graphs suit tensorrt >=10.0,<12" in result.stderr


def test_what_is_found_in_a_file(call, raw):
    result = call(raw, "--target", "gtx-1080-ti", code=6)
    assert result.stderr == (
        f"error: {raw} for gtx-1080-ti: 2 findings for tensorrt >=8.5,<8.7; mend the graph, or choose another target\n"
    )
    header, _, opset, pool = (line for line in result.stdout.splitlines() if line.strip())
    assert header.split() == ["graph", "node", "module", "rule", "what", "is", "wrong,", "and", "what", "to", "do"]
    assert (
        "raw.onnx   -      -        opset          is of ONNX opset 20 where TensorRT 8.5 to 8.6 reads 17 at most"
        in opset
    )
    assert pool.split(maxsplit=4) == [
        "raw.onnx",
        "pool",
        "-",
        "pool-indices",
        POOL + " " * (len(pool) - len(pool.rstrip())),
    ]
    assert "2 findings" not in call(raw, "--target", "cpu").stdout


def test_a_graph_out_of_a_bundle(call, toy_bundle, tmp_path):
    """It is portable, not yet lowered for a target."""
    shutil.copytree(toy_bundle.path, tmp_path / "bundle")
    graph = tmp_path / "bundle" / "stages" / "fast.onnx"
    remedy = f"; lint the bundle instead, whose graphs are lowered for the target first: {tmp_path / 'bundle'}"
    assert remedy in call(graph, "--target", "gtx-1080-ti", code=6).stderr
    shutil.copy(graph, tmp_path / "own.onnx")
    assert "lint the bundle" not in call(tmp_path / "own.onnx", "--target", "gtx-1080-ti", code=6).stderr


def test_precisions_by_stage(call, toy_bundle):
    options = ["--target", "rtx-40", "--precision"]
    assert "2 graphs suit" in call(toy_bundle.path, *options, "fast=fp32,accurate=tf32").stderr
    refused = call(toy_bundle.path, *options, "fast=fp32,accurate=int8", code=2).stderr
    assert "stage 'accurate' in int8 for rtx-40: it was not calibrated" in refused
    assert "says nothing of stage 'accurate'" in call(toy_bundle.path, *options, "fast=fp32", code=2).stderr


def test_json(call, raw, toy_bundle):
    found = json.loads(call(raw, "--target", "rtx-40", "--json", code=6).stdout)
    assert (found["path"], found["target"], found["backend"]["name"]) == (str(raw), "rtx-40", "tensorrt-rtx")
    what, _, remedy = POOL.partition("; ")
    assert found["findings"] == [
        {
            "graph": "raw.onnx",
            "rule": "pool-indices",
            "node": "pool",
            "module": None,
            "where": "node 'pool' (MaxPool, from the stage's own code)",
            "found": what,
            "remedy": remedy,
        }
    ]
    assert json.loads(call(toy_bundle.path, "--target", "rtx-40", "--json").stdout)["findings"] == []


def test_what_is_no_graph(call, tmp_path, toy_bundle):
    missing, broken = tmp_path / "none.onnx", tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    assert call(missing, "--target", "cpu", code=3).stderr == (
        f"error: {missing}: cannot be read (No such file or directory); give a bundle or an .onnx file\n"
    )
    assert call(broken, "--target", "cpu", code=3).stderr.startswith(f"error: {broken}: is no ONNX model (")
    assert "there is no such folder" in call(tmp_path / "none", "--target", "cpu", code=4).stderr


def test_without_onnx(call, raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert call(raw, "--target", "rtx-40", code=8).stderr == (
        "error: cascadert lint: the Python module 'onnx' is not installed; pip install \"cascadert[export]\"\n"
    )


def test_requests_that_contradict_the_target(call, raw, toy_bundle):
    assert "has the precision of its own graph" in call(raw, "--target", "rtx-40", "--precision", "fp16", code=2).stderr
    assert (
        "precision 'fp8': is not known"
        in call(toy_bundle.path, "--target", "rtx-40", "--precision", "fp8", code=2).stderr
    )
    assert "1/64" in call(toy_bundle.path, "--target", "gtx-1080-ti", "--precision", "fp16", code=2).stderr
    assert "was not calibrated" in call(toy_bundle.path, "--target", "rtx-40", "--precision", "int8", code=2).stderr
    assert "is refused" in call(toy_bundle.path, "--target", "nano", code=2).stderr
    assert (
        "onnxruntime does not build for it"
        in call(toy_bundle.path, "--target", "rtx-40", "--backend", "onnxruntime", code=2).stderr
    )
