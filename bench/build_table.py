"""Builds bundles for every TensorRT-RTX target in several precisions, and proves what they compute in; needs no GPU.

    python bench/build_table.py BUNDLE [BUNDLE ...] --precision fp32 fp16 -o bench/results/builds.json

A stage that is refused is a row with its message, not a missing row. Times are TensorRT's own (parse and build, one
process per engine), without the lowering and without starting that process. `parsed` counts the convolutions and matrix
products of the network that TensorRT parsed by the type of their operands, `engine` those that the engine's own text
names: file size proves nothing. fp16 and int8 need calibrated bundles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cascadert.bundle import Bundle, read_bundle
from cascadert.engines.build import BuildOptions
from cascadert.engines.inspection import engine_types
from cascadert.engines.lock import build_lock
from cascadert.engines.plan import make_plan
from cascadert.engines.process import BuiltEngine, RefusedGraph, run_worker
from cascadert.engines.profiles import Target, list_targets, load_target
from cascadert.errors import CascadertError

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Row:
    """One stage built for one target; without a size where it was refused."""

    bundle: str
    stage: str
    target: str
    precision: str
    engine_mb: float | None = None
    build_s: float | None = None
    parsed: dict[str, int] | None = None
    engine: dict[str, int] | None = None
    tf32: bool | None = None
    refused: str | None = None


def build_rows(bundle: Bundle, target: Target, precision: str, versions: dict[str, str]) -> Iterator[Row]:
    """Build every stage of a bundle for a target; adds the builder's versions to `versions`."""
    name = bundle.path.name
    try:
        plan = make_plan(bundle, target, BuildOptions(precision=precision))
    except CascadertError as error:
        yield Row(name, "(all)", target.name, precision, refused=str(error))
        return
    for stage in plan.stages:
        with tempfile.TemporaryDirectory(prefix="cascadert-bench-") as scratch, build_lock():
            try:
                built = run_worker(plan.recipe(stage), Path(scratch), f"stage '{stage}'", 3600.0, lambda _: None)
            except (CascadertError, RefusedGraph) as error:
                yield Row(name, stage, target.name, precision, refused=str(error))
                continue
        versions |= built.versions
        yield proven(Row(name, stage, target.name, precision), built)


def proven(row: Row, built: BuiltEngine) -> Row:
    """Add what was built, and what it computes in."""
    parsed = Counter(layer.inputs[0] for layer in built.network)
    found = engine_types(built.engine)
    return Row(
        **{
            **asdict(row),
            "engine_mb": round(len(built.engine) / MEGABYTE, 3),
            "build_s": round(built.seconds, 3),
            "parsed": dict(parsed),
            "engine": found.counts(),
            "tf32": found.tf32,
        }
    )


def make_table(rows: list[Row]) -> Table:
    headers = ("bundle", "stage", "target", "precision", "engine MB", "build s", "parsed", "engine")
    table = Table(*headers, title="convolutions and products by what they compute in")
    for row in rows:
        start = (row.bundle, row.stage, row.target, row.precision)
        if row.refused or row.parsed is None or row.engine is None:
            table.add_row(*start, "refused", "", escape(row.refused or ""), "")
        else:
            shown = (", ".join(f"{n} {kind}" for kind, n in counts.items()) for counts in (row.parsed, row.engine))
            table.add_row(*start, f"{row.engine_mb:.2f}", f"{row.build_s:.2f}", *shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--target", action="append", help="again for more; all of TensorRT-RTX by default")
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/builds.json"))
    options = parser.parse_args()
    anywhere = [t for t in list_targets() if t.refused is None and t.backends[0].name == "tensorrt-rtx"]
    targets = [load_target(name) for name in options.target] if options.target else anywhere
    console, rows, versions = Console(), [], dict[str, str]()
    for path in options.bundles:
        bundle = read_bundle(path)
        for target in targets:
            for precision in options.precision:
                with console.status(f"{path.name} for {target.name} in {precision}"):
                    rows += build_rows(bundle, target, precision, versions)
    console.print(make_table(rows))
    result = {
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores, engines built without using a GPU",
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
        "python": platform.python_version(),
        "versions": versions,
        "rows": [asdict(row) for row in rows],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
