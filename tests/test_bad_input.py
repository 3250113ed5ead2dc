"""Bad input of every kind: each gets one line that names what is at fault, what was found, and what to do."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from cascadert.artefacts import MAX_MANIFEST_BYTES
from cascadert.bundle import BUNDLE_FILE, Bundle, read_bundle
from cascadert.calibration.parity import ParityOptions, check_parity
from cascadert.deployment import open_artefact
from cascadert.engines.build import BuildOptions, build_engine
from cascadert.engines.profiles import load_target
from cascadert.errors import (
    BundleError,
    CascadertError,
    GraphError,
    GridError,
    InvalidRequest,
    NetworkError,
    SourceError,
    SpecError,
    TargetError,
    WeightsError,
)
from cascadert.export.compile import ExportOptions, export_bundle, reference_stages
from cascadert.jetson.sources import open_source
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.open import open_pipeline
from cascadert.spec import FrameSpec, ThresholdPolicy, load_spec, parse_spec

Data = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """What a case may use: an empty folder of its own, a copy of the toy's folder, the toy bundle and a frame."""

    empty: Path
    folder: Path
    data: Data
    bundle: Bundle
    frame: np.ndarray
    save_spec: Callable[[Path, Data], Path]

    @property
    def fast(self) -> Data:
        return self.data["stages"][0]

    @property
    def accurate(self) -> Data:
        return self.data["stages"][1]

    def load(self) -> None:
        load_spec(self.save_spec(self.folder, self.data))

    def build(self, seed: int | None = None) -> None:
        reference_stages(parse_spec(self.data, "spec"), self.folder, seed)

    def copy_of_bundle(self) -> Path:
        return shutil.copytree(self.bundle.path, self.empty / "copy")

    def edit(self, change: Callable[[Data], object]) -> Bundle:
        """Change a bundle's manifest by hand and open it."""
        path = self.copy_of_bundle()
        data = json.loads((path / BUNDLE_FILE).read_text())
        change(data)
        (path / BUNDLE_FILE).write_text(json.dumps(data))
        return read_bundle(path)


@pytest.fixture
def scene(
    tmp_path: Path, toy_folder: Path, toy_data: Data, toy_bundle: Bundle, toy_frames: np.ndarray, save_spec
) -> Scene:
    folder = shutil.copytree(toy_folder, tmp_path / "spec", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "empty").mkdir()
    return Scene(tmp_path / "empty", folder, toy_data, toy_bundle, toy_frames[0], save_spec)


CASES: list[tuple[Callable[[Scene], object], type[CascadertError], str]] = []


def case(error: type[CascadertError], message: str) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:
    """Add a case: what is done, and the whole message it must get ({tmp} is the test's folder)."""

    def add(act: Callable[[Scene], object]) -> Callable[[Scene], object]:
        CASES.append((act, error, message))
        return act

    return add


# Specifications


@case(
    SpecError, r"{tmp}/none\.toml: cannot be read \(No such file or directory\); give the path of a cascade's TOML file"
)
def spec_missing(scene: Scene) -> None:
    load_spec(scene.empty.parent / "none.toml")


@case(SpecError, r"{tmp}/spec/x\.toml: is not valid TOML: .*\(at line 2, column \d+\); mend that line")
def toml_broken(scene: Scene) -> None:
    (scene.folder / "x.toml").write_text('name = "x"\n[frame\nheight = 3\n')
    load_spec(scene.folder / "x.toml")


@case(SpecError, r"{tmp}/spec/toy\.toml: stages\[1\]\.hallo: is not a known field; remove it or mend its spelling")
def unknown_field(scene: Scene) -> None:
    scene.accurate["hallo"] = 4
    scene.load()


@case(SpecError, r"{tmp}/spec/toy\.toml: frame\.width: is missing; add it")
def missing_field(scene: Scene) -> None:
    del scene.data["frame"]["width"]
    scene.load()


@case(SpecError, r"{tmp}/spec/toy\.toml: frame\.height: found '40'; input should be a valid integer")
def height_in_quotes(scene: Scene) -> None:
    scene.data["frame"]["height"] = "40"
    scene.load()


