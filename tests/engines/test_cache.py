"""The engine cache: what it never gives out, and what it says where it has nothing."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadert.deployment import GpuFingerprint
from cascadert.engines.cache import EngineCache, EngineKey, Miss, default_cache_folder, engine_key
from cascadert.engines.process import BuiltEngine
from cascadert.engines.recipe import BuilderSettings, EngineRecipe
from cascadert.errors import InvalidRequest
from cascadert.graph import Graph

ENGINE = bytes(range(256)) * 8
BUILT = BuiltEngine(ENGINE, 1.5, {"tensorrt-rtx": "1.7.1"})
GRAPH = Graph(b"onnx", (), ())
ORIN = GpuFingerprint(name="Orin", compute_capability="8.7", multiprocessors=8, memory_bytes=8 * 2**30)
RECIPE = EngineRecipe(
    "fast", GRAPH, "fp32", "tensorrt-rtx", "8.6", True, {"indices": ((1,), (2,), (8,))}, BuilderSettings(1 << 28, 3, 0)
)
KEY = engine_key("street", RECIPE, "1.7.1", None)

any_fields = st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=4)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def entry(cache: EngineCache) -> Path:
    """The file of an entry that was just stored."""
    cache.store(KEY, BUILT)
    (path,) = cache.folder.iterdir()
    return path


class TestKey:
    @pytest.mark.parametrize(
        "change",
        [
            {"graph": replace(GRAPH, onnx=b"onnx2")},
            {"precision": "tf32"},
            {"backend": "tensorrt"},
            {"compute_capability": "8.9"},
            {"strongly_typed": False},
            {"shapes": {}},
            {"shapes": {"indices": ((1,), (3,), (8,))}},
            {"settings": BuilderSettings(None, 3, 0)},
            {"settings": BuilderSettings(1 << 28, 4, 0)},
            {"settings": BuilderSettings(1 << 28, 3, 1)},
            {"settings": BuilderSettings(1 << 28, 3, 0, dla_core=0)},
            {"settings": BuilderSettings(1 << 28, 3, 0, flags=("TF32",))},
            {"settings": BuilderSettings(1 << 28, 3, 0, float32_nodes=("a", "b"))},
            {"settings": BuilderSettings(1 << 28, 3, 0, float32_nodes=("ab",))},
        ],
        ids=str,
    )
    def test_everything_that_decides_an_engine_is_in_it(self, change: dict[str, object]) -> None:
        assert engine_key("street", replace(RECIPE, **change), "1.7.1", None).digest != KEY.digest

    def test_so_are_the_version_and_the_gpu_that_kernels_are_timed_on(self) -> None:
        others = [ORIN.model_copy(update=change) for change in ({"name": "Xavier"}, {"multiprocessors": 16})]
        keys = [engine_key("street", RECIPE, "1.7.1", gpu) for gpu in (None, ORIN, *others)]
        digests = [key.digest for key in (*keys, engine_key("street", RECIPE, "1.7.2", None))]
        assert len(set(digests)) == len(digests)

    def test_names_of_cascade_and_stage_are_not(self) -> None:
        """Equal recipes make equal engines, whoever asks."""
        assert engine_key("road", replace(RECIPE, stage="accurate"), "1.7.1", None).digest == KEY.digest

    @given(any_fields, any_fields)
    def test_other_fields_make_another_digest(self, one: dict[str, str], other: dict[str, str]) -> None:
        assert (EngineKey("", one).digest == EngineKey("", other).digest) == (one == other)

    def test_no_two_sets_of_fields_spell_the_same(self) -> None:
        alike = [{"ab": "c"}, {"a": "bc"}, {"abc": ""}, {"": "abc"}, {"a": "b", "c": ""}, {"a": "", "b": "c"}]
        for one, other in combinations(alike, 2):
            assert EngineKey("", one).digest != EngineKey("", other).digest


class TestFind:
    def test_what_was_stored_is_found(self, cache: EngineCache, entry: Path) -> None:
        assert cache.find(KEY) == BUILT
        assert EngineCache(cache.folder).find(KEY) == BUILT
        assert entry.name == f"{KEY.digest}.engine"

    def test_nothing_of_the_stage(self, cache: EngineCache, entry: Path) -> None:
        other = engine_key("road", replace(RECIPE, precision="tf32"), "1.7.1", None)
        assert cache.find(other) == Miss("there is none of this stage")

    def test_a_miss_names_what_differs_from_the_nearest(self, cache: EngineCache, entry: Path) -> None:
        half = replace(RECIPE, precision="fp16", graph=replace(GRAPH, onnx=b"casts"))
        cache.store(engine_key("street", replace(half, compute_capability="8.9"), "1.6.0", None), BUILT)
        found = cache.find(engine_key("street", half, "1.7.1", None))
        assert found == Miss("the nearest differs in precision: fp32 there, fp16 asked")
        found = cache.find(engine_key("street", half, "1.6.0", None))
        assert found == Miss("the nearest differs in compute_capability: 8.9 there, 8.6 asked")

    def test_a_graph_that_differs_alone_is_named(self, cache: EngineCache, entry: Path) -> None:
        other = replace(GRAPH, onnx=b"trained anew")
        found = cache.find(engine_key("street", replace(RECIPE, graph=other), "1.7.1", None))
        assert found == Miss(f"the nearest differs in graph: {GRAPH.sha256[:12]}… there, {other.sha256[:12]}… asked")

    def test_a_field_that_only_one_has_is_named(self, cache: EngineCache, entry: Path) -> None:
        found = cache.find(EngineKey(KEY.owner, {**KEY.fields, "gpu_name": "Orin"}))
        assert found == Miss("the nearest differs in gpu_name: nothing there, Orin asked")


class TestCorruption:
    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_flipped_bit_anywhere_is_never_loaded(self, cache: EngineCache, entry: Path, data: st.DataObject) -> None:
        whole = entry.read_bytes()
        # As often in the first line and the header as in the engine, which is most of the file.
        start = data.draw(st.sampled_from([0, whole.index(b"\n") + 1, len(whole) - len(ENGINE)]))
        place = data.draw(st.integers(start, min(len(whole) - 1, start + 700)))
        broken = bytearray(whole)
        broken[place] ^= 1 << data.draw(st.integers(0, 7))
        entry.write_bytes(broken)
        assert _corrupt(cache.find(KEY), entry)
        entry.write_bytes(whole)
        assert cache.find(KEY) == BUILT

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_an_entry_of_another_length_is_never_loaded(
        self, cache: EngineCache, entry: Path, data: st.DataObject
    ) -> None:
        whole = entry.read_bytes()
        cut = data.draw(st.integers(0, len(whole) - 1))
        entry.write_bytes(whole[:cut])
        assert _corrupt(cache.find(KEY), entry)
        entry.write_bytes(whole + data.draw(st.binary(min_size=1, max_size=9)))
        assert _corrupt(cache.find(KEY), entry)
        entry.write_bytes(whole)

    def test_an_entry_under_a_foreign_name_is_never_loaded(self, cache: EngineCache, entry: Path) -> None:
        other = engine_key("street", replace(RECIPE, precision="tf32"), "1.7.1", None)
        target = entry.with_name(f"{other.digest}.engine")
        entry.rename(target)
        found = cache.find(other)
        assert found == Miss(f"the entry {target} is corrupt: it lies under a name that is not its own")

    def test_a_corrupt_entry_is_replaced_by_the_next(self, cache: EngineCache, entry: Path) -> None:
        entry.write_bytes(b"")
        cache.store(KEY, BUILT)
        assert cache.find(KEY) == BUILT
        assert [path.name for path in cache.folder.iterdir()] == [entry.name]

    def test_a_neighbour_that_cannot_be_read_is_no_nearest_entry(self, cache: EngineCache) -> None:
        (cache.folder / f"{'0' * 64}.engine").mkdir()
        assert cache.find(KEY) == Miss("there is none of this stage")

    def test_corrupt_neighbours_are_no_nearest_entries(self, cache: EngineCache, entry: Path) -> None:
        entry.write_bytes(entry.read_bytes()[:-1])
        other = engine_key("street", replace(RECIPE, precision="tf32"), "1.7.1", None)
        assert cache.find(other) == Miss("there is none of this stage")

    def test_corrupt_timings_are_never_loaded(self, cache: EngineCache) -> None:
        assert cache.find_timings(KEY) == Miss("nothing was built here for this GPU yet")
        cache.store_timings(KEY, b"timings")
        (path,) = cache.folder.iterdir()
        assert cache.find_timings(KEY) == b"timings"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        found = cache.find_timings(KEY)
        assert isinstance(found, Miss)
        assert found.why.startswith(f"{path} is corrupt: content was changed: sha256 ")

    def test_timings_are_shared_by_the_engines_of_one_gpu_and_version(self, cache: EngineCache) -> None:
        keys = [engine_key("street", RECIPE, version, gpu) for version in ("8.6", "10.3") for gpu in (None, ORIN)]
        cache.store_timings(keys[3], b"timings")
        assert [cache.find_timings(key) == b"timings" for key in keys] == [False, False, False, True]
        other = engine_key("road", replace(RECIPE, precision="int8", settings=BuilderSettings()), "10.3", ORIN)
        assert cache.find_timings(other) == b"timings"


def _corrupt(found: BuiltEngine | Miss, path: Path) -> bool:
    return isinstance(found, Miss) and found.why.startswith(f"the entry {path} is corrupt: ")


STORE = f"""
import os, resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_cache import BUILT, KEY, EngineCache

