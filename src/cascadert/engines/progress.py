"""How far a build is, from TensorRT's nested phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PARSING, BUILDING, REFITTING = "parsing", "building", "refitting"

Hear = Callable[[dict[str, Any]], bool]
"""Takes one progress message; false when nobody listens any more."""


class ProgressTree:
    """Fraction of the whole build, from TensorRT's nested phases; never falls."""

    def __init__(self) -> None:
        self._parents: dict[str, str | None] = {}
        self._done: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._highest = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Open a phase of `steps` steps inside `parent`."""
        self._parents[phase], self._done[phase], self._steps[phase] = parent, 0, max(1, steps)

    def step(self, phase: str, step: int) -> tuple[int, int]:
        """Record that step number `step` (from 0) is complete; return how many are and will be."""
        self._done[phase] = step + 1
        return step + 1, self._steps[phase]

    def finish(self, phase: str) -> None:
        """Close a phase."""
        self._parents.pop(phase, None)

    def fraction(self) -> float:
        """Return how much is done, 0 to 1."""
        roots = [phase for phase, parent in self._parents.items() if parent not in self._parents]
        self._highest = max([self._highest, *map(self._fraction_of, roots)])
        return self._highest

    def _fraction_of(self, phase: str) -> float:
        inner = sum(self._fraction_of(child) for child, parent in self._parents.items() if parent == phase)
        return min(1.0, (self._done[phase] + min(1.0, inner)) / self._steps[phase])


def progress_message(phase: str, step: int = 0, steps: int = 1, fraction: float = 0.0) -> dict[str, Any]:
    """Return what the worker reports of a step."""
    return {"kind": "progress", "phase": phase, "step": step, "steps": steps, "fraction": fraction}


def make_monitor(trt: Any, hear: Hear) -> Any:
    """Return a progress monitor for the builder; it stops the build when nobody listens any more."""
    tree = ProgressTree()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the extension module
        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            tree.start(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            done, steps = tree.step(phase, step)
            return hear(progress_message(phase, done, steps, tree.fraction()))

        def phase_finish(self, phase: str) -> None:
            tree.finish(phase)

    return Monitor()
