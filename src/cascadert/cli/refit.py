"""`refit`: other weights for a deployment, without a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadert.cli.console import Force, Json, tracking
from cascadert.cli.look import describe

if TYPE_CHECKING:
    from cascadert.engines.build import BuildProgress


def refit(
    deployment: Annotated[
        Path, typer.Argument(metavar="DEPLOYMENT", help="Built with --refittable, or for the target cpu.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="The same networks with other weights: a bundle, or a kit of it.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Give a deployment the weights of another bundle, such as one that was trained again: nothing is built.

    Every stage of the bundle must have the architecture of the deployment's:
    the same graph, apart from its weights. Thresholds and other policies are
    those of the bundle. int8 is refused, since scales belong to weights.

    Engines of TensorRT are refitted on the GPU that they were built on. Where
    that is a board without onnx, give a kit: cascadert build-engine BUNDLE
    --refittable, with the options of the deployment.

    Python: cascadert.engines.refit.refit
    """
    from cascadert.bundle import read_bundle
    from cascadert.deployment import read_deployment
    from cascadert.engines.kit import is_kit, read_kit
    from cascadert.engines.refit import refit as refit_deployment

    built, opened = read_deployment(deployment), read_kit(source) if is_kit(source) else read_bundle(source)
    with tracking(f"refitting {deployment.name}", quiet=as_json, counted=False) as tracker:

        def show(step: BuildProgress) -> None:
            tracker.say(f"{step.stage}: {step.phase}")

        result = refit_deployment(built, opened, output, show, replace=force)
    describe(result, as_json=as_json)
