"""Stages in TensorRT, on a double of its module: the labels of ONNX Runtime, bit for bit, in every flavour."""

import threading
from collections.abc import Callable

import pytest
from tensorrt_double import DoubleGpu, Misuse
from tensorrt_runs import ANY_N, BLOCKS, BUCKETS, TIMEOUT_S, Load, fill, finish, outputs, reference, run, same

from cascadert.bundle import Bundle
from cascadert.device import Stream
from cascadert.errors import ExecutionError
from cascadert.export.lowering import lower
from cascadert.graph import Graph
from cascadert.runtime.executables.tensorrt import TensorRTExecutable
from cascadert.runtime.executables.tensorrt.context import Context


@pytest.mark.parametrize("name", ["toy_bundle", "chain_bundle", "cameras_bundle"])
def test_outputs_are_those_of_onnx_runtime(
    request: pytest.FixtureRequest, gpu: DoubleGpu, stream: Stream, load: Load, name: str
) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    for stage, semantic in bundle.graphs.items():
        graph = lower(semantic, "onnxruntime")
        executable = load(stage, graph, ((1, 2, 8),))
        for seed, n in enumerate((3, 1, 8, 8)):
            bindings = fill(gpu, graph, n, seed)
            run(executable, bindings, stream)
            assert same(outputs(graph, bindings), reference(gpu, graph, bindings, stream)), (stage, n)


def alternate(executable: TensorRTExecutable, gpu: DoubleGpu, graph: Graph, stream: Stream) -> bool:
    """Queue six runs at once on two sets of buffers by turns, n changing; whether all were right."""
    rights = []
    slots = [fill(gpu, graph, BLOCKS, seed) for seed in (1, 2)]
    wanted = {
        (turn, n): reference(gpu, graph, {**slots[turn], "indices": slots[turn]["indices"].prefix(n)}, stream)
        for turn in (0, 1)
        for n in (4, 9, 2)
    }
    stream.begin()
    for step, n in enumerate((4, 9, 2, 4, 9, 2)):
        slot = slots[step % 2]
        executable.enqueue({**slot, "indices": slot["indices"].prefix(n)}, stream)
        stream.submit(lambda slot=slot, step=step, n=n: rights.append(same(outputs(graph, slot), wanted[step % 2, n])))
    finish(stream)
    assert len(rights) == 6
    return all(rights)


@pytest.mark.parametrize("profiles", [ANY_N, BUCKETS])
def test_two_sets_of_buffers_alternate(
    gpu: DoubleGpu,
    stream: Stream,
    load: Load,
    graphs: dict[str, Graph],
    profiles: tuple[tuple[int, int, int], ...],
) -> None:
    assert alternate(load("accurate", graphs["accurate"], profiles), gpu, graphs["accurate"], stream)


def forget_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set each address once and never again."""
    original = Context.set_address
    monkeypatch.setattr(
        Context, "set_address", lambda self, name, at: name in self._addresses or original(self, name, at)
    )


def forget_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set each shape once and never again."""
    original = Context.set_shape
    monkeypatch.setattr(
        Context, "set_shape", lambda self, name, shape: name in self._shapes or original(self, name, shape)
    )


@pytest.mark.parametrize("forget", [forget_addresses, forget_shapes])
def test_the_double_finds_what_is_not_told(
    gpu: DoubleGpu,
    stream: Stream,
    load: Load,
    graphs: dict[str, Graph],
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[pytest.MonkeyPatch], None],
) -> None:
    forget(monkeypatch)
    assert not alternate(load("accurate", graphs["accurate"]), gpu, graphs["accurate"], stream)


def test_the_double_finds_that_no_profile_was_chosen(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "select_profile", lambda self, index, stream: None)
    executable = load("accurate", graphs["accurate"], BUCKETS)
    with pytest.raises(ExecutionError, match=r"setInputShape: \[4\] of indices is outside \[1\] to \[2\] of profile 0"):
        alternate(executable, gpu, graphs["accurate"], stream)