@case(SpecError, r"{tmp}/spec/toy\.toml: spec: stages need distinct names .*, found \['fast', 'fast'\]; mend the spec")
def two_stages_of_one_name(scene: Scene) -> None:
    scene.accurate["name"] = "fast"
    scene.load()


@case(GridError, r"grid\.block = 64: the frame's height is 40 pixels; choose a block between 1 and 40")
def grid_larger_than_the_frame(scene: Scene) -> None:
    scene.data["grid"] = {"block": 64}
    scene.load()


@case(
    GridError,
    r"grid\.stride = 20: blocks of 16 pixels would leave gaps .* the height; choose a stride between 1 and 16",
)
def stride_larger_than_the_block(scene: Scene) -> None:
    scene.data["grid"]["stride"] = 20
    scene.load()


# Networks and weights


@case(
    NetworkError,
    r"stage 'fast': model = \"resnet\": is not a known network; choose one of deeplabv3, .*, or \"module:callable\"",
)
def unknown_model(scene: Scene) -> None:
    scene.fast["model"] = "resnet"
    scene.build()


@case(
    NetworkError,
    r"stage 'fast': model = .*: importing it raised FileNotFoundError: no file {tmp}/spec/nets\.py; mend the path",
)
def file_missing(scene: Scene) -> None:
    scene.fast["model"] = "nets.py:toy"
    scene.build()


@case(
    NetworkError, r"stage 'fast': model = \"networks\.py:tony\": 'networks\.py' has no callable 'tony'; mend the name"
)
def callable_missing(scene: Scene) -> None:
    scene.fast["model"] = "networks.py:tony"
    scene.build()


@case(NetworkError, r"stage 'fast': model = \"networks\.py:not_a_network\": returned int; return a torch\.nn\.Module")
def not_a_network(scene: Scene) -> None:
    scene.fast.update(model="networks.py:not_a_network", args={})
    scene.build()


@case(
    NetworkError,
    r"stage 'fast': model = \"networks\.py:needs\": raised TypeError: .* 'something'; mend args or the model",
)
def missing_argument(scene: Scene) -> None:
    scene.fast.update(model="networks.py:needs", args={})
    scene.build()


@case(
    NetworkError,
    r"stage 'fast': failed on an input of .* pixels: RuntimeError: no such luck second line; mend the network, .*",
)
def network_that_raises(scene: Scene) -> None:
    scene.fast.update(model="networks.py:Broken", args={}, weights=None)
    scene.build(seed=0)


@case(NetworkError, r"stage 'fast': networks\.py:Flat: returned \[1, 3\]; return logits \[N, K, h, w\]")
def network_with_a_wrong_output(scene: Scene) -> None:
    scene.fast.update(model="networks.py:Flat", args={}, weights=None)
    scene.build(seed=0)


@case(
    NetworkError,
    r"stage 'accurate': networks\.py:toy: returned 19 channels where the spec names 4 classes; mend args or classes",
)
def wrong_number_of_classes(scene: Scene) -> None:
    scene.accurate.update(args={"classes": 19}, weights=None)
    scene.build(seed=0)


@case(SpecError, r"stage 'accurate': weights: are missing; add them, or pass --random-weights SEED")
def no_weights_named(scene: Scene) -> None:
    del scene.accurate["weights"]
    scene.build()


@case(
    WeightsError, r"{tmp}/spec/none\.pt: there is no such file; mend weights in the spec, or pass --random-weights SEED"
)
def weights_missing(scene: Scene) -> None:
    scene.fast["weights"] = "none.pt"
    scene.build()


@case(
    WeightsError,
    r"{tmp}/spec/fast\.safetensors: '3\.\w+' is \[4.*\] where the network has \[9.*\]; check args, .*number of classes",
)
def weights_of_another_k(scene: Scene) -> None:
    scene.fast["args"]["classes"] = 9
    scene.build()


