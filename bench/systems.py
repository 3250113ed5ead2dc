"""Proves every example: it exports, suits each builder, equals PyTorch, is built by TensorRT-RTX, and overlaps.

    python bench/systems.py examples/tiny/*.toml -o bench/results/systems_tiny.json
    python bench/systems.py examples/*.toml -o bench/results/systems_full_size.json --frames 1 --calibrate 8 --eighth

Weights are made up (--seed). Each example runs in a process of its own: export; lint for every builder of every target
in fp32; parity with PyTorch, port by port, on generated streets; calibration on as many streets as --calibrate says;
engines for --target in fp16, and with --int8 with all in int8 that can be, though calibration, which keeps labels,
would leave more of made-up networks in floating point; with --overlap the pipeline side by side and in turn, whose
labels have to be equal. What fails is a row with its message, not a missing row. No GPU is needed; no engine is run.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cascadert.bundle import Bundle, calibration_part, write_bundle
from cascadert.calibration.calibrate import CalibrateOptions, calibrate
from cascadert.calibration.parity import ParityOptions, check_parity, generated_streets
from cascadert.calibration.refit import Recording
from cascadert.engines.build import BuildOptions, build_engine
from cascadert.engines.form import StageForm
from cascadert.engines.lint import lint_graph
from cascadert.engines.profiles import list_targets
from cascadert.errors import CascadertError
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.precision import quantized_operators
from cascadert.graph import Graph
from cascadert.precision import Int8Dialect
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.stage_spec import TopKPolicy


@dataclass
class Proof:
    """What was found of one example; `failed` maps a step to its message, `notes` are no failures."""

    example: str
    stages: int = 0
    parameters: int = 0
    gmacs: dict[str, float] = field(default_factory=dict)
    linted: int = 0
    findings: list[str] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)
    precision: list[dict[str, Any]] = field(default_factory=list)
    engines_mb: dict[str, dict[str, float]] = field(default_factory=dict)
    overlap: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one step; what it raises is noted and None returned."""
        started = time.perf_counter()
        try:
            return work()
        except CascadertError as error:
            self.failed[name] = str(error)
            return None
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 1)


def prove(path: Path, options: argparse.Namespace) -> Proof:
    """Take one example through every step."""
    proof = Proof(path.stem if path.parent.name != "tiny" else f"tiny/{path.stem}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = proof.step(
            "export", lambda: export_bundle(path, work / "bundle", ExportOptions(random_weights=options.seed))
        )
        if bundle is None:
            return proof
        describe(bundle, proof)
        if options.eighth:
            bundle = refining_an_eighth(bundle)
        proof.step("lint", lambda: lint(bundle, proof))
        proof.step("parity", lambda: compare(bundle, options.frames, proof))
        if options.overlap:
            proof.step("overlap", lambda: overlap(bundle, proof))
        if options.calibrate:
            calibrated = proof.step("calibrate", lambda: calibrated_bundle(bundle, work, options, proof))
            if calibrated is not None:
                proof.step("fp16", lambda: build(calibrated, "fp16", work / "fp16", options, proof))
            if calibrated is not None and options.int8:
                left_alone(calibrated, proof)
                proof.step("int8", lambda: build(all_in_int8(calibrated, work), "int8", work / "int8", options, proof))
    return proof


def refining_an_eighth(bundle: Bundle) -> Bundle:
    """Let every decision take an eighth of the blocks, one at least."""
    policy = TopKPolicy(k=-(-bundle.spec.blocks // 8))
    stages = tuple(
        stage.model_copy(update={"select": stage.select and stage.select.model_copy(update={"policy": policy})})
        for stage in bundle.manifest.stages
    )
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"stages": stages}))


def describe(bundle: Bundle, proof: Proof) -> None:
    stages = bundle.manifest.stages
    proof.stages, proof.parameters = len(stages), sum(stage.network.parameters for stage in stages)
    proof.gmacs = {stage.name: round(stage.network.macs / 1e9, 4) for stage in stages}


def lint(bundle: Bundle, proof: Proof) -> None:
    """Check every graph against every builder of every target that can be built for."""
    forms: dict[tuple[str, str, int], Graph] = {}  # in fp32 they differ in little
    for target in list_targets():
        for facts in target.backends:
            if facts.name == "onnxruntime" or facts.refused or target.refused:
                continue
            for stage, graph in bundle.graphs.items():
                key = (stage, facts.name, facts.opset)
                if key not in forms:
                    form = StageForm(f"stage '{stage}' for {target.name}", "fp32", target, facts, None)
                    forms[key] = form.unchecked(graph)
                found = lint_graph(forms[key], facts, target.compute_capability)
                proof.linted += 1
                proof.findings += [f"{stage} for {target.name} ({facts.name}): {finding}" for finding in found]


def compare(bundle: Bundle, frames: int, proof: Proof) -> None:
    report = check_parity(bundle, None, ParityOptions(frames=frames))
    labels = [row for row in report.rows if row.port == "labels"]
    proof.parity = {
        "labels_different": sum(row.different for row in labels),
        "labels_tied": sum(row.tied for row in labels),
        "labels": sum(row.elements for row in labels),
        "largest_score_difference": max((r.largest or 0.0 for r in report.rows if r.port == "scores"), default=None),
        "classes": report.classes,
        "selected": {stage: list(counts) for stage, counts in report.selected.items()},
        "vacuous": list(report.vacuous),
        "passed": report.passed,
    }
    report.check()


