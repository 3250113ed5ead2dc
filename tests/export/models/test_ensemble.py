"""The mean of an ensemble, and what its members disagree about (paper 002, eq. 2 and 3)."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cascadert.export.exporter import export_graph
from cascadert.export.glue import entropy_bits
from cascadert.export.lowering import lower
from cascadert.export.models.ensemble import ensemble


def members(seed: int, count: int = 3, gain: float = 3.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 5, 6, 8, generator=generator) * gain for _ in range(count)]


def in_float64(logits: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    each = np.stack([torch.softmax(y.double(), dim=1).numpy() for y in logits])
    mean = each.mean(axis=0)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(axis=-3)

    return mean, entropy(mean), entropy(each).mean(axis=0)


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.1, 3.0, 40.0]))
def test_it_is_the_mean_of_probabilities_and_splits_its_entropy(seed: int, count: int, gain: float) -> None:
    logits = members(seed, count, gain)
    answer = ensemble()(*logits)
    mean, total, aleatoric = in_float64(logits)
    assert np.abs(answer["logits"].softmax(dim=1).numpy() - mean).max() < 1e-6
    assert np.abs(entropy_bits(answer["logits"]).numpy() - total).max() < 1e-4
    assert np.abs(answer["aleatoric"].numpy() - aleatoric).max() < 1e-5
    assert np.abs((answer["aleatoric"] + answer["epistemic"]).numpy() - total).max() < 1e-5
    assert answer["epistemic"].min() > -1e-5


def test_certain_members_that_disagree_are_all_epistemic() -> None:
    certain = [torch.full((1, 4, 2, 2), -200.0).index_fill(1, torch.tensor([k]), 200.0) for k in (0, 3)]
    answer = ensemble()(*certain)
    assert torch.allclose(answer["aleatoric"], torch.zeros(1, 2, 2), atol=1e-6)
    assert torch.allclose(answer["epistemic"], torch.ones(1, 2, 2), atol=1e-6)  # one bit: which of the two
    assert torch.isfinite(answer["logits"]).all()


def test_members_of_other_strides_are_averaged_at_the_size_that_is_asked() -> None:
    coarse, fine = members(0)[0], torch.randn(1, 5, 12, 16, generator=torch.Generator().manual_seed(1))
    answer = ensemble([24, 32])(coarse, fine)
    up = [F.interpolate(y, (24, 32), mode="bilinear").softmax(dim=1) for y in (coarse, fine)]
    assert torch.allclose(answer["logits"].softmax(dim=1), (up[0] + up[1]) / 2, atol=1e-6)


def test_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"size is \[0, 4\]: give \[height, width\]"):
        ensemble([0, 4])


@pytest.mark.parametrize("dialect", ["semantic", "onnxruntime", "tensorrt"])
def test_it_exports(dialect: str) -> None:
    logits, network = members(2), ensemble([12, 16])
    names = [f"member{i}" for i in range(3)]
    graph = export_graph(network, dict(zip(names, logits, strict=True)), ["logits", "aleatoric", "epistemic"])
    graph = graph if dialect == "semantic" else lower(graph, dialect)
    session = onnxruntime.InferenceSession(graph.onnx, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: y.numpy() for name, y in zip(names, logits, strict=True)})
    for value, wanted in zip(found, network(*logits).values(), strict=True):
        assert np.abs(value - wanted.numpy()).max() < 1e-5
