"""The options of `calibrate` that tune theta, and the page of what was found."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cascadert.cli.evaluate import parse_pixels
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.bundle import Bundle
    from cascadert.calibration.page import Origin
    from cascadert.calibration.tuning import TuneOptions
    from cascadert.calibration.tuning_choice import Goal, Kind
    from cascadert.precision import Numerics

_PACKAGES = ("onnxruntime", "onnx", "numpy")
_TUNE = "Tuning (needs --labels)"

MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS", rich_help_panel=_TUNE, help="Choose the fastest that loses at most so many points of mIoU."
    ),
]
TargetMs = Annotated[
    float | None,
    typer.Option(
        metavar="MS", rich_help_panel=_TUNE, help="Choose the best mIoU for this mean time of a frame, stages in turn."
    ),
]
TargetFps = Annotated[
    float | None,
    typer.Option(
        metavar="FPS", rich_help_panel=_TUNE, help="Choose the best mIoU for this rate of the overlapped stream."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...", rich_help_panel=_TUNE, help="Try these, as in fp32,int8-cpu, on the chosen blocks and halo."
    ),
]
Block = Annotated[
    str | None,
    typer.Option(metavar="PX,...", rich_help_panel=_TUNE, help="Try square blocks of these sizes, side by side."),
]
Halo = Annotated[str | None, typer.Option(metavar="PX,...", rich_help_panel=_TUNE, help="Try these halos.")]
Spec = Annotated[
    Path | None,
    typer.Option(
        metavar="TOML", rich_help_panel=_TUNE, help="For --block and --halo: where the specification is now, if moved."
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_TUNE,
        help="Times of the stages, by [bold]bench --json[/bold] on the device; else measured here.",
    ),
]


@dataclass(frozen=True)
class Wanted:
    """What the options say, as they were given."""

    max_drop: float | None
    target_ms: float | None
    target_fps: float | None
    precision: str | None
    block: str | None
    halo: str | None
    spec: Path | None
    profile: Path | None

    def options(self, *, labelled: bool, page: bool, threads: int) -> TuneOptions | None:
        """Return what to tune, or none where nothing is asked for.

        Args:
            labelled: whether there are labels.
            page: whether a page is written, which shows curves also without a goal.
            threads: of ONNX Runtime.

        Raises:
            InvalidRequest: two goals, a goal or variants without labels, or values that are none.
        """
        from cascadert.calibration.tuning import TuneOptions
        from cascadert.calibration.tuning_variants import VariantOptions

        goal, given = self._goal(), self._given()
        if not labelled and (goal is not None or given):
            raise InvalidRequest(str(goal or given[0]), "needs to know what is right", "give --labels")
        if goal is None and not given and not (labelled and page):
            return None
        variants = VariantOptions(
            () if self.block is None else parse_pixels("--block", self.block),
            () if self.halo is None else parse_pixels("--halo", self.halo, least=0),
            self.spec,
        )
        options = TuneOptions(goal, variants, self._numerics(), self.profile, threads)
        options.check()
        return options

    @property
    def asked(self) -> bool:
        """Whether any option asks for curves."""
        return self._goal() is not None or bool(self._given())

    def _goal(self) -> Goal | None:
        from cascadert.calibration.tuning_choice import Goal

        values = {"max-drop": self.max_drop, "target-ms": self.target_ms, "target-fps": self.target_fps}
        given = {kind: value for kind, value in values.items() if value is not None}
        if len(given) > 1:
            found = "ask for different things"
            raise InvalidRequest(" and ".join(f"--{kind}" for kind in given), found, "give one goal")
        return next((Goal(cast("Kind", kind), value) for kind, value in given.items()), None)

    def _given(self) -> list[str]:
        values = {
            "--precision": self.precision,
            "--block": self.block,
            "--halo": self.halo,
            "--spec": self.spec,
            "--profile": self.profile,
        }
        return [option for option, value in values.items() if value is not None]

    def _numerics(self) -> tuple[Numerics, ...]:
        from typing import get_args

        from cascadert.precision import Numerics

        names = ["fp32"] if self.precision is None else [name.strip() for name in self.precision.split(",")]
        for name in names:
            if name not in get_args(Numerics):
                raise InvalidRequest(
                    f"--precision {self.precision}", f"has '{name}'", f"choose of {', '.join(get_args(Numerics))}"
                )
        return tuple(cast("Numerics", name) for name in dict.fromkeys(names))


def command() -> str:
    """Return the command as it was typed."""
    return shlex.join(["cascadert", *sys.argv[1:]])


def origin_of(bundle: Bundle, frames: int, images: list[Path], labels: list[Path]) -> Origin:
    """Return what made a page or a file of numbers."""
    from cascadert.calibration.page import Origin
    from cascadert.jetson.machine import machine, versions

    shown = f"{frames} of {', '.join(map(str, images))}, labels of {', '.join(map(str, labels))}"
    return Origin(str(bundle.path), shown, command(), versions(_PACKAGES), machine())