def overlap(bundle: Bundle, proof: Proof) -> None:
    """Run the same frames side by side, and in turn; labels have to be equal, bit for bit."""
    frames = list(generated_streets(bundle.spec, 12))
    answers = {}
    for mode in ("overlapped", "serial"):
        started = time.perf_counter()
        with open_pipeline(bundle, RuntimeOptions(mode=mode)) as pipeline:
            answers[mode] = [result.labels for result in pipeline.stream([dict(planes) for planes in frames])]
        proof.overlap[f"{mode}_s"] = round(time.perf_counter() - started, 2)
    equal = all(np.array_equal(a, b) for a, b in zip(*answers.values(), strict=True))
    proof.overlap |= {"frames": len(frames), "labels_equal": equal}
    if not equal:
        proof.failed["overlap"] = "labels differ"


def calibrated_bundle(bundle: Bundle, work: Path, options: argparse.Namespace, proof: Proof) -> Bundle:
    recording = Recording([dict(planes) for planes in generated_streets(bundle.spec, options.calibrate)], None)
    dialects: tuple[Int8Dialect, ...] = ("tensorrt",) if options.int8 else ()
    how = CalibrateOptions("generated streets", dialects=dialects, calibrators=("percentile",))
    found = calibrate(bundle, recording, work / "calibrated", how)
    proof.precision = [row.model_dump() for row in found.bundle.manifest.calibration.quality]
    return found.bundle


def left_alone(bundle: Bundle, proof: Proof) -> None:
    """Note of which stages calibration itself leaves nothing in int8: made-up weights do not survive it."""
    for name, calibration in bundle.calibrations.items():
        plan = calibration.int8["tensorrt"]
        if plan.keep and not quantized_operators(bundle.graphs[name], "tensorrt", plan):
            proof.notes.append(f"{name}: calibration leaves nothing in int8 ({next(iter(plan.keep.values()))})")


def all_in_int8(bundle: Bundle, work: Path) -> Bundle:
    """Quantize all that placement allows, whatever it costs in labels: what is built here is judged by no label."""
    calibrations = {
        name: found.model_copy(update={"int8": {d: p.model_copy(update={"keep": {}}) for d, p in found.int8.items()}})
        for name, found in bundle.calibrations.items()
    }
    stages = tuple(
        stage.model_copy(update={"calibration": calibration_part(stage.name, calibrations[stage.name])})
        for stage in bundle.manifest.stages
    )
    manifest = bundle.manifest.model_copy(update={"stages": stages})
    return write_bundle(work / "all-in-int8", manifest, bundle.graphs, calibrations)


def build(bundle: Bundle, precision: str, output: Path, options: argparse.Namespace, proof: Proof) -> None:
    """Build every stage; a stage of which nothing is left in int8 is built in fp16, and said so."""
    precisions = dict.fromkeys(bundle.graphs, precision)
    while True:
        how = BuildOptions(precision=precisions, max_blocks=min(8, bundle.spec.blocks))
        try:
            deployment = build_engine(bundle, options.target, output, how)
            break
        except CascadertError as error:
            stage = next((name for name in precisions if f"stage '{name}'" in str(error)), None)
            if stage is None or "in int8: " not in str(error):
                raise
            precisions[stage] = "fp16"
            proof.notes.append(str(error))
    entries = zip(deployment.manifest.bundle.stages, deployment.manifest.engines, strict=True)
    proof.engines_mb[precision] = {stage.name: round(entry.engine.bytes / 1e6, 2) for stage, entry in entries}


def print_table(proofs: list[dict[str, Any]]) -> None:
    table = Table(
        "example", "stages", "parameters", "GMACs", "lint", "labels different (tied)", "scores", "engines", ""
    )
    for proof in proofs:
        parity = proof["parity"]
        largest = parity.get("largest_score_difference")
        table.add_row(
            proof["example"],
            str(proof["stages"]),
            f"{proof['parameters']:,}",
            f"{sum(proof['gmacs'].values()):.3f}",
            f"{len(proof['findings'])} of {proof['linted']}",
            f"{parity.get('labels_different', '-')} ({parity.get('labels_tied', '-')})",
            "-" if largest is None else f"{largest:.1e}",
            ", ".join(f"{p} {sum(mb.values()):.1f} MB" for p, mb in proof["engines_mb"].items()),
            "; ".join(f"{step}: {message}" for step, message in proof["failed"].items()) or "ok",
        )
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--frames", type=int, default=3, help="streets to compare on")
    parser.add_argument("--calibrate", type=int, default=0, help="streets to calibrate on; 0: fp32 alone")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument(
        "--eighth", action="store_true", help="in place of thetas: made-up weights have no sense of doubt"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--target", default="rtx-40")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.one:
        print(json.dumps(asdict(prove(options.examples[0], options))))
        return 0
    proofs = []
    command = shlex.join(["python", "bench/systems.py", *sys.argv[1:]])
    for path in options.examples:
        rest = [argument for argument in sys.argv[1:] if argument not in set(map(str, options.examples))]
        done = subprocess.run([sys.executable, __file__, str(path), *rest, "--one"], capture_output=True, text=True)
        lines = done.stdout.strip().splitlines()
        why = done.stderr.strip()[-300:] or f"exit status {done.returncode}"
        crashed = {**asdict(Proof(path.stem)), "failed": {"process": why}}
        proofs.append(json.loads(lines[-1]) if done.returncode == 0 and lines else crashed)
        print(f"{proofs[-1]['example']}: {proofs[-1]['failed'] or 'ok'} {proofs[-1]['notes'] or ''}", flush=True)
        if options.output:  # after each: it takes long, and what is there is not lost
            found = {"command": command, "machine": platform.processor() or platform.machine(), "proofs": proofs}
            options.output.write_text(json.dumps(found, indent=1) + "\n")
    print_table(proofs)
    return int(any(proof["failed"] or proof["findings"] for proof in proofs))


if __name__ == "__main__":
    sys.exit(main())