cache = EngineCache(Path(sys.argv[1]))

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

"""

DEATHS = {
    "half way through the bytes": "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)",
    "before they reach the disk": "os.fsync = die",
    "before the rename": "os.replace = die",
    "after the rename": "replace = os.replace\nos.replace = lambda *paths: (replace(*paths), die())",
}


@pytest.mark.parametrize("old", [False, True], ids=["no entry before", "an older entry before"])
@pytest.mark.parametrize("death", DEATHS)
def test_a_process_that_dies_while_it_writes_leaves_nothing_half_written(
    cache: EngineCache, death: str, old: bool
) -> None:
    if old:
        cache.store(KEY, replace(BUILT, engine=b"older"))
    done = subprocess.run([sys.executable, "-c", f"{STORE}\n{DEATHS[death]}\ncache.store(KEY, BUILT)", cache.folder])
    assert done.returncode in (-signal.SIGKILL, -signal.SIGXFSZ)
    found = cache.find(KEY)
    if death == "after the rename":
        assert found == BUILT
    elif old:
        assert isinstance(found, BuiltEngine)
        assert found.engine == b"older"
    else:
        assert found == Miss("there is none of this stage")
    left = [path for path in cache.folder.iterdir() if path.name.endswith(".partial")]
    assert len(left) == (death != "after the rename")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1500  # it was the other process's

    cache.store(KEY, BUILT)
    assert cache.find(KEY) == BUILT


def test_what_dead_processes_left_is_removed_a_day_later(cache: EngineCache) -> None:
    import os

    old, new = cache.folder / ".old.partial", cache.folder / ".new.partial"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    cache.store(KEY, BUILT)
    assert not old.exists()
    assert new.exists()


def test_many_processes_store_and_find_at_once(cache: EngineCache) -> None:
    """Readers see a whole entry or none at any moment while writers replace it."""
    code = f"{STORE}\nfor _ in range(60): cache.store(KEY, BUILT)"
    writers = [subprocess.Popen([sys.executable, "-c", code, cache.folder]) for _ in range(2)]
    found = []
    while any(writer.poll() is None for writer in writers):
        found.append(cache.find(KEY))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(map(type, found)) <= {BuiltEngine, Miss}
    assert all(each in (BUILT, Miss("there is none of this stage")) for each in found)
    assert cache.find(KEY) == BUILT


class TestFolder:
    @pytest.mark.parametrize(
        ("environment", "folder"),
        [
            ({"CASCADERT_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
            ({"XDG_CACHE_HOME": "/x"}, "/x/cascadert/engines"),
            ({"XDG_CACHE_HOME": ""}, "/h/.cache/cascadert/engines"),
            ({}, "/h/.cache/cascadert/engines"),
        ],
    )
    def test_default(self, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str) -> None:
        for name in ("CASCADERT_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HOME": "/h", **environment}.items():
            monkeypatch.setenv(name, value)
        assert default_cache_folder() == Path(folder)

    def test_one_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(
            InvalidRequest, match=r"^engine cache .*file/x: cannot be used \(Not a directory\); set CASC"
        ):
            EngineCache(tmp_path / "file" / "x")

    @pytest.mark.parametrize("action", [lambda c: c.store(KEY, BUILT), lambda c: c.find(KEY)], ids=["store", "find"])
    def test_a_file_system_that_fails_is_named(
        self, cache: EngineCache, entry: Path, action: Callable[[EngineCache], object]
    ) -> None:
        entry.unlink()
        entry.mkdir()
        with pytest.raises(InvalidRequest, match=r"^engine cache .*: cannot be used \(Is a directory\); set CASC"):
            action(cache)
