"""`evaluate`: how good is each stage on labelled frames, the cascade, and the best choice there could be?"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadert.cli.compile import BundlePath
from cascadert.cli.console import Force, Json, needs, print_json, print_note, tracking
from cascadert.cli.evaluation_tables import print_evaluation
from cascadert.cli.frames import Count, Images, LabelledFrames, Labels
from cascadert.cli.kits import refuse_kit
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.bundle import Bundle
    from cascadert.calibration.evaluation import Evaluation
    from cascadert.calibration.uncertainty_figures import UncertaintyOptions
    from cascadert.jetson.evaluation_gallery import Sheet

_PAGE_FRAMES = 3
_PACKAGES = ("onnxruntime", "numpy")


@dataclass(frozen=True)
class _Reading:
    """How frames are read and run: which files, how many at most, and threads."""

    glob: str | None
    count: int | None
    threads: int


@dataclass(frozen=True)
class _Doubt:
    """What the options say of uncertainty."""

    stage: str | None
    windows: str | None
    certain_below: float | None
    training: list[Path]

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            InvalidRequest: no or two ways to say what is certain, or any without a stage.
        """
        given = {
            "--windows": self.windows is not None,
            "--certain-below": self.certain_below is not None,
            "--train-images": bool(self.training),
        }
        if self.stage is None:
            for option in (option for option, there in given.items() if there):
                raise InvalidRequest(option, "judges the uncertainty of a stage", "say which with --uncertainty STAGE")
        elif given["--certain-below"] == given["--train-images"]:
            found = "both say" if self.training else "needs to know"
            raise InvalidRequest("--uncertainty", f"{found} what is certain", "pass --train-images or --certain-below")


def evaluate(
    bundle: BundlePath,
    images: Images,
    labels: Labels,
    count: Count = None,
    stages: Annotated[
        str | None,
        typer.Option(metavar="FAST,BETTER", help="The two stages that oracles choose between; the first and the last."),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(metavar="PX,...", help="Ask the block oracle for blocks of these sizes, too, as in 64,128."),
    ] = None,
    uncertainty: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Judge the uncertainty of this stage; it must emit entropy.")
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            metavar="PX,...", help="With --uncertainty: sides of PAvPU's windows, as in 2,4,8; 4 if not given."
        ),
    ] = None,
    certain_below: Annotated[
        float | None,
        typer.Option(metavar="BITS", help="With --uncertainty: windows are certain below this mean."),
    ] = None,
    train_images: Annotated[
        list[Path] | None,
        typer.Option(metavar="SOURCE", help="With --uncertainty: certain below the mean over these; --count holds."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with tables and the frames that miss most.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Draw every frame: labels, errors, uncertainty and chosen blocks."),
    ] = None,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure mIoU and accuracy of each stage and of the cascade, and of oracles: the best choice there could be.

    The pixel oracle takes the faster stage where it is right, else the better
    one; the block oracle takes each block from the one with more pixels right.
    With --uncertainty: does a stage doubt where it is wrong (PAvPU), and do
    the aleatoric and epistemic parts of an ensemble's uncertainty add up?

    Runs in ONNX Runtime, every frame twice: with every block refined, and by
    the cascade's own policies (a quarter of the blocks where these follow the
    clock).

    Python: cascadert.calibration.evaluate.evaluate
    """
    with needs("export,cpu", "cascadert evaluate"):
        from cascadert.bundle import read_bundle
        from cascadert.calibration.evaluate import EvaluateOptions
        from cascadert.calibration.evaluate import evaluate as measure
        from cascadert.calibration.page import check_page
        from cascadert.jetson.evaluation_gallery import Gallery
        from cascadert.jetson.sinks import ImageFolder

    refuse_kit(bundle, "a bundle")
    doubt = _Doubt(uncertainty, windows, certain_below, train_images or [])
    pair = None if stages is None else parse_stages(stages)
    sizes = () if blocks is None else parse_pixels("--blocks", blocks)
    doubt.check()
    if html is not None:
        check_page(html)
    opened = read_bundle(bundle)
    with ExitStack() as stack:
        folder = None if pictures is None else stack.enter_context(ImageFolder(pictures, ".png", replace=force))
        gallery = Gallery(opened.spec, _PAGE_FRAMES if html else 0, folder)
        source = stack.enter_context(LabelledFrames(opened.spec, images, labels, glob))
        judged = _read_doubt(opened, doubt, _Reading(glob, count, threads), quiet=as_json)
        options = EvaluateOptions(pair, sizes, judged, threads)
        with tracking("evaluating frames", quiet=as_json) as tracker:
            total = source.count(count)
            evaluation = measure(
                opened, source.samples(count), options, gallery.show, lambda done: tracker.count(done, total)
            )
    if html is not None:
        given = {
            "--images": images, "--labels": labels, "--count": count, "--stages": stages, "--blocks": blocks,
            "--uncertainty": uncertainty, "--windows": windows, "--certain-below": certain_below,
            "--train-images": train_images, "--glob": glob, "--html": html,
        }  # fmt: skip
        _write_page(html, opened, evaluation, gallery.sheets(), given)
    if as_json:
        print_json(evaluation.to_json())
    else:
        print_evaluation(evaluation)
    for written in filter(None, (html, pictures)):
        print_note(f"wrote {written}")
    evaluation.check()


def parse_stages(text: str) -> tuple[str, str]:
    """Return the two stages of `fast,accurate`.

    Raises:
        InvalidRequest: not two.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise InvalidRequest(f"--stages {text}", "names not two stages", "write FAST,BETTER")
    return names[0], names[1]


