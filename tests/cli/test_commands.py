import json
import re
import shutil
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

import cascadert
from cascadert import errors
from cascadert._version import __version__
from cascadert.cli import app, console

COMMANDS = ["export", "parity", "calibrate", "lint", "build-engine", "run", "bench", "inspect", "targets", "demo"]


@pytest.fixture
def call():
    """`call("run", path, ...)` runs the program; `code` is the exit code that it must have."""

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def street(tmp_path, toy_frames):
    path = tmp_path / "s.png"
    Image.fromarray(toy_frames[0]).save(path)
    return path


def all_errors(kind=errors.CascadertError):
    return [kind, *(each for child in kind.__subclasses__() for each in all_errors(child))]


class TestHelp:
    def test_the_program(self, call):
        text = call("--help").stdout
        assert all(f" {name} " in text for name in COMMANDS)

    def test_every_exit_code_is_documented(self, call):
        text = call("--help").stdout
        documented = {int(code) for code in re.findall(r"^ *(\d+)  \w", text, re.MULTILINE)}
        assert documented == {0, 130, *(kind.exit_code for kind in all_errors())}

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_an_example_that_parses(self, call, command, monkeypatch):
        text = call(command, "--help").stdout
        examples = [line.split() for line in text.splitlines() if line.strip().startswith(f"cascadert {command}")]
        assert examples
        for _, *arguments in examples:
            result = CliRunner().invoke(app, [*arguments, "--help"])
            assert result.exit_code == 0
            options = {word for word in arguments if word.startswith("-")}
            assert all(option in text for option in options)

    def test_version(self, call):
        assert call("--version").stdout == f"cascadert {__version__}\n"

    def test_help_needs_no_heavy_import(self):
        import subprocess

        program = (
            "import sys, cascadert.cli as c\n"
            "try: c.app(['--help'])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'PIL', 'av', 'tensorrt_rtx'}\n"
            "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stderr == "[]\n"


class TestErrors:
    def test_one_line_on_stderr_and_the_exit_code(self, call, tmp_path):
        result = call("inspect", tmp_path / "none", code=4)
        assert (
            result.stderr
            == f"error: {tmp_path / 'none'}: there is no such folder; give a folder written by cascadert\n"
        )
        assert result.stdout == ""

    def test_long_messages_are_not_wrapped(self, call, tmp_path):
        result = call("inspect", tmp_path / ("deep" * 40), code=4)
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("kind", all_errors()[1:], ids=lambda kind: kind.__name__)
    def test_every_error_has_its_exit_code(self, call, monkeypatch, kind, tmp_path):
        def fail(path):
            raise kind("what", "was [found]", "do this")

        monkeypatch.setattr("cascadert.deployment.open_artefact", fail)
        assert call("inspect", tmp_path, code=kind.exit_code).stderr == "error: what: was [found]; do this\n"

    def test_interrupts(self, call, monkeypatch, tmp_path):
        def interrupt(path):
            raise KeyboardInterrupt

        monkeypatch.setattr("cascadert.deployment.open_artefact", interrupt)
        assert call("inspect", tmp_path, code=130).stderr == "error: interrupted\n"

    def test_bugs_are_not_dressed_up(self, monkeypatch, tmp_path):
        def fail(path):
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr("cascadert.deployment.open_artefact", fail)
        result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
        assert isinstance(result.exception, ZeroDivisionError)

    def test_usage(self, call):
        assert "No such command" in call("explode", code=2).stderr

    @pytest.mark.parametrize(
        ("module", "command", "extra"),
        [
            ("torch", ["export", "x.toml", "-o", "x"], "export"),
            ("torch", ["parity", "x"], "export,cpu"),
        ],
    )
    def test_a_missing_extra(self, call, monkeypatch, module, command, extra):
        for package in ("export", "calibration"):  # they are imported anew, and put back as they were
            if hasattr(cascadert, package):
                monkeypatch.setattr(cascadert, package, getattr(cascadert, package))
        for name in [name for name in sys.modules if name.startswith(("cascadert.export", "cascadert.calibration"))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        message = call(*command, code=8).stderr
        assert message.startswith(f"error: cascadert {command[0]}: the Python module '{module}")
        assert message.endswith(f'; pip install "cascadert[{extra}]"\n')


class TestExport:
    def test_writes_a_bundle_and_shows_it(self, call, toy_spec, tmp_path):
        text = call("export", toy_spec, "-o", tmp_path / "bundle").stdout
        assert "accurate" in text
        assert call("inspect", tmp_path / "bundle").stdout == text

    def test_does_not_overwrite(self, call, toy_spec, tmp_path):
        (tmp_path / "bundle").mkdir()
        message = call("export", toy_spec, "-o", tmp_path / "bundle", code=2).stderr
        assert re.match(r"error: .*bundle: exists already; .*--force", message)

    def test_a_wrong_spec(self, call, tmp_path):
        (tmp_path / "s.toml").write_text('name = "x"\n')
        message = call("export", tmp_path / "s.toml", "-o", tmp_path / "b", code=2).stderr
        assert re.match(r"error: .*s.toml: classes: is missing; add it", message)


class TestParity:
    def test_passes_on_streets(self, call, toy_bundle):
        text = call("parity", toy_bundle.path, "--count", "2").stdout
        assert "end to end" in text
        assert "FAIL" not in text

    def test_json_on_given_frames(self, call, toy_bundle, street):
        report = json.loads(call("parity", toy_bundle.path, "--frames", street, "--json").stdout)
        assert report["passed"]
        assert report["frames"] == 1

    def test_what_shows_nothing_fails(self, call, toy_bundle, tmp_path):
        shutil.copytree(toy_bundle.path, tmp_path / "bundle")
        manifest = tmp_path / "bundle" / "bundle.json"
        data = json.loads(manifest.read_text())
        data["spec"]["stages"][1]["select"]["theta"] = data["stages"][1]["select"]["policy"]["theta"] = 95
        manifest.write_text(json.dumps(data))
        result = call("parity", tmp_path / "bundle", "--count", "1", code=1)
        assert re.match(r"error: parity: is vacuous: stage 'accurate' refined no block; give other", result.stderr)


class TestBuildEngine:
    def test_for_the_cpu_and_back(self, call, toy_bundle, street, tmp_path):
        text = call("build-engine", toy_bundle.path, "--target", "cpu", "-o", tmp_path / "cpu").stdout
        assert "built for cpu: onnxruntime, fp32" in text
        labels = {}
        for artefact in (toy_bundle.path, tmp_path / "cpu"):
            folder = tmp_path / f"labels-{artefact.name}"
            call("run", artefact, street, "--save-labels", folder)
            labels[artefact.name] = (folder / "s.png").read_bytes()
        assert len(set(labels.values())) == 1

    def test_an_unknown_target(self, call, toy_bundle, tmp_path):
        message = call("build-engine", toy_bundle.path, "--target", "rtx-9", "-o", tmp_path / "x", code=2).stderr
        assert re.match(r"error: target 'rtx-9': is not known; .*rtx-40", message)


class TestRun:
    def test_writes_what_was_asked_for(self, call, toy_bundle, street, tmp_path):
        outputs = {"-o": "out.mp4", "--save-labels": "labels", "--stats": "stats.json"}
        options = [word for option, name in outputs.items() for word in (option, tmp_path / name)]
        text = call("run", toy_bundle.path, street, "--theta", "-1", *options).stdout
        assert "15.00 of 15" in text
        assert "theta -1" in text
        assert all(f"wrote {tmp_path / name}" in text for name in outputs.values())
        with Image.open(tmp_path / "labels" / "s.png") as labels:
            assert labels.size == (56, 40)
        stats = json.loads((tmp_path / "stats.json").read_text())
        assert stats["frames"][0]["stages"][1]["n"] == 15

    def test_json(self, call, toy_bundle, street):
        result = call("run", toy_bundle.path, street, "--top-k", "4", "--json")
        assert json.loads(result.stdout)["mean_n"] == {"accurate": 4}
        assert result.stderr == ""

    def test_a_budget_without_a_profile_says_that_it_measures(self, call, toy_bundle, street):
        result = call("run", toy_bundle.path, street, "--budget-ms", "10000", "--theta", "1.05", "--json")
        assert result.stderr == "no profile was given: measuring one on the first 3 frames at most\n"
        policy = json.loads(result.stdout)["policies"]["accurate"]
        assert policy == {"policy": "latency", "budget_ms": 10000, "theta": 1.05}

    def test_a_frame_rate(self, call, toy_bundle, street):
        text = call("run", toy_bundle.path, street, "--fps", "5", "--serial", "--stage-threads", "fast=1").stdout
        assert "at 5 frames/s" in text
        assert "1 frame(s), serial: " in text
        assert "the busiest stream, serial, was at work" in text

    def test_frames_that_fail(self, call, toy_bundle, tmp_path, street, monkeypatch):
        from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable

        original, runs = OnnxRuntimeExecutable._run, []

        def fails_once(self, io):
            runs.append(self.name)
            if len(runs) == 1:
                raise errors.ExecutionError(f"stage '{self.name}'", "ran out of memory", "give it less")
            original(self, io)

        monkeypatch.setattr(OnnxRuntimeExecutable, "_run", fails_once)
        shutil.copy(street, tmp_path / "t.png")
        result = call("run", toy_bundle.path, tmp_path, "--serial", "--on-error", "continue", code=7)
        assert "no result for s: stage 'fast': ran out of memory; give it less" in result.stdout
        assert result.stderr.startswith("error: 1 of 2 frames: failed, the first of them s: stage 'fast'")

    def test_nothing_is_drawn_on_what_is_no_terminal(self, call, toy_bundle, street):
        assert call("run", toy_bundle.path, street).stderr == ""

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            (["--theta", "1", "--top-k", "2"], 2, r"--theta and --top-k: both decide .*; give one of them"),
            (["--fps", "5", "--budget-ms", "9"], 2, r"--budget-ms and --fps: both decide .*; give one of them"),
            (["--budget-ms", "0"], 2, r"--budget-ms 0: is no number above 0; give one"),
            (["--theta", "nan"], 2, r"--theta nan: is not a finite number; give bits"),
            (["--theta", "1", "--stage", "fast"], 2, r"stage 'fast': makes no decision; stages that do: accurate"),
            (["--glob", "*.jpg"], 5, r".*s.png: is a file, so --glob \*.jpg picks nothing"),
        ],
    )
    def test_wrong_requests(self, call, toy_bundle, street, options, code, message):
        assert re.match(f"error: {message}", call("run", toy_bundle.path, street, *options, code=code).stderr)

    def test_a_missing_source(self, call, toy_bundle, tmp_path):
        message = call("run", toy_bundle.path, tmp_path / "none.mp4", code=5).stderr
        assert re.match(r"error: .*none.mp4: does not exist; give an image, a folder of images or a video", message)

    def test_a_changed_bundle(self, call, toy_bundle, street, tmp_path):
        shutil.copytree(toy_bundle.path, tmp_path / "bundle")
        graph = tmp_path / "bundle" / "stages" / "fast.onnx"
        content = bytearray(graph.read_bytes())
        content[-1] ^= 1
        graph.write_bytes(content)
        message = call("run", tmp_path / "bundle", street, code=4).stderr
        assert re.match(r"error: .*fast.onnx: was changed: sha256 .*; write the artefact anew", message)


