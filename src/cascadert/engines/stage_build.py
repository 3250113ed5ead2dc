"""One stage on its way to an engine: from the cache, or from the builder and into the cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cascadert.engines.blame import build_error
from cascadert.engines.cache import EngineCache, EngineKey, Miss, engine_key
from cascadert.engines.lock import build_lock
from cascadert.engines.machine import Machine
from cascadert.engines.options import BuildOptions
from cascadert.engines.plan import BuildPlan
from cascadert.engines.process import BuiltEngine, Message, RefusedGraph, run_worker
from cascadert.engines.recipe import EngineRecipe

WAITING, LOADING = "waiting for another build on this machine", "loading TensorRT"
LOOKING, CACHED, FINISHED = "looking in the cache", "from the cache", "finished"


@dataclass(frozen=True)
class BuildProgress:
    """Where a build is: step `step` of `steps` in TensorRT's `phase`; `fraction` of the stage, 0 to 1, never falls.

    `note` is what is worth keeping when the phase has passed: that the engine came from the cache, or why it did not.
    """

    stage: str
    phase: str
    step: int = 0
    steps: int = 1
    fraction: float = 0.0
    note: str = ""


ProgressCallback = Callable[[BuildProgress], None]


@dataclass(frozen=True)
class Base:
    """An engine that can take the weights of a stage in place of a build, and the stage that it is of."""

    stage: str
    engine: bytes


@dataclass(frozen=True)
class BuiltStage:
    """An engine, and whether it was built for this deployment."""

    built: BuiltEngine
    from_cache: bool = False


@dataclass(frozen=True)
class StageBuild:
    """One stage on its way to an engine: from the cache, or from the builder and into the cache."""

    plan: BuildPlan
    stage: str
    machine: Machine
    cache: EngineCache | None
    options: BuildOptions
    heard: ProgressCallback
    base: Base | None = None

    def run(self) -> BuiltStage:
        """Return the engine.

        Raises:
            BuildError: TensorRT refuses the stage, crashes or takes too long.
            DeploymentError: TensorRT does not load what it built.
            InvalidRequest: the file system refuses the cache.
        """
        recipe = self.plan.recipe(self.stage)
        key = engine_key(self.plan.manifest.spec.name, recipe, self.machine.version, self.machine.gpu)
        found = self._find(key)
        if isinstance(found, BuiltEngine):
            return self._cached(found)
        if found is not None:
            self._say(LOOKING, f"not in the cache: {found.why}")
        with build_lock(lambda: self._say(WAITING)):
            found = self._find(key)  # who held the lock before may have built this very engine
            if isinstance(found, BuiltEngine):
                return self._cached(found)
            built = self._build(recipe, key)
            if self.cache is not None:
                self.cache.store(key, built)
        return BuiltStage(built)

    def _find(self, key: EngineKey) -> BuiltEngine | Miss | None:
        return None if self.cache is None else self.cache.find(key)

    def _cached(self, built: BuiltEngine) -> BuiltStage:
        self._say(CACHED, CACHED)
        return BuiltStage(built, from_cache=True)

    def _say(self, phase: str, note: str = "") -> None:
        self.heard(BuildProgress(self.stage, phase, note=note))

    def _build(self, recipe: EngineRecipe, key: EngineKey) -> BuiltEngine:
        """Build in the worker. The caller holds the lock."""
        subject = f"stage '{self.stage}' for {self.plan.target.name}"
        given = self._given(key)
        self._say(LOADING, "" if self.base is None else f"takes the engine of '{self.base.stage}', with other weights")
        with tempfile.TemporaryDirectory(prefix="cascadert-build-") as scratch:
            try:
                built = run_worker(recipe, Path(scratch), subject, self.options.timeout_s, self._on_progress, *given)
            except RefusedGraph as refusal:
                raise build_error(subject, recipe.graph, refusal) from refusal
        self.machine.verify(self.plan, self.stage, built.engine)
        if self.cache is not None and self.options.timing_cache and built.timing_cache is not None:
            self.cache.store_timings(key, built.timing_cache)
        return built

    def _given(self, key: EngineKey) -> tuple[bytes | None, bytes | None]:
        """Return what spares the builder work: what kernels took, or an engine that only lacks the weights."""
        return (self._timings(key), None) if self.base is None else (None, self.base.engine)

    def _timings(self, key: EngineKey) -> bytes | None:
        """Return what kernels took on this GPU in earlier builds, where the builder times any."""
        if self.cache is None or not self.options.timing_cache or self.machine.gpu is None:
            return None
        found = self.cache.find_timings(key)
        if isinstance(found, bytes):
            return found
        self._say(LOOKING, f"kernels are timed anew: {found.why}")
        return None

    def _on_progress(self, message: Message) -> None:
        self.heard(BuildProgress(self.stage, message["phase"], message["step"], message["steps"], message["fraction"]))
