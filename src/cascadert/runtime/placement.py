"""Threads and cores of stages on a CPU.

Two ONNX Runtime sessions that each use all cores get in each other's way: side by side, each stage gets a share of the
cores. One thread each on two cores beats two threads each in turn (bench/results/overlap_street.json).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.errors import InvalidRequest
from cascadert.runtime.options import RuntimeOptions

_REFINED = 0.25  # of all blocks: the share that a refinement is sized for
_MOST_PER_CORE = 16  # threads of a stage: more is a slip of the hand
_PINNED_FROM = 4  # cores for each stage from which on holding them apart is worth the stiffness


@dataclass(frozen=True)
class Placement:
    """Threads of each stage; `cpus` holds the cores of stages that are held apart."""

    threads: Mapping[str, int]
    cpus: Mapping[str, frozenset[int]] = field(default_factory=dict)


def place(manifest: BundleManifest, options: RuntimeOptions, cores: Sequence[int]) -> Placement:
    """Share out the cores that this process may use.

    In serial mode every stage has all of them; in overlapped mode each has a share in proportion to its MACs, one at
    least.

    Raises:
        InvalidRequest: threads for a stage that there is not, or fewer than none.
    """
    names = [stage.name for stage in manifest.stages]
    asked = _asked(options, names)
    if max(asked.values()) > _MOST_PER_CORE * len(cores):
        found = f"is {max(asked.values())} for one stage on {len(cores)} cores"
        raise InvalidRequest("threads", found, f"give {_MOST_PER_CORE * len(cores)} or fewer")
    if options.mode == "serial":
        return Placement({name: asked[name] or len(cores) for name in names})
    shares = share_out(len(cores), [_macs(manifest, stage) for stage in manifest.stages])
    threads = {name: asked[name] or share for name, share in zip(names, shares, strict=True)}
    pin = len(cores) >= _PINNED_FROM * len(names) if options.pin is None else options.pin
    if not pin:
        return Placement(threads)
    if sum(threads.values()) > len(cores):
        found = f"needs {sum(threads.values())} cores for {threads}, and there are {len(cores)}"
        raise InvalidRequest("pin", found, "give fewer threads, or do not pin")
    return Placement(threads, _apart(threads, cores))


def share_out(cores: int, work: Sequence[float]) -> list[int]:
    """Split cores among stages so that the one with the most work per core has as little as can be; one at least."""
    shares = [1] * len(work)
    for _ in range(cores - len(work)):
        heaviest = max(range(len(work)), key=lambda i: work[i] / shares[i])
        shares[heaviest] += 1
    return shares


def _asked(options: RuntimeOptions, names: Sequence[str]) -> dict[str, int]:
    if isinstance(options.threads, int):
        asked = dict.fromkeys(names, options.threads)
    else:
        unknown = sorted(set(options.threads) - set(names))
        if unknown:
            raise InvalidRequest(f"threads of '{unknown[0]}'", "is no stage", f"stages are {', '.join(names)}")
        asked = {name: options.threads.get(name, 0) for name in names}
    if min(asked.values()) < 0:
        raise InvalidRequest("threads", f"is {min(asked.values())}", "give 1 or more, or 0 for a choice of ours")
    return asked


def _macs(manifest: BundleManifest, stage: StageEntry) -> float:
    """Return the work that is expected of a stage on a frame; none of one that has no network."""
    blocks = manifest.spec.blocks
    by_block = stage.select is not None and any(entry.prefix for entry in stage.inputs)
    return float(stage.network.macs) * (max(1.0, blocks * _REFINED) if by_block else 1)


def _apart(threads: Mapping[str, int], cores: Sequence[int]) -> dict[str, frozenset[int]]:
    left = list(cores)
    return {name: frozenset(left.pop(0) for _ in range(count)) for name, count in threads.items()}