class TestInspect:
    def test_a_bundle(self, call, toy_bundle):
        text = call("inspect", toy_bundle.path).stdout
        assert "toy: 56x40 rgb8, 1 camera(s), fit none; 4 classes; 15 blocks" in " ".join(text.split())
        assert re.search(r"in  indices int32 \[n\] from first n of fast.order", text)
        assert re.search(r"out labels uint8 \[1, 40, 56\], fast.labels where skipped", text)
        assert re.search(r"stage +weights +activations, n = 1 +n = 15", text)
        assert re.search(r"accurate +\d\.\d KiB +(\d+)\.\d KiB +(?!\1)\d+\.\d KiB", text)
        assert "and 11.1 KiB for each frame in flight" in text  # 40 x 56 pixels of 3 bytes and 2 labels, 15 scores

    def test_memory_in_each_precision(self, call, toy_bundle):
        text = call("inspect", toy_bundle.path).stdout
        assert re.findall(r"^ *(fp32|tf32|fp16|int8) +\d", text, re.MULTILINE) == ["fp32", "fp16", "int8"]
        assert "3 frames in flight" in text
        assert "int8 is counted as holding all weights of fast, accurate\n" in text
        assert "memory in tf32, as estimated" in call("inspect", toy_bundle.path, "--precision", "tf32").stdout

    def test_memory_with_a_precision_of_each_stage(self, call, toy_bundle):
        text = call("inspect", toy_bundle.path, "--precision", "fast=fp16,accurate=int8").stdout
        assert "memory in fast=fp16, accurate=int8, as estimated" in text
        assert "int8 is counted as holding all weights of accurate\n" in text

    def test_80_columns_cut_nothing_of_the_stages(self, call, toy_bundle, monkeypatch):
        monkeypatch.setattr(console.out, "_width", 80)
        text = call("inspect", toy_bundle.path).stdout
        assert re.search(
            r"^ accurate +networks\.py:toy +\d+x\d+ +[\d,]+ +\d+\.\d{3} M/block +\d+\.\d+ KiB *$", text, re.M
        )
        assert "\naccurate refines blocks: fast.scores > 1.05\n" in text

    def test_memory_of_a_target(self, call, toy_bundle):
        text = " ".join(call("inspect", toy_bundle.path, "--target", "gtx-1080-ti").stdout.split())
        assert "fits gtx-1080-ti: the smallest has 11.00 GiB, 1.00 GiB of it for the system and CUDA" in text
        assert "fp16" not in text
        refused = call("inspect", toy_bundle.path, "--target", "gtx-1080-ti", "--precision", "fp16", code=2)
        assert "stage 'fast' in fp16 for gtx-1080-ti: Pascal" in refused.stderr

    def test_json_is_the_manifest(self, call, toy_bundle):
        shown = json.loads(call("inspect", toy_bundle.path, "--target", "orin-nano-4gb", "--json").stdout)
        assert shown["kind"] == "bundle"
        assert shown["manifest"] == json.loads((toy_bundle.path / "bundle.json").read_text())
        fp32, fp16, int8 = shown["memory"]
        assert fp32["slot_bytes"] == fp16["slot_bytes"] == 40 * 56 * (3 + 1 + 1) + 15 * (4 + 4)
        assert (fp32["target"], fp32["memory_bytes"], fp32["fits"]) == ("orin-nano-4gb", 4 << 30, True)
        assert fp32["total_bytes"] > int8["total_bytes"] > fp16["total_bytes"]


