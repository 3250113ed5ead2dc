"""Memory of a pipeline: measured in a process of its own, beside what the manifest predicts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from cascadert.bundle import FRAME, BundleManifest
from cascadert.deployment import open_artefact
from cascadert.errors import ExecutionError
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.plan import Plan
from cascadert.runtime.results import Array, Planes, Policies
from cascadert.spec import SelectPolicy

_PASSES = 2
_REQUEST, _FRAMES = "request.json", "frames.npz"
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Footprint:
    """Bytes that a mode takes.

    Attributes:
        peak_resident_bytes: the most that its process had resident, the interpreter included.
        before_bytes: what the process had resident before the pipeline was opened.
        buffer_bytes: what the pipeline allocated on its device: slots and staging.
    """

    peak_resident_bytes: int
    before_bytes: int
    buffer_bytes: int


@dataclass(frozen=True)
class PredictedFootprint:
    """Bytes as the manifest says. Activations are of all stages at their largest n: each keeps its own memory."""

    weight_bytes: int
    activation_bytes: int
    slot_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return self.weight_bytes + self.activation_bytes + self.slot_bytes


@dataclass(frozen=True)
class _Request:
    """What the new process is asked for, but the frames."""

    artefact: Path
    options: RuntimeOptions
    policies: dict[str, SelectPolicy]


_REQUESTS = TypeAdapter(_Request)


def predict_footprint(manifest: BundleManifest, plan: Plan, slots: int) -> PredictedFootprint:
    """Return what a pipeline with so many slots should take."""
    blocks = manifest.spec.blocks
    memory = [stage.memory for stage in manifest.stages]
    return PredictedFootprint(
        sum(entry.weights_bytes for entry in memory),
        sum(entry.activations(blocks) for entry in memory),
        slots * plan.slot_bytes,
    )


def measure_footprint(
    artefact: Path, options: RuntimeOptions, frames: Sequence[Planes], policies: Policies
) -> Footprint:
    """Run frames through a pipeline in a new process and return what that took.

    Args:
        artefact: the bundle or deployment to open there.
        options: of the pipeline.
        frames: what to run, in host memory; a few will do.
        policies: decisions, by stage.

    Raises:
        ExecutionError: the process failed.
    """
    request = _Request(artefact.resolve(), options, dict(policies))
    with tempfile.TemporaryDirectory(prefix="cascadert-footprint-") as scratch:
        folder = Path(scratch)
        (folder / _REQUEST).write_bytes(_REQUESTS.dump_json(request))
        np.savez(folder / _FRAMES, **_named(frames))  # type: ignore[arg-type]  # its stubs take no mapping
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main()", scratch],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        found = f"failed with exit code {done.returncode}: {last}"
        raise ExecutionError("the process that measures memory", found, "run the bundle alone to find out why")
    return Footprint(**json.loads(done.stdout))


def main() -> None:
    """Measure what the folder in the arguments asks for, and print the footprint: the new process."""
    folder = Path(sys.argv[1])
    request = _REQUESTS.validate_json((folder / _REQUEST).read_bytes())
    frames = _frames(folder / _FRAMES)
    before = _resident_bytes("VmRSS")
    with open_pipeline(open_artefact(request.artefact), request.options) as pipeline:
        for _ in range(_PASSES):
            for _ in pipeline.stream(frames, request.policies):
                pass
        print(json.dumps(asdict(Footprint(_resident_bytes("VmHWM"), before, pipeline.device.allocated_bytes))))


def _named(frames: Sequence[Planes]) -> dict[str, Array]:
    """Return the planes of frames under names that say whose they are."""
    planes = (frame if isinstance(frame, Mapping) else {FRAME: frame} for frame in frames)
    return {f"{i}:{name}": np.asarray(plane) for i, of_frame in enumerate(planes) for name, plane in of_frame.items()}


def _frames(path: Path) -> list[Planes]:
    found: dict[int, dict[str, Array]] = defaultdict(dict)
    with np.load(path, allow_pickle=False) as planes:
        for key in planes.files:
            number, name = key.split(":")
            found[int(number)][name] = planes[key]
    return [found[number] for number in sorted(found)]


def _resident_bytes(field: str) -> int:
    """Return a field of this process's status. Not getrusage: its peak is inherited from the parent process."""
    match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert match is not None, f"Linux has {field}"
    return int(match[1]) * 1024
