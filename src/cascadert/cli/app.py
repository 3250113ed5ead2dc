"""The program `cascadert`: its commands, its version, and what becomes of errors."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cascadert._version import __version__
from cascadert.cli.bench import bench
from cascadert.cli.build import build_engine
from cascadert.cli.calibrate import calibrate
from cascadert.cli.compile import export
from cascadert.cli.console import print_error
from cascadert.cli.evaluate import evaluate
from cascadert.cli.exits import exits
from cascadert.cli.lint import lint
from cascadert.cli.look import inspect
from cascadert.cli.media import demo, run
from cascadert.cli.parity import parity
from cascadert.cli.refit import refit
from cascadert.cli.targets import targets
from cascadert.errors import CascadertError

_INTERRUPTED = 130

_EPILOG = """
\b
[bold]From weights to frames[/bold]
cascadert export street.toml -o street.bundle
cascadert parity street.bundle
cascadert calibrate street.bundle --images frames -o street.calibrated
cascadert build-engine street.calibrated --target rtx-40 --precision fp16 -o street.rtx-40
cascadert run street.bundle clip.mp4 --theta 0.5 -o overlay.mp4
cascadert bench street.bundle clip.mp4

\b
[bold]Exit codes[/bold]
  0  done
  1  parity or calibration: beyond the limits, or a comparison that shows nothing
  2  request: an option, specification, grid or target
  3  network, weights, export or graph
  4  bundle or deployment
  5  source or output: image, folder, video
  6  engine build, or what lint finds against it
  7  execution: a stage failed on a frame
  8  an optional dependency is not installed
130  interrupted
"""

_EXAMPLES = {
    "export": [
        "cascadert export street.toml -o street.bundle",
        "cascadert export mess.toml --until exit2 -o budgeted.bundle",
    ],
    "parity": [
        "cascadert parity demo/bundle",
        "cascadert parity demo/bundle --frames demo/frames --count 5 --json",
        "cascadert parity demo/calibrated --precisions fp16,int8 --html parity.html",
    ],
    "calibrate": [
        "cascadert calibrate demo/bundle --images demo/frames -o calibrated",
        "cascadert calibrate bundle --images frames --labels labels -o calibrated",
        "cascadert calibrate bundle --images clip.mp4 --int8 none -o out",
        "cascadert calibrate bundle --images frames --labels labels --max-drop 0.5 -o tuned --html tuned.html",
        "cascadert calibrate bundle --images frames --labels labels --target-ms 40 --precision fp32,int8-cpu -o tuned",
        "cascadert calibrate bundle --images frames --labels labels --target-fps 25 --block 64,96 --halo 0,32 -o tuned",
    ],
    "evaluate": [
        "cascadert evaluate street.bundle --images val/images --labels val/labels --html evaluation.html",
        "cascadert evaluate street.bundle --images images --labels labels --blocks 64,128 --count 50 --json",
        "cascadert evaluate ensemble.bundle --images val --labels labels --uncertainty reduce --train-images train",
    ],
    "exits": [
        "cascadert exits mess.bundle --images val/images --labels val/labels --html exits.html",
        "cascadert exits mess.bundle --images images --labels labels --max-drop 1 -o fast.bundle",
        "cascadert exits mess.bundle --images images --labels labels --budget-ms 20 --profile orin.json -o orin.bundle",
    ],
    "build-engine": [
        "cascadert build-engine demo/bundle --target rtx-40 -o demo/rtx-40",
        "cascadert build-engine calibrated --target cpu --precision int8 -o cpu",
        "cascadert build-engine street.bundle --target orin-nano-8gb -o kits",
        "cascadert build-engine street-orin-nano-8gb.kit -o orin",
    ],
    "refit": [
        "cascadert refit demo/cpu retrained.bundle -o demo/cpu-retrained",
        "cascadert refit orin street-orin-nano-8gb.kit -o orin-retrained",
    ],
    "lint": [
        "cascadert lint demo/bundle --target gtx-1080-ti",
        "cascadert lint demo/bundle --target orin-nano-8gb --precision fp16 --json",
        "cascadert lint network.onnx --target rtx-40 --backend tensorrt",
    ],
    "run": [
        "cascadert run demo/bundle demo/frames -o overlay.mp4 --stats stats.json",
        "cascadert run demo/bundle demo/frames --glob '*.png' --theta 0.25 --save-labels labels",
        "cascadert run demo/bundle demo/frames --budget-ms 120 --profile profile.json --trace trace.json",
        "cascadert run demo/bundle clip.mp4 --live --fps 12 --on-error continue",
        "cascadert run mess.bundle clip.mp4 --exit-threshold 0.9 --deadline-ms 40",
    ],
    "bench": [
        "cascadert bench demo/bundle demo/frames --match --trace trace.json",
        "cascadert bench demo/bundle --threads 1 --n 4 --json",
        "cascadert bench demo/bundle --save-profile profile.json",
    ],
    "inspect": [
        "cascadert inspect demo/bundle",
        "cascadert inspect demo/bundle --target orin-nano-8gb --precision fp16",
    ],
    "targets": ["cascadert targets", "cascadert targets agx-orin", "cascadert targets --json"],
    "demo": ["cascadert demo -o demo"],
}


class _Program(TyperGroup):
    """Every error raised on purpose becomes one line on stderr and its exit code; anything else is a bug and shows."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CascadertError as error:
            print_error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            print_error("interrupted")
            raise typer.Exit(_INTERRUPTED) from interrupt


app = typer.Typer(
    name="cascadert",
    cls=_Program,
    help="Compile adaptive semantic segmentation to ONNX and TensorRT, and run it.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cascadert {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the program itself."""


for _name, _command in (
    ("export", export),
    ("parity", parity),
    ("calibrate", calibrate),
    ("evaluate", evaluate),
    ("exits", exits),
    ("build-engine", build_engine),
    ("refit", refit),
    ("lint", lint),
    ("run", run),
    ("bench", bench),
    ("inspect", inspect),
    ("targets", targets),
    ("demo", demo),
):
    app.command(_name, epilog="\b\n[bold]Example[/bold]\n" + "\n".join(_EXAMPLES[_name]))(_command)


def main() -> None:
    """Run the program: the entry point `cascadert`."""
    app()
