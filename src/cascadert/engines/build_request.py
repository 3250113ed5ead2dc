"""`BuildRequest`: an `EngineRecipe` as the worker process is given it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from cascadert.engines.recipe import BuilderSettings, EngineRecipe, Shapes, TensorRTBackend

REQUEST_FILE = "request.json"


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build: where from, where to, for what.

    `timing_cache` is the file that a timing cache is read from, if there is one, and written to; `base` an engine that
    takes the weights of the graph, if there is one, so that nothing is built. The other fields are those of the recipe.
    """

    onnx: str
    engine: str
    timing_cache: str
    base: str
    backend: TensorRTBackend
    compute_capability: str
    strongly_typed: bool
    shapes: Shapes
    settings: BuilderSettings

    @classmethod
    def write(
        cls, recipe: EngineRecipe, folder: Path, timing_cache: bytes | None = None, base: bytes | None = None
    ) -> BuildRequest:
        """Write what the worker reads into `folder`, the request itself as `REQUEST_FILE`."""
        request = cls(
            onnx=str(folder / "stage.onnx"),
            engine=str(folder / "stage.engine"),
            timing_cache=str(folder / "timing.cache"),
            base=str(folder / "base.engine"),
            backend=recipe.backend,
            compute_capability=recipe.compute_capability,
            strongly_typed=recipe.strongly_typed,
            shapes=dict(recipe.shapes),
            settings=recipe.settings,
        )
        Path(request.onnx).write_bytes(recipe.graph.onnx)
        if timing_cache is not None:
            Path(request.timing_cache).write_bytes(timing_cache)
        if base is not None:
            Path(request.base).write_bytes(base)
        (folder / REQUEST_FILE).write_bytes(TypeAdapter(cls).dump_json(request))
        return request

    @classmethod
    def read(cls, path: Path) -> BuildRequest:
        """Read the request that `write` wrote."""
        return TypeAdapter(cls).validate_json(path.read_bytes())
