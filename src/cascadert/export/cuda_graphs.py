"""Runs that are captured once as CUDA graphs and replayed: one launch in place of hundreds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator

import torch

from cascadert.errors import CascadertError, ExecutionError


class CudaGraphs:
    """Captured runs of one stage by key: what they read and write, which a graph holds as addresses.

    The first run of a key is an ordinary one, in which libraries choose kernels and allocate what a capture may not.
    The second captures; from then on it replays. All graphs share one memory pool: a capture leaves no tensor alive,
    and no two replays overlap.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Run, or capture and replay, `work` on torch's current stream, which is not a default one.

        Raises:
            ExecutionError: CUDA cannot capture it, for instance because it waits for the device.
        """
        if key not in self._graphs:
            work()
            self._graphs[key] = None
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = self._capture(work)
        graph.replay()

    def clear(self) -> None:
        """Give back all graphs. None is running."""
        self._graphs.clear()

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with self._capturing(graph):
                work()
        except CascadertError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            found = f"CUDA cannot capture it in a graph: {type(error).__name__}: {reason}"
            raise ExecutionError(f"stage '{self._name}'", found, "run it without CUDA graphs") from error
        return graph

    @contextlib.contextmanager
    def _capturing(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        # Other threads go on allocating and copying meanwhile, which the mode "global" would forbid.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            yield
        except BaseException:
            with contextlib.suppress(RuntimeError):  # gives the stream back, and says once more that it failed
                graph.capture_end()
            raise
        graph.capture_end()
