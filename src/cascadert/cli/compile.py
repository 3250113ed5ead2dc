"""`export`: from a specification to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascadert.cli.console import Force, Json, needs, tracking
from cascadert.cli.look import describe

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder written by [bold]export[/bold].")]


def export(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The cascade's TOML file; its paths count from there.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The folder to write.")],
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Make up weights for stages that name none, to try things out."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="End with the labels of this stage, on every frame; what it does not need is left out.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Export the networks of a specification to a bundle: one ONNX graph per stage, and how they are wired.

    With --until a network with exits is cut to a budget: the bundle ends with
    that exit, decides nothing before it, and holds no weights of later stages.

    Python: cascadert.export.compile.export_bundle
    """
    with needs("export", "cascadert export"):
        from cascadert.export.compile import ExportOptions, export_bundle

    with tracking(f"exporting {spec}", quiet=as_json, counted=False) as tracker:
        options = ExportOptions(random_weights=random_weights, until=until, replace=force)
        bundle = export_bundle(spec, output, options, lambda stage: tracker.say(f"exporting stage {stage}"))
    describe(bundle, as_json=as_json)
