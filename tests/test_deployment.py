"""Deployments: engines beside a bundle's manifest, opened only where they fit."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from cascadert.bundle import CREATED_BY, Bundle, read_bundle
from cascadert.deployment import (
    DEPLOYMENT_FILE,
    DEPLOYMENT_SCHEMA,
    BuiltFor,
    Deployment,
    DeploymentManifest,
    EngineEntry,
    engine_part,
    open_artefact,
    read_deployment,
    write_deployment,
)
from cascadert.errors import BundleError, InvalidRequest
from cascadert.runtime.open import open_pipeline

CPU = BuiltFor(target="cpu", backend="onnxruntime")
RTX = BuiltFor(target="rtx-30", backend="tensorrt-rtx", compute_capability="8.6")


def deploy(bundle: Bundle, path: Path, built_for: BuiltFor = CPU, replace: bool = False) -> Deployment:
    engines = {name: graph.onnx for name, graph in bundle.graphs.items()}
    entries = tuple(
        EngineEntry(
            stage=name,
            engine=engine_part(name, "engine", engine),
            precision="fp32",
            graph_sha256=bundle.graphs[name].sha256,
            lowered_sha256=bundle.graphs[name].sha256,
            build_seconds=0.5,
        )
        for name, engine in engines.items()
    )
    manifest = DeploymentManifest(
        schema=DEPLOYMENT_SCHEMA,
        created_by=CREATED_BY,
        bundle=bundle.manifest,
        built_for=built_for,
        builder={"onnxruntime": "test"},
        engines=entries,
    )
    return write_deployment(path, manifest, engines, replace=replace)


def test_what_is_written_is_read(toy_bundle: Bundle, tmp_path: Path) -> None:
    written = deploy(toy_bundle, tmp_path / "cpu")
    assert read_deployment(tmp_path / "cpu") == written == open_artefact(tmp_path / "cpu")
    assert written.engine("fast") == toy_bundle.graphs["fast"].onnx
    assert [part.path for part in written.manifest.parts()] == ["engines/fast.engine", "engines/accurate.engine"]
    assert open_artefact(toy_bundle.path) == toy_bundle


def test_a_deployment_for_the_cpu_gives_the_labels_of_its_bundle(
    toy_bundle: Bundle, tmp_path: Path, toy_frames
) -> None:
    with open_pipeline(toy_bundle) as one, open_pipeline(deploy(toy_bundle, tmp_path / "cpu")) as other:
        a, b = one.infer(toy_frames[0]), other.infer(toy_frames[0])
    assert a.runs[1].n == b.runs[1].n
    assert (a.labels == b.labels).all()


def test_missing_and_changed_engines_are_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    deployment = deploy(toy_bundle, tmp_path / "cpu")
    with pytest.raises(BundleError, match=r"cpu: has no engine for stage 'slow'; build it anew$"):
        deployment.engine("slow")
    engine = tmp_path / "cpu" / "engines" / "fast.engine"
    engine.write_bytes(engine.read_bytes()[::-1])
    with pytest.raises(BundleError, match=r"engines/fast\.engine: was changed: sha256"):
        read_deployment(tmp_path / "cpu")
    engine.unlink()
    with pytest.raises(BundleError, match=r"engines/fast\.engine: is missing"):
        open_artefact(tmp_path / "cpu")


def test_a_stage_without_an_engine_is_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    deploy(toy_bundle, tmp_path / "cpu")
    path = tmp_path / "cpu" / DEPLOYMENT_FILE
    data = json.loads(path.read_text())
    data["engines"].pop()
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"cpu: has no engine for stage 'accurate'; build it anew$"):
        read_deployment(tmp_path / "cpu")


def test_outputs_that_exist_are_refused_unless_forced_and_never_a_bundle(toy_bundle: Bundle, tmp_path: Path) -> None:
    deploy(toy_bundle, tmp_path / "cpu")
    with pytest.raises(InvalidRequest, match="exists already"):
        deploy(toy_bundle, tmp_path / "cpu")
    deploy(toy_bundle, tmp_path / "cpu", RTX, replace=True)
    assert read_deployment(tmp_path / "cpu").manifest.built_for == RTX
    with pytest.raises(InvalidRequest, match="is not an artefact of this kind; choose another output"):
        deploy(toy_bundle, toy_bundle.path, replace=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, r": there is no such folder; give a folder written by cascadert$"),
        (lambda p: p.mkdir(), r": has no bundle\.json and no deployment\.json; give a bundle or deployment$"),
        (lambda p: p.touch(), r": holds no bundle\.json; give a folder written by cascadert$"),
    ],
)
def test_what_is_neither_is_named(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(BundleError, match=rf"^{path}{message}"):
        open_artefact(path)


def test_one_in_the_place_of_the_other_is_named(toy_bundle, tmp_path: Path) -> None:
    deploy(toy_bundle, tmp_path / "cpu")
    with pytest.raises(BundleError, match="cpu: is a deployment; give a bundle"):
        read_bundle(tmp_path / "cpu")
    with pytest.raises(BundleError, match="is a bundle; give a deployment"):
        read_deployment(toy_bundle.path)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_full_tensorrt_and_nothing_else_names_its_gpu_and_version(backend: str) -> None:
    gpu = {"name": "Orin", "compute_capability": "8.7", "multiprocessors": 8, "memory_bytes": 8 * 2**30}
    fields = {"target": "x", "backend": backend, "compute_capability": "8.7"}
    whole = {**fields, "gpu": gpu, "tensorrt": "10.3.0"}
    for wrong in (fields if backend == "tensorrt" else whole, {**fields, "gpu": gpu}, {**fields, "tensorrt": "10.3.0"}):
        with pytest.raises(ValidationError, match="belong to the backend tensorrt, and to no other"):
            BuiltFor.model_validate(wrong)
    BuiltFor.model_validate(whole if backend == "tensorrt" else fields)
