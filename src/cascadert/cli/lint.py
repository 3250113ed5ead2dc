"""`lint`: what a target's builder would refuse, before anything is built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from cascadert.cli.console import Json, out, print_json, print_note, tracking
from cascadert.cli.stages import parse_precision
from cascadert.errors import BuildError, GraphError, InvalidRequest, import_extra

if TYPE_CHECKING:
    from cascadert.engines.facts import BackendFacts
    from cascadert.engines.lint import Finding
    from cascadert.engines.profiles import Target
    from cascadert.graph import Graph

Findings = list[tuple[str, "Finding"]]


def lint(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A bundle, or any .onnx file as it stands.")],
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="See [bold]cascadert targets[/bold].")],
    precision: Annotated[
        str, typer.Option(help="What a bundle is to compute in; or each stage, as in fast=int8,accurate=fp16.")
    ] = "fp32",
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of the target's builders; if not given, the first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check graphs against what a target's builder takes, without building: operators, opset, types, quantization.

    Where a target allows several versions of TensorRT, the strictest counts.
    Fails (exit code 6) if there are findings.

    Python: cascadert.engines.lint.lint_graph
    """
    from cascadert.engines.lint import lint_graph
    from cascadert.engines.profiles import load_target

    import_extra("onnx", "export", "cascadert lint")
    chosen = load_target(target)
    facts = chosen.backend(backend)
    graphs, findings = 0, []
    with tracking(f"checking {path}", quiet=as_json, counted=False) as tracker:
        for name, graph in _graphs(path, chosen, facts, precision):
            tracker.say(f"checking {name}")
            graphs += 1
            findings += [(name, finding) for finding in lint_graph(graph, facts, chosen.compute_capability)]
    if as_json:
        _print_json(path, chosen, facts, findings)
    elif findings:
        _print_table(findings)
    builder = f"{facts.name} {facts.versions}"
    if findings:
        found = f"{len(findings)} finding{'s' if len(findings) > 1 else ''} for {builder}"
        raise BuildError(f"{path} for {chosen.name}", found, _remedy(path))
    print_note(
        f"{path} for {chosen.name}: {graphs} graph{'s' if graphs > 1 else ''} suit{'s' * (graphs == 1)} {builder}"
    )


def _graphs(path: Path, target: Target, facts: BackendFacts, precision: str) -> Iterator[tuple[str, Graph]]:
    """Yield what the builder would be given, by name: the stages of a bundle lowered, a file as it is."""
    if path.suffix == ".onnx":
        if precision != "fp32":
            found = f"has the precision of its own graph, not '{precision}'"
            raise InvalidRequest(str(path), found, "leave --precision out, or give a bundle")
        yield path.name, _read_onnx(path)
        return
    from cascadert.bundle import read_bundle
    from cascadert.engines.form import StageForm
    from cascadert.engines.options import stage_precisions
    from cascadert.engines.request import check_request

    bundle = read_bundle(path)
    wanted = stage_precisions(parse_precision(precision), list(bundle.graphs))
    check_request(target, facts, wanted, {}, bundle.calibrations, None)
    for stage, graph in bundle.graphs.items():
        subject = f"stage '{stage}' for {target.name}"
        form = StageForm(subject, wanted[stage], target, facts, bundle.calibrations.get(stage))
        yield stage, form.unchecked(graph)


def _remedy(path: Path) -> str:
    """Say what to do about findings: a stage's own graph has yet to be lowered for a target."""
    from cascadert.bundle import BUNDLE_FILE

    bundle = path.absolute().parent.parent
    if path.suffix == ".onnx" and (bundle / BUNDLE_FILE).is_file():
        return f"lint the bundle instead, whose graphs are lowered for the target first: {bundle}"
    return "mend the graph, or choose another target"


def _read_onnx(path: Path) -> Graph:
    """Read a file, with the weights that it keeps beside it."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from cascadert.graph import Graph

    try:
        return Graph(onnx.load(path).SerializeToString(), (), (), "tensorrt")
    except OSError as error:
        raise GraphError(str(path), f"cannot be read ({error.strerror})", "give a bundle or an .onnx file") from error
    except (DecodeError, ValueError) as error:
        raise GraphError(str(path), f"is no ONNX model ({error})", "export it again") from error


def _print_table(findings: Findings) -> None:
    table = Table(
        "graph", "node", "module", "rule", Column("what is wrong, and what to do", overflow="fold"), box=SIMPLE_HEAD
    )
    for graph, finding in findings:
        cells = (graph, finding.node or "-", finding.module or "-", finding.rule, f"{finding.found}; {finding.remedy}")
        table.add_row(*map(Text, cells))
    out.print(table)


def _print_json(path: Path, target: Target, facts: BackendFacts, findings: Findings) -> None:
    rows = [{"graph": graph, **asdict(finding)} for graph, finding in findings]
    found = {"path": str(path), "target": target.name, "backend": facts.model_dump(), "findings": rows}
    print_json(json.dumps(found, indent=1))