def parse_pixels(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Return the sizes of `64,128`, each `least` or more.

    Raises:
        InvalidRequest: something that is no number of pixels.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isdecimal() and int(word) >= least):
            raise InvalidRequest(f"{option} {text}", f"has '{word}'", "write numbers of pixels, separated by commas")
    return tuple(map(int, words))


def _read_doubt(bundle: Bundle, doubt: _Doubt, reading: _Reading, *, quiet: bool) -> UncertaintyOptions | None:
    """Return what to judge, after looking at the training images where these say what is certain."""
    from cascadert.calibration.evaluate import mean_uncertainty
    from cascadert.calibration.uncertainty_figures import UncertaintyOptions

    if doubt.stage is None:
        return None
    threshold = doubt.certain_below
    if threshold is None:
        with LabelledFrames(bundle.spec, doubt.training, [], reading.glob) as source:
            planes = (shown for shown, _ in source.spread(reading.count))
            total = source.count(reading.count)
            with tracking("looking at training images", quiet=quiet) as tracker:
                threshold = mean_uncertainty(
                    bundle, planes, doubt.stage, reading.threads, lambda done: tracker.count(done, total)
                )
    return UncertaintyOptions(doubt.stage, threshold, parse_pixels("--windows", doubt.windows or "4"))


def _write_page(
    html: Path, bundle: Bundle, evaluation: Evaluation, sheets: list[Sheet], given: Mapping[str, Any]
) -> None:
    from cascadert.calibration.page import Origin
    from cascadert.jetson.evaluation_page import write_evaluation
    from cascadert.jetson.machine import machine, versions

    images, labels = (", ".join(map(str, given[option])) for option in ("--images", "--labels"))
    frames = f"{evaluation.frames} of {images}, labels of {labels}"
    origin = Origin(str(bundle.path), frames, _command(bundle, given), versions(_PACKAGES), machine())
    write_evaluation(html, bundle.spec, evaluation, sheets, origin)


def _command(bundle: Bundle, given: Mapping[str, Any]) -> str:
    words = ["cascadert", "evaluate", str(bundle.path)]
    for option, value in given.items():
        values = value if isinstance(value, list) else [value]
        words += [word for each in values if each is not None for word in (option, str(each))]
    return shlex.join(words)
