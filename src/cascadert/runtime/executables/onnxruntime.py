"""Stages on the CPU through ONNX Runtime, reading and writing the pipeline's buffers in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascadert.device import NUMPY_TYPES, Buffer, Stream, runs_host_code
from cascadert.errors import ExecutionError, GraphError, import_extra
from cascadert.executable import check_bindings
from cascadert.graph import Graph, TensorSpec


class OnnxRuntimeExecutable:
    """One graph in an ONNX Runtime session of its own.

    Args:
        name: the stage, for errors.
        graph: what to run.
        threads: threads of the session, the stream's own included; 0 leaves the choice to ONNX Runtime.
        cpus: the cores to hold them on, one for each thread beside the stream's own; none: the system's choice.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses the graph.
    """

    def __init__(self, name: str, graph: Graph, threads: int = 0, cpus: frozenset[int] | None = None) -> None:
        self.name, self.inputs, self.outputs = name, graph.inputs, graph.outputs
        ort = import_extra("onnxruntime", "cpu", "to run on the CPU")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # A spinning pool takes the cores that the next stage needs (platforms.md, section 6).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A plan of memory for each n that was ever seen: up to twice the resident memory (bench/memory.py).
        options.enable_mem_pattern = False
        if cpus is not None and threads > 1:
            pinned = sorted(cpus)[1:threads]
            options.add_session_config_entry(
                "session.intra_op_thread_affinities",
                ";".join(str(cpu + 1) for cpu in pinned),  # it counts from 1
            )
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise GraphError(f"stage '{name}'", f"ONNX Runtime refuses its graph: {error}", "export it anew") from error

    def blocks(self, n: int) -> int:
        """Return n: any number will do."""
        return n

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        """Queue one run; see `Executable.enqueue`."""
        if not runs_host_code(stream):
            raise TypeError(f"ONNX Runtime runs on host streams, not on a {type(stream).__name__}")
        check_bindings(self.name, (*self.inputs, *self.outputs), bindings)
        io = self._session.io_binding()
        for bind, specs in ((io.bind_input, self.inputs), (io.bind_output, self.outputs)):
            for spec in specs:
                self._bind(bind, spec, bindings[spec.name])
        stream.submit(lambda: self._run(io))

    @staticmethod
    def _bind(bind: Any, spec: TensorSpec, buffer: Buffer) -> None:
        bind(spec.name, "cpu", 0, NUMPY_TYPES[spec.dtype], buffer.shape, buffer.address)

    def _run(self, io: Any) -> None:
        try:
            self._session.run_with_iobinding(io)
        except Exception as error:
            found = f"ONNX Runtime failed: {error}"
            raise ExecutionError(f"stage '{self.name}'", found, "check the frame and the bundle") from error

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeExecutable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
