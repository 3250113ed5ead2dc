"""Builds bundles for every target and tabulates engine sizes and build times; needs no GPU.

    python bench/build_table.py BUNDLE [BUNDLE ...] -o bench/results/builds.json

A stage that a target's builder refuses is a row with its message, not a missing row. Times are TensorRT's own (parse
and build, one process per engine), without the lowering and without starting that process.
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
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cascadert.bundle import Bundle, read_bundle
from cascadert.engines.build import BuildOptions, build_engine
from cascadert.engines.profiles import Target, list_targets, load_target
from cascadert.errors import CascadertError

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Row:
    """One stage built for one target; without a size where it was refused."""

    bundle: str
    stage: str
    target: str
    engine_mb: float | None
    build_s: float | None
    refused: str | None = None


def build_rows(bundle: Bundle, target: Target, console: Console) -> tuple[list[Row], dict[str, str]]:
    """Build a bundle for a target, in a folder that is removed again; return the rows and the builder's versions."""
    name = bundle.path.name
    with tempfile.TemporaryDirectory(prefix="cascadert-bench-") as scratch, console.status("") as status:
        try:
            deployment = build_engine(
                bundle,
                target,
                Path(scratch) / "deployment",
                BuildOptions(),
                lambda at: status.update(f"{name} · {target.name} · {at.stage} · {at.phase} · {at.fraction:.0%}"),
            )
        except CascadertError as error:
            return [Row(name, "(all)", target.name, None, None, str(error))], {}
    rows = [
        Row(name, entry.stage, target.name, round(entry.engine.bytes / MEGABYTE, 3), round(entry.build_seconds, 3))
        for entry in deployment.manifest.engines
    ]
    return rows, deployment.manifest.builder


def make_table(rows: list[Row]) -> Table:
    table = Table("bundle", "stage", "target", "engine MB", "build s", title="fp32, TF32 off")
    for row in rows:
        if row.refused:
            table.add_row(row.bundle, row.stage, row.target, "refused", escape(row.refused))
        else:
            table.add_row(row.bundle, row.stage, row.target, f"{row.engine_mb:.2f}", f"{row.build_s:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--target", action="append", help="again for more; all of them by default")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/builds.json"))
    options = parser.parse_args()
    targets = [load_target(name) for name in options.target] if options.target else list_targets()
    console = Console()
    rows: list[Row] = []
    versions: dict[str, str] = {}
    for path in options.bundles:
        bundle = read_bundle(path)
        for target in targets:
            built, used = build_rows(bundle, target, console)
            rows += built
            versions |= used
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