class TestTargets:
    NAMES = ("rtx-20", "a100", "rtx-30", "rtx-40", "rtx-50", "dgx-spark", "orin-nano-8gb", "cpu", "nano")

    def test_the_table(self, call, monkeypatch):
        for width in ("80", "120"):
            monkeypatch.setattr(console.out, "_width", int(width))  # `width` would not be put back
            text = call("targets").stdout
            assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in self.NAMES)
            assert "…" not in text
            assert max(map(len, text.splitlines())) <= int(width)
            assert ("Jetson AGX Xavier" in text) == (width == "120")
            assert re.search(r"^gtx-1080-ti .*6\.1 +8\.5-8\.6 +fast +- +- +fast +11 +B", text, re.MULTILINE)
            assert re.search(r"^agx-orin .*8\.7 +10\.3-10\.x +fast +fast +fast +fast +32-64 +2 +A", text, re.MULTILINE)

    def test_one_target(self, call):
        text = " ".join(call("targets", "agx-orin").stdout.split())
        assert "DLA: 2 cores, with TensorRT >=8.5,<8.7 or >=10.3,<10.8 or >=11.4.1,<12" in text
        assert "tensorrt >=8.5,<8.7 on the device weak to 17" in text
        assert "note: TensorRT 11 needs JetPack 7.2.2 or newer" in text
        assert "not sure, for want of a source or a measurement: dla" in text
        assert "Pascal stores float16" in call("targets", "gtx-1080-ti").stdout
        assert "refused: its last JetPack, 4.6" in call("targets", "nano").stdout

    def test_json(self, call):
        known = {target["name"]: target for target in json.loads(call("targets", "--json").stdout)}
        assert {*self.NAMES} <= known.keys()
        assert json.loads(call("targets", "t4", "--json").stdout) == known["t4"]

    def test_an_unknown_one(self, call):
        assert "did you mean 'rtx-30'?" in call("targets", "rtx-31", code=2).stderr


def test_demo(call, monkeypatch, tmp_path):
    """What the demo makes is tested with it; here, that its command hands on what it was given."""
    from cascadert.jetson import demo

    seen = {}

    def make_demo(output, options, progress):
        seen.update(output=output, options=options)
        progress("export", 1, 2)
        raise errors.BuildError("stage 'fast'", "was refused", "mend it")

    monkeypatch.setattr(demo, "make_demo", make_demo)
    arguments = ["demo", "-o", tmp_path, "--target", "cpu", "--target", "a100", "--threads", "2"]
    assert call(*arguments, code=6).stderr == "error: stage 'fast': was refused; mend it\n"
    assert seen == {"output": tmp_path, "options": demo.DemoOptions(targets=("cpu", "a100"), threads=2)}
