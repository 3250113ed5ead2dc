"""Networks of the user's own and their weights: found, called, loaded, or refused in one line; nothing is unpickled."""

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cascadert.errors import NetworkError, WeightsError
from cascadert.export.models import NETWORKS
from cascadert.export.networks import build_network, load_weights, state_sha256
from cascadert.spec import NetworkSpec

USER_CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        return self.b(self.norm(self.a(x)))

NOT_CALLABLE = 3

def number():
    return 42
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(USER_CODE)
    (tmp_path / "broken.py").write_text("import no_such_module")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    return tmp_path


def stage(model: str, **args: object) -> NetworkSpec:
    return NetworkSpec(name="fast", model=model, args=args)


def build(network: NetworkSpec, folder: Path) -> nn.Module:
    return build_network(f"stage '{network.name}'", network, folder)


def net(folder: Path, classes: int = 3) -> nn.Module:
    return build(stage("mine.py:Net", classes=classes), folder)


def test_a_network_in_a_file_beside_the_spec(folder: Path) -> None:
    network = build(stage("mine.py:Net", classes=5, width=7), folder)
    assert network(torch.zeros(1, 3, 4, 4)).shape == (1, 5, 4, 4)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_two_files_of_one_name_do_not_meet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "mine.py").write_text("from torch import nn\ndef Net(classes): return nn.Conv2d(3, classes, 1)")
    assert len(net(folder).state_dict()) > len(net(other).state_dict()) == 2


def test_a_network_in_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "toy_package").mkdir()
    (folder / "toy_package" / "__init__.py").touch()
    (folder / "toy_package" / "nets.py").write_text(USER_CODE)
    network = build(stage("toy_package.nets:Net", classes=3), Path("elsewhere"))
    assert type(network).__module__ == "toy_package.nets"
    assert isinstance(build(stage("torch.nn:Conv2d", in_channels=3, out_channels=4, kernel_size=1), folder), nn.Conv2d)


def test_our_networks_go_by_their_names(folder: Path) -> None:
    assert {"enet", "pspnet-r50", "pspnet-small"} <= NETWORKS.keys()
    assert build(stage("enet", classes=11), folder)(torch.zeros(1, 3, 16, 16)).shape[:2] == (1, 11)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (stage("enot"), r"model = \"enot\": is not a known network; choose one of .*enet, .*or \"module:callable\"$"),
        (stage("none.py:Net"), r"importing it raised FileNotFoundError: no file .*none\.py; mend the path$"),
        (
            stage("no.such.package:Net"),
            r"importing it raised ModuleNotFoundError: No module named 'no'; mend the path$",
        ),
        (stage("broken.py:Net"), r"importing it raised ModuleNotFoundError: No module named 'no_such_module'; mend"),
        (stage("wrong.py:f"), r"importing it raised SyntaxError: .*line 1\)?; mend the path$"),
        (stage("mine.py:Nat"), r"'mine\.py' has no callable 'Nat'; mend the name$"),
        (stage("mine.py:NOT_CALLABLE"), r"'mine\.py' has no callable 'NOT_CALLABLE'; mend the name$"),
        (stage("mine.py:Net"), r"raised TypeError: .*missing 1 required .*'classes'; mend args or the model$"),
        (
            stage("mine.py:Net", classes=3, depth=2),
            r"raised TypeError: .*unexpected .*'depth'; mend args or the model$",
        ),
        (stage("mine.py:Net", classes=-3), r"raised RuntimeError: .*; mend args or the model$"),
        (stage("mine.py:number"), r"returned int; return a torch\.nn\.Module$"),
    ],
)
def test_networks_that_cannot_be_built_are_named(folder: Path, spec: NetworkSpec, message: str) -> None:
    with pytest.raises(
        NetworkError, match=r"^stage 'fast': model = \".+\": .*" + message.removeprefix(r"model = \"enot\": ")
    ):
        build(spec, folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_back_whole(folder: Path, suffix: str) -> None:
    torch.manual_seed(0)
    trained, path = net(folder), folder / f"weights{suffix}"
    for tensor in trained.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 5)
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(trained.state_dict(), path)
    fresh = net(folder)
    assert state_sha256(fresh) != state_sha256(trained)
    load_weights(fresh, path)
    assert state_sha256(fresh) == state_sha256(trained)


def test_digest_sees_every_buffer_name_type_and_shape() -> None:
    def digest(**tensors: torch.Tensor) -> str:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return state_sha256(module)

    zeros = torch.zeros(2, 2)
    variants = [
        {"a": zeros}, {"b": zeros}, {"a": zeros.view(4)}, {"a": zeros.to(torch.int32)}, {"a": torch.tensor(0.0)},
        {"a": torch.tensor([[0, 0], [0, -0.0]])}, {"a": zeros, "b": torch.tensor(1)},
    ]  # fmt: skip
    assert len({digest(**variant) for variant in variants}) == len(variants)
    assert digest(a=zeros, b=zeros + 1) == digest(b=zeros + 1, a=zeros)