@case(
    WeightsError,
    r"{tmp}/spec/fast\.safetensors: '0\.weight' holds NaN or infinity; train it again or take an earlier file",
)
def weights_not_finite(scene: Scene) -> None:
    state = safetensors.torch.load_file(scene.folder / "fast.safetensors")
    state["0.weight"][0, 0, 0, 0] = float("nan")
    safetensors.torch.save_file(state, scene.folder / "fast.safetensors")
    scene.build()


@case(
    WeightsError,
    r"{tmp}/spec/fast\.pt: is not a state dict but holds \['epoch', 'model'\]; save model\.state_dict\(\) alone",
)
def weights_in_a_checkpoint(scene: Scene) -> None:
    torch.save({"epoch": 3, "model": {}}, scene.folder / "fast.pt")
    scene.fast["weights"] = "fast.pt"
    scene.build()


@case(
    WeightsError,
    r"{tmp}/spec/fast\.safetensors: cannot be read: .+; give safetensors, or .*save\(model\.state_dict\(\), path\)",
)
def weights_truncated(scene: Scene) -> None:
    path = scene.folder / "fast.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    scene.build()


# Bundles


@case(InvalidRequest, r"{tmp}/empty: exists already; choose another output, or pass --force to replace it")
def output_exists(scene: Scene) -> None:
    export_bundle(scene.folder / "toy.toml", scene.empty)


@case(InvalidRequest, r"{tmp}/spec: is not an artefact of this kind; choose another output")
def force_over_something_else(scene: Scene) -> None:
    export_bundle(scene.folder / "toy.toml", scene.folder, ExportOptions(replace=True))


@case(BundleError, r"{tmp}/empty/none: there is no such folder; give a folder written by cascadert")
def bundle_missing(scene: Scene) -> None:
    open_artefact(scene.empty / "none")


@case(BundleError, r"{tmp}/empty: has no bundle\.json and no deployment\.json; give a bundle or deployment")
def bundle_without_a_manifest(scene: Scene) -> None:
    open_artefact(scene.empty)


@case(
    BundleError,
    r"{tmp}/empty/copy/bundle\.json: has schema 'cascadert-bundle-9'; .* reads 'cascadert-bundle-2': write it anew",
)
def unknown_schema(scene: Scene) -> None:
    scene.edit(lambda data: data.update(schema="cascadert-bundle-9"))


@case(
    BundleError,
    rf"{{tmp}}/empty/copy/bundle\.json: has \d+ bytes where {MAX_MANIFEST_BYTES} are the limit; write it anew",
)
def oversized_manifest(scene: Scene) -> None:
    scene.edit(lambda data: data.update(created_by="x" * MAX_MANIFEST_BYTES))


