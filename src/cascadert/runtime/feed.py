"""A stream of frames: a thread reads and submits them while the caller takes results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cascadert.errors import CascadertError, InvalidRequest, NoResultYet
from cascadert.runtime.ledger import Deadline, Ledger
from cascadert.runtime.results import Planes, Policies, Result, Submission

if TYPE_CHECKING:
    from cascadert.runtime.pipeline import Pipeline

_PATIENCE_S = 0.1  # how long a reader that is not wanted any more goes on waiting for room


def feed(
    pipeline: Pipeline, ledger: Ledger, frames: Iterable[Planes | Submission], policies: Policies,
    failed: Callable[[CascadertError], None] | None = None,
) -> Iterator[Result]:  # fmt: skip
    """Yield the results of frames in order; see `Pipeline.stream`."""
    if not pipeline.stream_in_use.acquire(blocking=False):
        raise InvalidRequest("stream", "another one is being read", "read it to its end, or close its iterator")
    reader = _Reader(pipeline, ledger, frames, policies)
    try:
        while True:
            try:
                job = ledger.pop(Deadline(None), hopeless=reader.ended.is_set)
            except NoResultYet:
                break
            try:
                result = pipeline.deliver(job)
            except CascadertError as error:
                if failed is None:
                    raise
                failed(error)
            else:
                yield result
    finally:
        reader.leave()
        pipeline.give_up()
        pipeline.stream_in_use.release()
    if reader.error is not None:
        raise reader.error


class _Reader:
    """The thread. A source that blocks for ever is left to itself: the thread is a daemon."""

    def __init__(
        self, pipeline: Pipeline, ledger: Ledger, frames: Iterable[Planes | Submission], policies: Policies
    ) -> None:
        self._pipeline, self._ledger, self._frames, self._policies = pipeline, ledger, frames, policies
        self._unwanted, self.ended = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="cascadert-reader", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Let the thread end after the frame that it is reading."""
        self._unwanted.set()
        self._thread.join(10 * _PATIENCE_S)

    def _read(self) -> None:
        try:
            for item in self._frames:
                if not self._submit(item if isinstance(item, Submission) else Submission(item)):
                    return
        except BaseException as error:  # it belongs to whoever takes the results
            self.error = error
        finally:
            self.ended.set()
            self._ledger.wake()

    def _submit(self, item: Submission) -> bool:
        while not self._unwanted.is_set():
            try:
                self._pipeline.submit(
                    item.frame, item.timestamp_s, policies={**self._policies, **item.policies},
                    context=item.context, deadline_ms=item.deadline_ms, timeout_s=_PATIENCE_S,
                )  # fmt: skip
            except NoResultYet:
                continue
            except CascadertError:
                if self._pipeline.broken is not None:
                    return False  # the frames in flight say so
                raise
            return True
        return False
