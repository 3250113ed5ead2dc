"""What is queued on streams for a frame: its way to the device, its stages, and the way home."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cascadert.device import Buffer, Device, Stream
from cascadert.errors import ExecutionError
from cascadert.executable import Executable
from cascadert.runtime.job import Job, Piece
from cascadert.runtime.lanes import Lanes
from cascadert.runtime.plan import Plan, StagePlan, producer

Report = Callable[[Job, Piece, BaseException | None], None]
"""Called, on any thread, when a piece of work has ended: with the cause where it failed."""


class Dispatcher:
    """Queues pieces of work, each behind those that it must wait for, and has their ends reported.

    What was queued of a piece before queueing it failed runs, and its end is reported all the same.

    Args:
        plan: the stages.
        executables: each of them, loaded.
        device: makes copies.
        lanes: the streams.
        kept: tensors to bring home beside the labels.
        on_device: whether to leave a copy of the labels on the device.
        report: see `Report`.
    """

    def __init__(
        self, plan: Plan, executables: Mapping[str, Executable], device: Device, lanes: Lanes, *,
        kept: frozenset[str], on_device: bool, report: Report,
    ) -> None:  # fmt: skip
        self._plan, self._executables, self._device, self._lanes = plan, executables, device, lanes
        self._kept, self._on_device, self._report = kept, on_device, report

    def upload(self, job: Job) -> None:
        """Bring the frame to the device; where memory is shared it is there already."""
        assert job.slot is not None
        if not job.foreign and self._device.unified:
            return
        stream, names = self._lanes.upload, list(self._plan.planes)
        for event in job.slot.before_writing(names, stream):
            stream.wait(event)
        begin = stream.begin()
        try:
            for name in names:
                source = job.staging.planes[name]
                if name in job.foreign:
                    source = self._device.import_array(job.foreign[name], stream)
                if self._device.unified:
                    job.imported[name] = source
                else:
                    self._device.copy(source, job.slot.buffers[name], stream)
        finally:
            end = stream.record()
            if self._device.unified:
                job.ready = (end,)
            else:
                job.slot.writing(names, stream, end)
            self._watch(job, Piece("upload", stream.name, begin, end), stream)

    def run(self, job: Job, stage: StagePlan, n: int | None) -> None:
        """Run a stage, and copy to the host what decisions are read from."""
        assert job.slot is not None
        stream, slot, executable = self._lanes.stages[stage.name], job.slot, self._executables[stage.name]
        reads = [owner for tensor in stage.reads if (owner := job.owner(tensor)) is not None]
        bindings = {}
        for name, tensor in stage.outputs:
            bindings[name] = _part(slot.buffers[tensor], n if self._plan.tensors[tensor].rows else None)
        for entry, tensor in zip(stage.entry.inputs, reads, strict=True):
            bindings[entry.name] = _part(job.buffer(tensor), n if entry.prefix else None)
        for event in slot.before_writing(stage.writes, stream):
            stream.wait(event)
        begin = stream.begin([*job.ready, *slot.before_reading(reads, stream)])
        try:
            executable.enqueue(bindings, stream)
        finally:
            end = stream.record()
            slot.reading(reads, stream, end)
            slot.writing(stage.writes, stream, end)
            try:
                for name in self._plan.decision_tensors.intersection(stage.writes):
                    self._device.copy(slot.buffers[name], job.staging.results[name], stream)
            finally:
                self._watch(job, Piece(stage.name, stream.name, begin, end, n, stage), stream)

    def bring_home(self, job: Job) -> None:
        """Bring home the last labels that there are, and what else is to be kept.

        Raises:
            ExecutionError: there are no labels.
        """
        assert job.slot is not None
        ran = job.counting
        labels = job.last_labels(self._plan, ran)
        if labels is None:
            found = "are of stages that were skipped, and nothing stands for them"
            raise ExecutionError("all labels", found, "give one of them a when_skipped, and export anew")
        job.labels = labels
        kept = [name for name in self._kept if producer(name) in ran and name != self._plan.labels]
        stream, slot, results = self._lanes.download, job.slot, job.staging.results
        begin = stream.begin(slot.before_reading([labels, *kept], stream))
        try:
            self._device.copy(slot.buffers[labels], results[self._plan.labels], stream)
            for name in kept:
                n = rows_of(self._plan, job, name)
                self._device.copy(_part(slot.buffers[name], n), _part(results[name], n), stream)
            if self._on_device:
                source = slot.buffers[labels]
                job.device_labels = self._device.allocate(source.shape, source.dtype)
                self._device.copy(source, job.device_labels, stream)
        finally:
            end = stream.record()
            slot.reading([labels, *kept], stream, end)
            self._watch(job, Piece("download", stream.name, begin, end), stream)

    def _watch(self, job: Job, piece: Piece, stream: Stream) -> None:
        job.pieces.append(piece)
        report = self._report
        stream.notify(lambda error: report(job, piece, error))


def rows_of(plan: Plan, job: Job, tensor: str) -> int | None:
    """Return how many rows of a tensor a frame has whose stage ran; none: all of it, since it has none."""
    return job.decisions[producer(tensor)].n if plan.tensors[tensor].rows else None


def _part(buffer: Buffer, n: int | None) -> Buffer:
    return buffer if n is None else buffer.prefix(n)
