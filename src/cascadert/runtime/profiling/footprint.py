"""Memory of a pipeline: measured in a process of its own, beside what the manifest predicts."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cascadert.bundle import BundleManifest
from cascadert.errors import ExecutionError
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.plan import Plan
from cascadert.runtime.results import Planes, Policies

_PASSES = 2
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


def predict_footprint(manifest: BundleManifest, plan: Plan, slots: int) -> PredictedFootprint:
    """Return what a pipeline with so many slots should take."""
    blocks = manifest.spec.make_grid().size * manifest.spec.frame.cameras
    memory = [stage.memory for stage in manifest.stages]
    return PredictedFootprint(
        sum(entry.weights_bytes for entry in memory),
        sum(entry.activations(blocks) for entry in memory),
        slots * plan.slot_bytes,
    )


def measure_footprint(
    opener: Callable[[RuntimeOptions], Pipeline], options: RuntimeOptions, frames: Sequence[Planes], policies: Policies
) -> Footprint:
    """Run frames through a pipeline in a new process and return what that took.

    Args:
        opener: opens the pipeline there; must be picklable, as in a partial of `open_pipeline`.
        options: of the pipeline.
        frames: what to run; a few will do.
        policies: decisions, by stage.

    Raises:
        ExecutionError: the process failed.
    """
    request = pickle.dumps((opener, options, list(frames), dict(policies)))
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()"], input=request, capture_output=True, check=False
    )
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        found = f"failed with exit code {done.returncode}: {last}"
        raise ExecutionError("the process that measures memory", found, "run the bundle alone to find out why")
    return Footprint(**json.loads(done.stdout))


def main() -> None:
    """Measure what stdin asks for, and print the footprint: the new process."""
    opener, options, frames, policies = pickle.load(sys.stdin.buffer)
    before = _resident_bytes("VmRSS")
    with opener(options) as pipeline:
        for _ in range(_PASSES):
            for _ in pipeline.stream(frames, policies):
                pass
        print(json.dumps(asdict(Footprint(_resident_bytes("VmHWM"), before, pipeline.device.allocated_bytes))))


def _resident_bytes(field: str) -> int:
    """Return a field of this process's status. Not getrusage: its peak is inherited from the parent process."""
    match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert match is not None, f"Linux has {field}"
    return int(match[1]) * 1024