def _missing(state: dict) -> object:
    del state["a.bias"]
    return state


def _two_missing(state: dict) -> object:
    return {name: tensor for name, tensor in state.items() if not name.startswith("b.")}


def _unexpected(state: dict) -> object:
    return {**state, "module.a.bias": state["a.bias"]}


def _mis_shaped(state: dict) -> object:
    return {**state, "b.weight": torch.zeros(19, 4, 1, 1)}


def _not_finite(state: dict) -> object:
    state["norm.running_var"][1] = float("nan")
    return state


def _infinite(state: dict) -> object:
    state["a.weight"][0, 0, 0, 0] = float("inf")
    return state


def _checkpoint(state: dict) -> object:
    return {"epoch": 7, "state_dict": dict(state), "optimizer": {}}


def _mixed_keys(state: dict) -> object:
    return {**state, 3: state["a.bias"]}


def _wrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


WRONG = [
    (_missing, r"lacks 'a\.bias'; give weights of this very network \(check model and args\)$"),
    (_two_missing, r"lacks 'b\.bias' and 1 more; give weights of this very network"),
    (_unexpected, r"has the unexpected 'module\.a\.bias'; give weights of this very network"),
    (_wrapped, r"every name in it begins with 'module\.', as torch\.nn\.DataParallel saves them; strip the prefix"),
    (_mis_shaped, r"'b\.weight' is \[19, 4, 1, 1\] where the network has \[3, 4, 1, 1\]; check args, for instance"),
    (_not_finite, r"'norm\.running_var' holds NaN or infinity; train it again or take an earlier file$"),
    (_infinite, r"'a\.weight' holds NaN or infinity; train it again"),
    (
        _checkpoint,
        r"is not a state dict but holds \['epoch', 'optimizer', 'state_dict'\]; save model\.state_dict\(\) alone$",
    ),
    (lambda _: [1, 2], r"is not a state dict but holds list; save model\.state_dict\(\) alone$"),
    (lambda _: torch.zeros(3), r"is not a state dict but holds Tensor; save"),
    (_mixed_keys, r"is not a state dict but holds .*; save"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_weights_that_do_not_fit_are_refused(folder: Path, damage, message: str) -> None:
    network, path = net(folder), folder / "weights.pt"
    before = state_sha256(network)
    torch.save(damage({name: tensor.clone() for name, tensor in network.state_dict().items()}), path)
    with pytest.raises(WeightsError, match=rf"^{path}: {message}"):
        load_weights(network, path)
    assert state_sha256(network) == before


def test_missing_weights_are_named(folder: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"none\.pt: there is no such file; mend weights in the spec, or pass --random"
    ):
        load_weights(net(folder), folder / "none.pt")


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights"])
def test_a_pickle_never_runs(folder: Path, name: str, legacy: bool) -> None:
    path, crater = folder / name, folder / "crater"
    torch.save({"a": torch.zeros(1), "b": Bomb(crater)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        WeightsError, match=r": cannot be read: .*; give safetensors, or torch\.save\(model\.state_dict"
    ):
        load_weights(net(folder), path)
    path.write_bytes(pickle.dumps(Bomb(crater)))
    with pytest.raises(WeightsError, match=": cannot be read: "):
        load_weights(net(folder), path)
    assert not crater.exists()
    pickle.loads(path.read_bytes())
    assert crater.exists()  # the bomb was a real one


def test_what_cannot_be_read_is_said_in_words(folder: Path) -> None:
    path = folder / "weights.pt"
    torch.save(net(folder), path)
    with pytest.raises(WeightsError, match="cannot be read: it holds other objects than tensors, which are never unp"):
        load_weights(net(folder), path)
    path.write_text("hello\n")
    with pytest.raises(WeightsError, match=r"cannot be read: it is neither of safetensors nor of torch\.save; give"):
        load_weights(net(folder), path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=60),
    suffix=st.sampled_from([".pt", ".safetensors"]),
    prefix=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04"]),
)
def test_any_bytes_are_refused_in_one_line(folder: Path, data: bytes, suffix: str, prefix: bytes) -> None:
    path = folder / f"bytes{suffix}"
    path.write_bytes(prefix + data)
    with pytest.raises(WeightsError) as caught:
        load_weights(net(folder), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_files_are_refused(folder: Path, suffix: str, keep: float) -> None:
    network, path = net(folder), folder / f"weights{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=r"cannot be read: .*; give safetensors"):
        load_weights(network, path)
