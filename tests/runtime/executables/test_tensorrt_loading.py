"""Loading an engine: what does not fit is refused, and each flavour is asked in its own way."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorrt_double import DoubleGpu, Surface, make_plan, make_tensorrt
from tensorrt_runs import ANY_N, USER_MEMORY, Load, fill, run

from cascadert.device import Stream
from cascadert.errors import DeploymentError, ExecutionError, InvalidRequest, MissingExtra
from cascadert.graph import Graph, TensorSpec
from cascadert.runtime.executables.tensorrt import (
    StageEngine,
    TensorRT,
    TensorRTExecutable,
    TensorRTOptions,
    import_tensorrt,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"indices": TensorSpec("indices", "int64", ("n",))},
            r"^stage 'accurate': tensor 'indices': is input int32 \[-1\] on the device in the engine where the "
            r"manifest has input int64 \[-1\] on the device; build it anew from its bundle$",
        ),
        (
            {"frame": TensorSpec("frame", "uint8", (1, 40, 40, 3))},
            r"tensor 'frame': is input uint8 \[1, 40, 56, 3\] on the device in .* has input uint8 \[1, 40, 40, 3\] on",
        ),
        (
            {"indices": TensorSpec("indices", "int32", (4,))},
            r"tensor 'indices': is input int32 \[-1\] on the device in .* has input int32 \[4\] on",
        ),
        (
            {"frame": TensorSpec("image", "uint8", (1, 40, 56, 3))},
            r"tensor 'frame': is input uint8 \[1, 40, 56, 3\] on the device in .* the manifest has nothing;",
        ),
        (
            {"prior_labels": TensorSpec("weights", "float32", (2,))},
            r"tensor 'prior_labels': is input uint8 .* has nothing; build",
        ),
        ({"labels": TensorSpec("labels", "float16", (1, 40, 56))}, r"'labels': is output uint8 .* has output float16 "),
    ],
)
def test_an_engine_of_other_tensors_is_refused(
    gpu: DoubleGpu, surface: Surface, graphs: dict[str, Graph], change: dict[str, TensorSpec], message: str
) -> None:
    graph = graphs["accurate"]
    inputs, outputs = (tuple(change.get(spec.name, spec) for spec in specs) for specs in (graph.inputs, graph.outputs))
    source = StageEngine("accurate", make_plan(graph, ANY_N), inputs, outputs)
    with pytest.raises(DeploymentError, match=message):
        TensorRTExecutable(source, TensorRT(make_tensorrt(surface, gpu)))
    assert not gpu.contexts


def test_swapped_inputs_and_outputs_are_refused(gpu: DoubleGpu, surface: Surface, graphs: dict[str, Graph]) -> None:
    graph = graphs["fast"]
    source = StageEngine("fast", make_plan(graph), graph.outputs, graph.inputs)
    with pytest.raises(DeploymentError, match=r"tensor 'frame': is input uint8 .* manifest has output uint8"):
        TensorRTExecutable(source, TensorRT(make_tensorrt(surface, gpu)))


@pytest.mark.parametrize("plan", [b"", b"vtrt" * 20])
def test_a_broken_engine_is_refused(gpu: DoubleGpu, surface: Surface, plan: bytes) -> None:
    tensorrt = TensorRT(make_tensorrt(surface, gpu))
    message = (
        r"^stage 'x': tensorrt.* [\d.]+ refuses its engine: Error Code 1: Serialization .*; "
        r"build it anew for this GPU and this version$"
    )
    with pytest.raises(DeploymentError, match=message):
        TensorRTExecutable(StageEngine("x", plan, (), ()), tensorrt)
    assert tensorrt.take_words() == ""


@pytest.mark.parametrize("options", [TensorRTOptions(), USER_MEMORY])
def test_no_context_is_an_error(gpu: DoubleGpu, load: Load, graphs: dict[str, Graph], options: TensorRTOptions) -> None:
    gpu.refusal = "Error Code 2: OutOfMemory"
    with pytest.raises(
        DeploymentError, match=r"^stage 'fast': TensorRT makes no execution context: Error Code 2: OutOfMemory; free"
    ):
        load("fast", graphs["fast"], ANY_N, options)


@pytest.mark.parametrize(
    ("surface", "options", "call"),
    [
        ("8.6", TensorRTOptions(), "context STATIC"),
        ("8.6", USER_MEMORY, "context without memory"),
        ("10", TensorRTOptions(), "context STATIC"),
        ("10", USER_MEMORY, "context USER_MANAGED"),
        ("rtx", TensorRTOptions(), "context STATIC DISABLED LAZY"),
        ("rtx", USER_MEMORY, "context USER_MANAGED DISABLED LAZY"),
        (
            "rtx",
            TensorRTOptions(cuda_graphs=True, kernels="eager", runtime_cache=Path("none")),
            "context STATIC WHOLE_GRAPH_CAPTURE EAGER cached",
        ),
        ("rtx", TensorRTOptions(kernels="none"), "context STATIC DISABLED NONE"),
    ],
)
def test_each_flavour_is_asked_in_its_own_way(
    gpu: DoubleGpu, load: Load, graphs: dict[str, Graph], options: TensorRTOptions, call: str, tmp_path: Path
) -> None:
    if options.runtime_cache is not None:  # it is written when the stage is closed
        options = replace(options, runtime_cache=tmp_path / options.runtime_cache)
    load("fast", graphs["fast"], ANY_N, options)
    assert gpu.calls == [call]


@pytest.mark.parametrize("surface", ["8.6", "10"])
@pytest.mark.parametrize("option", [{"runtime_cache": Path("x")}, {"cuda_graphs": True}, {"kernels": "lazy"}])
def test_choices_of_another_flavour_are_refused(
    load: Load, graphs: dict[str, Graph], option: dict[str, object]
) -> None:
    (name,) = option
    with pytest.raises(
        InvalidRequest, match=rf"^{name}: is a choice of TensorRT-RTX that tensorrt [\d.]+ lacks; leave"
    ):
        load("fast", graphs["fast"], ANY_N, TensorRTOptions(**option))


@pytest.mark.parametrize("surface", ["rtx"])
class TestRuntimeCache:
    def test_it_lasts_from_run_to_run(
        self, gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph], tmp_path: Path
    ) -> None:
        options = TensorRTOptions(runtime_cache=tmp_path / "caches")
        states = []
        for n in (4, 2):
            executable = load("accurate", graphs["accurate"], ANY_N, options)
            states.append(executable.runtime_cache)
            run(executable, fill(gpu, graphs["accurate"], n, 0), stream)
            executable.close()
        assert states == ["new", "loaded"]
        (file,) = (tmp_path / "caches").iterdir()
        assert file.name == "accurate.cache"
        _, *kernels = file.read_text().splitlines()
        assert ["'indices': (2,)" in kernels[0], "'indices': (4,)" in kernels[1]] == [True, True]

    def test_one_of_another_environment_is_replaced(
        self, gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph], tmp_path: Path
    ) -> None:
        (tmp_path / "fast.cache").write_bytes(b"kernels for 12.0\n(1, 2)")
        executable = load("fast", graphs["fast"], ANY_N, TensorRTOptions(runtime_cache=tmp_path))
        assert executable.runtime_cache == "refused"
        gpu.refusal = "later"
        with pytest.raises(ExecutionError, match=r"refuses to run: later; "):  # and not: another environment
            executable.enqueue(fill(gpu, graphs["fast"], 1, 0), stream)
        executable.close()
        assert (tmp_path / "fast.cache").read_text() == "kernels for 8.6"

    def test_a_folder_that_cannot_be_read_is_refused(
        self, load: Load, graphs: dict[str, Graph], tmp_path: Path
    ) -> None:
        (tmp_path / "fast.cache").mkdir()
        message = r"^runtime cache .*fast\.cache: cannot be read \(Is a directory\); choose another folder, or leave it"
        with pytest.raises(InvalidRequest, match=message):
            load("fast", graphs["fast"], ANY_N, TensorRTOptions(runtime_cache=tmp_path))

    def test_what_cannot_be_saved_is_given_back_nevertheless(
        self, gpu: DoubleGpu, load: Load, graphs: dict[str, Graph], tmp_path: Path
    ) -> None:
        executable = load("fast", graphs["fast"], ANY_N, TensorRTOptions(runtime_cache=tmp_path / "folder"))
        (tmp_path / "folder").write_text("in the way")
        message = r"^runtime cache .*fast\.cache: cannot be written \(File exists\); "
        with pytest.raises(InvalidRequest, match=message) as caught:
            executable.close()
        assert caught.tb is not None  # which holds on to whatever was not let go
        assert not gpu.contexts
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_no_driver_is_an_error(gpu: DoubleGpu, surface: Surface) -> None:
    trt = make_tensorrt(surface, gpu)

    def runtime(logger: object) -> None:
        logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = runtime
    message = r"^tensorrt.* cannot start: CUDA initialization failure with error: 35; check the GPU and its driver$"
    with pytest.raises(DeploymentError, match=message):
        TensorRT(trt)


@pytest.mark.parametrize(
    ("flavour", "module", "extra"), [("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "rtx")]
)
def test_a_missing_module_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, flavour: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"^to run engines of {flavour}: .*'{module}'.*cascadert\[{extra}\]"):
        import_tensorrt(flavour)
