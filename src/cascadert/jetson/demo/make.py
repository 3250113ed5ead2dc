"""Make the demo: export, parity, engines, a video, and a report of what was measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cascadert.bundle import Bundle
from cascadert.deployment import Deployment
from cascadert.errors import InvalidRequest, import_extra
from cascadert.jetson.demo.folder import DemoFolder
from cascadert.jetson.demo.measure import Sweep, make_settings, measure
from cascadert.jetson.demo.video import VideoRun, run_video
from cascadert.jetson.sinks import ImageFolder
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.scenes import CLASS_NAMES, Scene, SceneOptions, clip
from cascadert.spec import CascadeSpec, ThresholdPolicy, load_spec

if TYPE_CHECKING:
    from cascadert.calibration.parity import ParityReport

SCENES = Path(__file__).parents[1] / "specs" / "scenes.toml"
"""The specification of the cascade that comes with the package, weights included."""

Progress = Callable[[str, int, "int | None"], None]
"""Called with what is being done, how much of it is done, and how much there is where that is known."""


@dataclass(frozen=True)
class DemoOptions:
    """What to show.

    Attributes:
        spec: the cascade; its first stage must emit entropy, one later stage must decide by a threshold.
        random_weights: seed of networks without weights, as for export.
        targets: what to build engines for.
        streets: seeds of the generated streets; the networks that come with the package never saw them.
        frames_per_street: at 15 Hz.
        thetas: thresholds to measure beside the specification's own, in bits.
        sweep_every: they are measured on every such frame.
        threads: of ONNX Runtime; 0 takes all cores.
    """

    spec: Path = SCENES
    random_weights: int | None = None
    targets: tuple[str, ...] = ("rtx-40", "rtx-30", "cpu")
    streets: tuple[int, ...] = (11, 13, 21)
    frames_per_street: int = 20
    thetas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 2.5)
    sweep_every: int = 4
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.streets or self.frames_per_street < 1 or self.sweep_every < 1:
            found = (
                f"{len(self.streets)} streets of {self.frames_per_street} frames, one in {self.sweep_every} measured"
            )
            raise InvalidRequest("demo", found, "ask for one or more of each")


@dataclass(frozen=True)
class DemoSummary:
    """What a demo made and measured. `seconds` tells how long each step took."""

    output: Path
    bundle: Bundle
    parity: ParityReport
    deployments: tuple[Deployment, ...]
    video: VideoRun
    sweep: Sweep
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The page to open first."""
        return self.output / "report.html"


