"""Times a deployment whose engines are built against the same from the cache; needs no GPU.

    python bench/engine_cache.py BUNDLE [--target rtx-40] [--precision fp32] -o bench/results/engine_cache.json

Each run is a process of its own that imports everything first, and then times the whole of `build_engine`: reading and
lowering the graphs, the lint, keys, the cache, and writing the deployment. `find_s` is what the cache alone takes for
all stages: reading the files and checking their digests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ONE_RUN = """
import json, sys, time
from pathlib import Path
import onnxscript.version_converter, onnx_ir.passes.common, tensorrt_rtx
import cascadert.export.precision, cascadert.export.opset, cascadert.engines.lint.walk
from cascadert.bundle import read_bundle
from cascadert.engines.build import BuildOptions, build_engine
from cascadert.engines.cache import EngineCache

spent = 0.0
find = EngineCache.find

def timed(cache, key):
    global spent
    begin = time.perf_counter()
    found = find(cache, key)
    spent += time.perf_counter() - begin
    return found

EngineCache.find = timed
bundle, target, precision, output = sys.argv[1:]
start = time.perf_counter()
deployment = build_engine(read_bundle(Path(bundle)), target, Path(output), BuildOptions(precision=precision))
whole = time.perf_counter() - start
print(json.dumps({
    "whole_s": whole,
    "find_s": spent,
    "from_cache": [entry.from_cache for entry in deployment.manifest.engines],
    "engine_bytes": sum(entry.engine.bytes for entry in deployment.manifest.engines),
    "versions": deployment.manifest.builder,
}))
"""


def run(bundle: Path, target: str, precision: str, folder: Path, number: int) -> dict[str, object]:
    """Build once in a process of its own."""
    command = [sys.executable, "-c", ONE_RUN, str(bundle), target, precision, str(folder / f"run{number}")]
    environment = {**os.environ, "CASCADERT_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", default="rtx-40")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--hits", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/engine_cache.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cascadert-bench-") as scratch:
        runs = [
            run(options.bundle, options.target, options.precision, Path(scratch), number)
            for number in range(1 + options.hits)
        ]
    built, *hits = runs
    assert not any(built["from_cache"])
    assert all(all(hit["from_cache"]) for hit in hits)
    row = {
        "bundle": options.bundle.name,
        "target": options.target,
        "precision": options.precision,
        "engine_bytes": built["engine_bytes"],
        "built_s": round(built["whole_s"], 3),
        "from_cache_s": round(statistics.median(hit["whole_s"] for hit in hits), 3),
        "find_s": round(statistics.median(hit["find_s"] for hit in hits), 4),
        "hits": options.hits,
    }
    table = Table(*row, title="engines built and from the cache, in process, without imports; medians")
    table.add_row(*map(str, row.values()))
    Console().print(table)
    result = {
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores, no GPU used",
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
        "python": platform.python_version(),
        "versions": built["versions"],
        "rows": [row],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