def test_the_double_finds_shapes_that_a_switch_forgot(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def select_profile(context: Context, index: int, stream: Stream) -> None:
        context._context.set_optimization_profile_async(index, stream.handle)

    monkeypatch.setattr(Context, "select_profile", select_profile)
    bindings = fill(gpu, graphs["accurate"], 2, 0)
    executable = load("accurate", graphs["accurate"], BUCKETS)
    run(executable, bindings, stream)
    message = (
        r"^stage 'accurate': TensorRT refuses to run: enqueueV3: the shape of indices is not set in profile 0; check"
    )
    with pytest.raises(ExecutionError, match=message):
        run(executable, bindings, stream)


def test_the_double_finds_a_switch_on_another_stream(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, other = Context.select_profile, gpu.create_stream("b")
    monkeypatch.setattr(Context, "select_profile", lambda self, index, stream: original(self, index, other))
    with pytest.raises(Misuse, match="on another stream than the switch of its profile"):
        run(load("accurate", graphs["accurate"], BUCKETS), fill(gpu, graphs["accurate"], 4, 0), stream)


def test_memory_is_read_when_the_run_comes(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable, early, late = load("fast", graphs["fast"]), *(fill(gpu, graphs["fast"], 1, seed) for seed in (1, 2))
    wanted = reference(gpu, graphs["fast"], late, stream)
    latch = threading.Event()
    stream.begin()
    stream.submit(lambda: latch.wait(TIMEOUT_S) or pytest.fail("the latch"))
    executable.enqueue(early, stream)
    early["frame"].array[...] = late["frame"].array  # as a slot that is given to the next frame too early
    latch.set()
    finish(stream)
    assert same(outputs(graphs["fast"], early), wanted)


def test_queueing_does_not_wait(gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]) -> None:
    executable, latch = load("fast", graphs["fast"]), threading.Event()
    bindings = fill(gpu, graphs["fast"], 1, 0)
    stream.begin()
    stream.submit(lambda: latch.wait(TIMEOUT_S) or pytest.fail("the latch"))
    executable.enqueue(bindings, stream)
    executable.enqueue(bindings, stream)
    assert not (event := stream.record()).is_done
    latch.set()
    assert event.synchronize(TIMEOUT_S)
    assert event.error is None


def test_only_changes_are_told(gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]) -> None:
    executable, told = load("accurate", graphs["accurate"], BUCKETS), []
    slot, other = (fill(gpu, graphs["accurate"], BLOCKS, seed) for seed in (1, 2))
    for frame, n in ((slot, 2), (slot, 2), (slot, 1), (slot, 4), (other, 4)):
        gpu.calls.clear()
        run(executable, {**slot, "frame": frame["frame"], "indices": slot["indices"].prefix(n)}, stream)
        told.append(list(gpu.calls))
    shapes = ["shape frame", "shape indices", "shape prior_labels"]
    addresses = ["address frame", "address indices", "address prior_labels", "address labels"]
    assert told == [
        [*shapes, *addresses, "execute"],
        ["execute"],
        ["shape indices", "execute"],
        ["profile 1", *shapes, "execute"],
        ["address frame", "execute"],
    ]


@pytest.mark.parametrize(
    ("profiles", "rounded", "built"),
    [
        (ANY_N, {1: 1, 7: 7, BLOCKS: BLOCKS}, "1 to 15"),
        (BUCKETS, {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 9, BLOCKS: BLOCKS}, "1 to 2, 4, 8 to 15"),
        (((4, 4, 4), (1, 1, 1), (2, 2, 2)), {1: 1, 2: 2, 3: 4, 4: 4}, "1, 2, 4"),
    ],
)
def test_blocks_are_rounded_up_to_what_was_built(
    load: Load,
    graphs: dict[str, Graph],
    profiles: tuple[tuple[int, int, int], ...],
    rounded: dict[int, int],
    built: str,
) -> None:
    executable, largest = load("accurate", graphs["accurate"], profiles), max(rounded)
    assert {n: executable.blocks(n) for n in rounded} == rounded
    with pytest.raises(ExecutionError, match=rf"was built for {built} blocks, not for {largest + 1}; "):
        executable.blocks(largest + 1)


def test_a_stage_that_counts_no_blocks_takes_any_number(load: Load, graphs: dict[str, Graph]) -> None:
    assert load("fast", graphs["fast"]).blocks(7) == 7


def test_the_narrowest_profile_is_taken(gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]) -> None:
    executable = load("accurate", graphs["accurate"], ((1, 4, BLOCKS), (3, 4, 5)))
    run(executable, fill(gpu, graphs["accurate"], 4, 0), stream)
    run(executable, fill(gpu, graphs["accurate"], 2, 0), stream)
    assert [call for call in gpu.calls if call.startswith("profile")] == ["profile 1", "profile 0"]


