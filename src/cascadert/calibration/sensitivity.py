"""Which parts of a network int8 hurts, and how few of them must stay in floating point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cascadert.calibration.judge import Floor, Found
from cascadert.precision import QuantizationPlan

MOST_GROUPS = 24
"""Groups of operators that are tried one by one: each costs a conversion and a run of the held-out frames."""

Judge = Callable[[QuantizationPlan], Found]


@dataclass(frozen=True)
class Group:
    """Operators that are quantized or not together: those of one module, by their first outputs.

    `found` is what the stage gives when this group alone is quantized.
    """

    module: str
    operators: tuple[str, ...]
    found: Found


@dataclass(frozen=True)
class Fallback:
    """A plan, what it gives, and the groups in order of what they cost; the first `kept` stay in floating point."""

    plan: QuantizationPlan
    found: Found
    groups: tuple[Group, ...] = ()
    kept: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left in int8."""
        return bool(self.groups) and self.kept == len(self.groups)


def group_by_module(operators: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Group operators (first output to module) by the deepest level of modules that makes few enough groups."""
    deepest = max((module.count(".") + 1 for module in operators.values()), default=1)
    for depth in range(deepest, 0, -1):
        groups: dict[str, list[str]] = {}
        for output, module in operators.items():
            groups.setdefault(".".join(module.split(".")[:depth]), []).append(output)
        if len(groups) <= MOST_GROUPS:
            break
    return {module: tuple(outputs) for module, outputs in groups.items()}


def measure_groups(
    plan: QuantizationPlan, operators: Mapping[str, str], judge: Judge, progress: Callable[[int, int], None]
) -> tuple[Group, ...]:
    """Quantize one group at a time; returns the groups, the noisiest first.

    Args:
        plan: quantizes all of them.
        operators: what it quantizes, with modules (`export.precision.quantized_operators`).
        judge: what a plan gives.
        progress: called with the number of groups done, and how many there are.
    """
    groups = group_by_module(operators)
    found = []
    for done, (module, members) in enumerate(groups.items(), start=1):
        others = {name: "left out to measure one group" for name in operators if name not in members}
        found.append(Group(module, members, judge(_keeping(plan, others))))
        progress(done, len(groups))
    return tuple(sorted(found, key=lambda group: group.found.noise, reverse=True))


def fall_back(plan: QuantizationPlan, groups: tuple[Group, ...], judge: Judge, floor: Floor) -> Fallback:
    """Keep as few of the noisiest groups in floating point as the floor asks for, found by bisection.

    More groups in floating point are taken to be no worse, as noise of independent sources adds up; where that fails
    the result still holds, and keeps more than it had to. With every group kept nothing is quantized.
    """
    low, high = 0, len(groups)  # the first `low` are too few
    best = None
    while high - low > 1:
        middle = (low + high) // 2
        tried = _keeping(plan, _reasons(groups[:middle]))
        found = judge(tried)
        if floor.holds(found):
            high, best = middle, (tried, found)
        else:
            low = middle
    if best is None:
        everything = _keeping(plan, _reasons(groups))
        best = everything, judge(everything)
    return Fallback(*best, groups, high)


def _reasons(groups: Iterable[Group]) -> dict[str, str]:
    """Say of each operator why it stays in floating point."""
    return {
        name: f"sensitive: int8 in {group.module} alone leaves {group.found.sqnr_db:.1f} dB"
        for group in groups
        for name in group.operators
    }


def _keeping(plan: QuantizationPlan, keep: Mapping[str, str]) -> QuantizationPlan:
    return plan.model_copy(update={"keep": {**plan.keep, **keep}})
