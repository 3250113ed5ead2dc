"""Memory of frames in flight, and the rules by which it is used again.

A *slot* holds every tensor of one frame on the device. A tensor is read after the work that wrote it, and written after
the work that read what it held before: of the frame that had the slot last. These waits are between streams; what one
stream does is in order anyway. A *staging* holds what passes between host and device for one frame; it is used again
when that frame's result was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cascadert.device import Buffer, Device, Event, HostArray, Stream
from cascadert.graph import DType
from cascadert.runtime.plan import Plan, Tensor


@dataclass
class _Use:
    """Work that touched a tensor: until `done`, others must wait."""

    stream: Stream
    done: Event


@dataclass
class Slot:
    """Buffers of one frame by tensor name, and the work that touches them."""

    buffers: dict[str, Buffer]
    retired: bool = False
    _writes: dict[str, _Use] = field(default_factory=dict)
    _reads: dict[str, list[_Use]] = field(default_factory=dict)

    def before_reading(self, names: Iterable[str], stream: Stream) -> list[Event]:
        """Return what a stream must wait for before it reads tensors: those who wrote them.

        Also where the stream itself did: what was written in order need not have been written well, and only who waits
        for work that failed is skipped with it.
        """
        return _once([self._writes[name] for name in names if name in self._writes])

    def before_writing(self, names: Iterable[str], stream: Stream) -> list[Event]:
        """Return what a stream must wait for before it writes tensors: those who read the last frame's.

        A tensor is always written by the same stage, so its last writer is on the same stream.
        """
        return _others([use for name in names for use in self._reads.get(name, ())], stream)

    def reading(self, names: Iterable[str], stream: Stream, done: Event) -> None:
        """Note that work on a stream reads tensors until `done`."""
        use = _Use(stream, done)
        for name in names:
            if name in self.buffers:
                self._reads.setdefault(name, []).append(use)

    def writing(self, names: Iterable[str], stream: Stream, done: Event) -> None:
        """Note that work on a stream writes tensors until `done`; it waited for those who read them."""
        use = _Use(stream, done)
        for name in names:
            self._writes[name] = use
            self._reads.pop(name, None)


def _others(uses: Iterable[_Use], stream: Stream) -> list[Event]:
    """Return each event once; events of the stream itself are behind it already."""
    return _once([use for use in uses if use.stream is not stream])


def _once(uses: list[_Use]) -> list[Event]:
    return list(dict.fromkeys([use.done for use in uses]))


@dataclass(frozen=True)
class Staging:
    """Pinned buffers of one frame: its planes, its labels, the scores and orders of its decisions, other results."""

    planes: dict[str, Buffer]
    results: dict[str, Buffer]

    def plane(self, name: str) -> HostArray:
        """Return the host's view of a plane of the frame."""
        return _on_host(self.planes[name])

    def result(self, name: str) -> HostArray:
        """Return the host's view of a result."""
        return _on_host(self.results[name])


def _on_host(buffer: Buffer) -> HostArray:
    assert buffer.host is not None, "pinned memory is the host's"
    return buffer.host


def allocate_slots(plan: Plan, device: Device, count: int) -> list[Slot]:
    """Allocate slots. Where host and device share memory, stages read the frame where the host has put it."""
    planes = {} if device.unified else plan.planes
    return [Slot(_allocate(device.allocate, {**planes, **plan.tensors})) for _ in range(count)]


def allocate_staging(plan: Plan, device: Device, count: int, kept: frozenset[str]) -> list[Staging]:
    """Allocate stagings with room for the labels, all decisions, and the tensors in `kept`."""
    results = {name: plan.tensors[name] for name in sorted({plan.labels, *plan.decision_tensors, *kept})}
    pinned = device.allocate_pinned
    return [Staging(_allocate(pinned, plan.planes), _allocate(pinned, results)) for _ in range(count)]


def _allocate(make: Callable[[tuple[int, ...], DType], Buffer], tensors: Mapping[str, Tensor]) -> dict[str, Buffer]:
    return {name: make(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
