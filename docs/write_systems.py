"""Writes the tables of docs/systems.md from what bench/systems.py found.

.venv/bin/python docs/write_systems.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "systems.md"
RESULTS = {
    "At the size of the papers": ROOT / "bench" / "results" / "systems_full_size.json",
    "At a size for CPUs": ROOT / "bench" / "results" / "systems_tiny.json",
}
HEAD = (
    "| example | stages | parameters | GMACs | lint | labels that differ (tied) | largest score difference | "
    "fp16 engines | int8 engines | overlapped = serial |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Replace what stands between the two comments."""
    content = "\n\n".join(section(title, path) for title, path in RESULTS.items() if path.is_file())
    text = PAGE.read_text(encoding="utf-8")
    pattern = r"<!-- systems -->\n(.*?<!-- /systems -->\n)?"
    block = f"<!-- systems -->\n{content}\n<!-- /systems -->\n"
    PAGE.write_text(re.sub(pattern, lambda _: block, text, count=1, flags=re.DOTALL), encoding="utf-8")


def section(title: str, path: Path) -> str:
    """Return one results file as a table, and the command that made it."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [row(proof) for proof in found["proofs"]]
    failed = [f"- {p['example']}: {step}: {why}" for p in found["proofs"] for step, why in p["failed"].items()]
    lines = [f"### {title}", "", HEAD, *rows, "", f"`{found['command']}`"]
    return "\n".join([*lines, *(["", "What failed:", "", *failed] if failed else [])])


def row(proof: dict[str, Any]) -> str:
    """Return one example."""
    parity, overlap = proof["parity"], proof["overlap"]
    largest = parity.get("largest_score_difference")
    cells = (
        f"`{proof['example']}`",
        proof["stages"],
        f"{proof['parameters']:,}",
        f"{sum(proof['gmacs'].values()):.3g}",
        f"{len(proof['findings'])} of {proof['linted']}",
        f"{parity['labels_different']} ({parity['labels_tied']}) of {parity['labels']:,}" if parity else "",
        f"{largest:.1e}" if largest is not None else "",
        size(proof, "fp16"),
        size(proof, "int8"),
        {True: "yes", False: "no"}.get(overlap.get("labels_equal"), ""),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def size(proof: dict[str, Any], precision: str) -> str:
    """Return the megabytes of all engines of a precision, if they were built."""
    engines = proof["engines_mb"].get(precision)
    return "" if engines is None else f"{sum(engines.values()):.1f} MB"


if __name__ == "__main__":
    main()