@case(BundleError, r"{tmp}/empty/copy/bundle\.json: is not valid JSON: .*; write it anew")
def broken_manifest(scene: Scene) -> None:
    path = scene.copy_of_bundle()
    text = (path / BUNDLE_FILE).read_text()
    (path / BUNDLE_FILE).write_text(text[: len(text) // 2])
    read_bundle(path)


@case(
    BundleError,
    r"{tmp}/empty/copy: \.\./\.\./spec/fast\.safetensors: lies outside the folder; do not use this artefact",
)
def path_outside_the_folder(scene: Scene) -> None:
    scene.edit(lambda data: data["stages"][0]["graph"].update(path="../../spec/fast.safetensors"))


@case(
    BundleError, r"{tmp}/empty/copy/stages/fast\.onnx: was changed: sha256 \w{12}…, not 0{12}…; write the artefact anew"
)
def changed_hash(scene: Scene) -> None:
    scene.edit(lambda data: data["stages"][0]["graph"].update(sha256="0" * 64))


@case(BundleError, r"{tmp}/empty/copy/stages/fast\.onnx: has \d+ bytes, not \d+; write the artefact anew")
def truncated_part(scene: Scene) -> None:
    path = scene.copy_of_bundle()
    graph = path / "stages" / "fast.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    read_bundle(path)


@case(GraphError, r"stage 'fast': ONNX Runtime refuses its graph: .*; export it anew")
def truncated_onnx(scene: Scene) -> None:
    graph = scene.bundle.graphs["fast"]
    OnnxRuntimeExecutable("fast", dataclasses.replace(graph, onnx=graph.onnx[: len(graph.onnx) // 2]))


@case(
    BundleError,
    r"{tmp}/empty/copy: was exported from {tmp}/gone, which is not there; pass --spec with its present path",
)
def spec_folder_gone(scene: Scene) -> None:
    bundle = scene.edit(lambda data: data.update(spec_folder=str(scene.empty.parent / "gone")))
    check_parity(bundle, options=ParityOptions(frames=1))


# Frames, policies, targets and sources


@case(InvalidRequest, r"frame: is uint8 \[20, 56, 3\]; give uint8 \[1, 40, 56, 3\], or have the source fitted .*")
def frame_of_another_size(scene: Scene) -> None:
    with open_pipeline(scene.bundle) as pipeline:
        pipeline.infer(scene.frame[:20])


@case(InvalidRequest, r"frame: is float64 \[40, 56, 3\]; give uint8 \[1, 40, 56, 3\], or .*")
def frame_of_a_wrong_type(scene: Scene) -> None:
    with open_pipeline(scene.bundle) as pipeline:
        pipeline.infer(scene.frame / 255)


@case(InvalidRequest, r"policy for stage 'accurat': makes no decision; stages that do: accurate")
def policy_for_an_unknown_stage(scene: Scene) -> None:
    with open_pipeline(scene.bundle) as pipeline:
        pipeline.infer(scene.frame, {"accurat": ThresholdPolicy(theta=0.5)})


@case(TargetError, r"target 'rtx-31': is not known; did you mean 'rtx-30'\? Known are gtx-1080-ti, .*, tx2")
def unknown_target(scene: Scene) -> None:
    load_target("rtx-31")


@case(InvalidRequest, r"precision 'fp7': is not known; choose fp32, tf32, fp16, int8")
def unknown_precision(scene: Scene) -> None:
    build_engine(scene.bundle, "cpu", scene.empty / "out", BuildOptions(precision="fp7"))


@case(SourceError, r"{tmp}/empty/none\.mp4: does not exist; give an image, a folder of images or a video")
def source_missing(scene: Scene) -> None:
    open_source(scene.empty / "none.mp4", FrameSpec(height=40, width=56))


@case(
    SourceError,
    r"{tmp}/empty/clip\.mp4: cannot be read as a video: .*; give an image, a folder of images or an intact video",
)
def unreadable_video(scene: Scene) -> None:
    (scene.empty / "clip.mp4").write_bytes(b"not a video" * 50)
    open_source(scene.empty / "clip.mp4", FrameSpec(height=40, width=56))


@case(SourceError, r"{tmp}/empty: holds no image \(.*\.png.*\); give a folder of images")
def empty_folder(scene: Scene) -> None:
    open_source(scene.empty, FrameSpec(height=40, width=56))


@case(
    SourceError,
    r"{tmp}/empty/a\.png: is 30x20 pixels where the bundle takes 56x40 \(width x height\); give .* of that size, or .*",
)
def image_of_another_size(scene: Scene) -> None:
    Image.new("RGB", (30, 20)).save(scene.empty / "a.png")
    open_source(scene.empty, FrameSpec(height=40, width=56))


@pytest.mark.parametrize(("act", "error", "message"), CASES, ids=[act.__name__ for act, _, _ in CASES])
def test_bad_input_gets_one_line(scene: Scene, tmp_path: Path, act, error: type[CascadertError], message: str) -> None:
    with pytest.raises(error) as caught:
        act(scene)
    text = str(caught.value)
    assert type(caught.value) is error
    assert re.fullmatch(message.replace("{tmp}", re.escape(str(tmp_path))), text), text
    assert "\n" not in text
    assert caught.value.exit_code > 0


def test_there_are_enough_of_them() -> None:
    assert len({act.__name__ for act, _, _ in CASES}) == len(CASES) >= 40