def test_blocks_between_the_profiles_are_refused(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    message = "^stage 'accurate': was built for 1 to 2, 4, 8 to 15 blocks, not for 3; build it for more$"
    with pytest.raises(ExecutionError, match=message):
        load("accurate", graphs["accurate"], BUCKETS).enqueue(fill(gpu, graphs["accurate"], 3, 0), stream)


def test_a_refused_run_tells_why_and_the_next_one_is_right(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable, bindings = load("accurate", graphs["accurate"]), fill(gpu, graphs["accurate"], 4, 0)
    run(executable, bindings, stream)
    gpu.refusal = "enqueueV3: Error Code 1: Cuda Runtime (out of\nmemory)"
    message = (
        r"^stage 'accurate': TensorRT refuses to run: enqueueV3: Error Code 1: Cuda Runtime \(out of memory\); "
        r"check the frame and the deployment$"
    )
    with pytest.raises(ExecutionError, match=message):
        executable.enqueue(bindings, stream)
    gpu.calls.clear()
    run(executable, bindings, stream)
    told = [call.split()[0] for call in gpu.calls]
    assert told == ["profile", *["shape"] * 3, *["address"] * 4, "execute"]  # all of it again
    assert alternate(executable, gpu, graphs["accurate"], stream)


def test_the_default_stream_is_refused(gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]) -> None:
    executable = load("fast", graphs["fast"])
    stream.handle = 0
    with pytest.raises(ExecutionError, match=r"^stage 'fast': is queued on the default stream; use a stream of the"):
        executable.enqueue(fill(gpu, graphs["fast"], 1, 0), stream)


def test_wrong_bindings_are_refused(gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]) -> None:
    executable, bindings = load("accurate", graphs["accurate"]), fill(gpu, graphs["accurate"], 4, 0)
    with pytest.raises(
        ExecutionError, match=r"^stage 'accurate': indices int32 \[n\]: is bound to uint8 \[1, 40, 56\]"
    ):
        executable.enqueue({**bindings, "indices": bindings["labels"]}, stream)
    assert "execute" not in gpu.calls


def test_after_close_nothing_is_left(gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]) -> None:
    executable, bindings = load("fast", graphs["fast"]), fill(gpu, graphs["fast"], 1, 0)
    assert len(gpu.contexts) == 1
    executable.close()
    executable.close()
    assert not gpu.contexts
    for late in (lambda: executable.enqueue(bindings, stream), lambda: executable.use_memory(bindings["frame"])):
        with pytest.raises(ExecutionError, match=r"^stage 'fast': is closed; load it again$"):
            late()


def test_the_double_finds_a_context_closed_before_its_run(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable, latch = load("fast", graphs["fast"]), threading.Event()
    bindings = fill(gpu, graphs["fast"], 1, 0)
    stream.begin()
    stream.submit(lambda: latch.wait(TIMEOUT_S) or pytest.fail("the latch"))
    executable.enqueue(bindings, stream)
    executable.close()
    latch.set()
    with pytest.raises(Misuse, match="a context was destroyed before its run"):
        finish(stream)


def test_the_double_finds_buffers_freed_before_the_run(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable, latch = load("fast", graphs["fast"]), threading.Event()
    stream.begin()
    stream.submit(lambda: latch.wait(TIMEOUT_S) or pytest.fail("the latch"))
    executable.enqueue(fill(gpu, graphs["fast"], 1, 0), stream)
    latch.set()
    with pytest.raises(Misuse, match="are not, or no longer, in memory of the device"):
        finish(stream)