class _Steps:
    """Times the steps and tells of them."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}
        self._name = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._name, started = name, time.perf_counter()
        self.count(0)
        yield
        self.seconds[name] = time.perf_counter() - started

    def count(self, done: int, total: int | None = None) -> None:
        if self._progress is not None:
            self._progress(self._name, done, total)


def make_demo(output: Path, options: DemoOptions = DemoOptions(), progress: Progress | None = None) -> DemoSummary:
    """Make the demo in the folder `output`, in the place of one that was made there before.

    Raises:
        InvalidRequest: the folder holds something that no demo made, or an option is out of range.
        MissingExtra: one of the extras export, cpu, rtx, video and report is not installed.
        ParityError: ONNX differs from PyTorch; everything is made all the same, and the report shows where.
        CascadertError: a step failed; its message says which and why.
    """
    _check_extras()
    spec = _load(options)
    folder, steps = DemoFolder(output), _Steps(progress)
    with steps.step("render streets"):
        scenes = _render(folder, spec, options, steps)
    with steps.step("export"):
        bundle = _export(folder, options, steps)
    with steps.step("check parity"):
        parity = _check_parity(bundle, scenes, options, steps)
    deployments = []
    for target in options.targets:
        with steps.step(f"build engines for {target}"):
            deployments.append(_build(folder, bundle, target, steps))
    serial = RuntimeOptions(mode="serial", threads=options.threads, tensors="all")
    with open_pipeline(bundle, serial) as pipeline:
        with steps.step("run the video"):
            video = run_video(folder, pipeline, scenes, _theta(spec), steps.count)
        with steps.step("measure thresholds"):
            settings = make_settings(sorted({*options.thetas, video.theta}), spec.make_grid().size)
            sweep = measure(pipeline, [*scenes.values()][:: options.sweep_every], settings, steps.count)
    summary = DemoSummary(output, bundle, parity, tuple(deployments), video, sweep, steps.seconds)
    with steps.step("write the report"):
        from cascadert.jetson.demo.report import plain, write_report

        write_report(folder.claim("report.html"), summary, options)
    folder.finish(plain(summary))
    parity.check()  # last, so that a failure leaves the report that shows it
    return summary


def _check_extras() -> None:
    for module, extra in (("torch", "export"), ("onnxruntime", "cpu"), ("av", "video")):
        import_extra(module, extra, "cascadert demo")
    for module in ("matplotlib", "jinja2"):
        import_extra(module, "report", "cascadert demo")


def _load(options: DemoOptions) -> CascadeSpec:
    spec = load_spec(options.spec)
    emitted = spec.wiring[spec.stages[0].name].emit
    if spec.frame.cameras != 1 or "entropy" not in emitted:
        found = f"{spec.frame.cameras} camera(s), emit = {list(emitted)}"
        raise InvalidRequest(str(options.spec), found, 'give one camera and "entropy" in emit: the demo shows it')
    if spec.num_classes != len(CLASS_NAMES):
        found = f"has {spec.num_classes} classes where generated streets have {len(CLASS_NAMES)}"
        raise InvalidRequest(str(options.spec), found, 'give a spec with classes = "cityscapes"')
    _theta(spec)
    return spec


def _theta(spec: CascadeSpec) -> float:
    policies = [stage.select for stage in spec.stages[1:]]
    if len(policies) != 1 or not isinstance(policies[0], ThresholdPolicy):
        found = f"decides by {', '.join(policy.policy for policy in policies if policy) or 'nothing'}"
        raise InvalidRequest(f"cascade '{spec.name}'", found, "give one decision, by a threshold: the demo shows it")
    return policies[0].theta


def _render(folder: DemoFolder, spec: CascadeSpec, options: DemoOptions, steps: _Steps) -> dict[str, Scene]:
    """Render the streets and keep them as images and label maps of one name each."""
    size = SceneOptions(spec.frame.height, spec.frame.width)
    total = len(options.streets) * options.frames_per_street
    scenes: dict[str, Scene] = {}
    with ExitStack() as stack:
        images, labels = (
            stack.enter_context(ImageFolder(folder.claim(name), ".png", replace=False)) for name in ("frames", "labels")
        )
        for street in options.streets:
            for index, scene in enumerate(clip(street, options.frames_per_street, size)):
                name = f"street{street:03d}_{index:03d}"
                scenes[name] = scene
                images.write(name, scene.image)
                labels.write(name, scene.labels)
                steps.count(len(scenes), total)
    return scenes


def _export(folder: DemoFolder, options: DemoOptions, steps: _Steps) -> Bundle:
    from cascadert.export.compile import ExportOptions, export_bundle

    stages = [stage.name for stage in load_spec(options.spec).stages]
    return export_bundle(
        options.spec,
        folder.claim("bundle"),
        ExportOptions(random_weights=options.random_weights),
        lambda stage: steps.count(stages.index(stage), len(stages)),
    )


def _check_parity(bundle: Bundle, scenes: dict[str, Scene], options: DemoOptions, steps: _Steps) -> ParityReport:
    """Compare on the first frame of each street."""
    from cascadert.calibration.parity import ParityOptions, check_parity

    firsts = [*scenes.values()][:: options.frames_per_street]
    planes = [planes_from_rgb(scene.image[None], bundle.spec.frame.pixel_format) for scene in firsts]
    return check_parity(
        bundle, planes, ParityOptions(threads=options.threads), lambda done: steps.count(done, len(planes))
    )


def _build(folder: DemoFolder, bundle: Bundle, target: str, steps: _Steps) -> Deployment:
    from cascadert.engines.build import BuildProgress, build_engine

    stages = [stage.name for stage in bundle.manifest.stages]

    def heard(at: BuildProgress) -> None:
        steps.count(round(100 * (stages.index(at.stage) + at.fraction) / len(stages)), 100)

    return build_engine(bundle, target, folder.claim(f"deployments/{target}"), progress=heard)
