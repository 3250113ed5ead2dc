import numpy as np
import pytest
import torch
from torch import nn

from cascadert.errors import PassError
from cascadert.export.exporter import trace
from cascadert.export.passes.max_unpool import UnpoolWithoutIndices


class Mirror(nn.Module):
    """Pools, changes the values, un-pools."""

    def __init__(self, block: int, **pool: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(block, **({"stride": block} | pool), return_indices=True)
        self.unpool = nn.MaxUnpool2d(block)

    def forward(self, x):
        pooled, indices = self.pool(x)
        return self.unpool(pooled * 2 - 1, indices)


@pytest.mark.parametrize(
    ("block", "shape"),
    [(2, (1, 3, 8, 12)), (2, (2, 5, 2, 2)), (3, (2, 2, 9, 6))],
)
def test_unpooling_equals_pytorch_before_and_after(block, shape, apply_checked, run_model, op_types):
    torch.manual_seed(block)
    # Three integers make most windows tie; negative maxima show whether zeros leak in.
    ties, module = torch.randint(-3, 0, shape).float(), Mirror(block)
    model = trace(module, {"x": ties}, ["y"])
    apply_checked(UnpoolWithoutIndices(), model, {"x": ties.numpy()})
    for x in (ties, torch.randn(shape), torch.zeros(shape)):
        np.testing.assert_array_equal(run_model(model, {"x": x.numpy()})[0], module(x).numpy())
    assert not {"MaxUnpool2d", "ScatterElements", "ScatterND", "Mod"} & set(op_types(model))
    assert [len(node.outputs) for node in model.graph if node.op_type == "MaxPool"] == [1]


def test_any_batch_is_unpooled(run_model):
    x = torch.randn(2, 3, 4, 4)
    module = Mirror(2)
    model = trace(module, {"x": x}, ["y"], {"x": {0: "n"}})
    UnpoolWithoutIndices()(model)
    for n in (1, 2, 5):
        x = torch.randn(n, 3, 4, 4)
        np.testing.assert_array_equal(run_model(model, {"x": x.numpy()})[0], module(x).numpy())


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Mirror(2, stride=1), r"strides \(1, 1\)"),
        (Mirror(2, padding=1), "padding"),
    ],
)
def test_a_pooling_that_is_no_mirror_is_refused(module, found):
    model = trace(module, {"x": torch.randn(1, 2, 8, 8)}, ["y"])
    with pytest.raises(PassError, match=found) as caught:
        UnpoolWithoutIndices()(model)
    assert "MaxUnpool2d, from module 'unpool'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_map_that_the_kernel_does_not_divide_is_refused():
    class Odd(Mirror):
        def forward(self, x):
            pooled, indices = self.pool(x)
            return self.unpool(pooled, indices, output_size=x.shape[2:])

    model = trace(Odd(2), {"x": torch.randn(1, 2, 7, 8)}, ["y"])
    with pytest.raises(PassError, match=r"un-pools to \[7, 8\] what was pooled from \(7, 8\) by 2"):
        UnpoolWithoutIndices()(model)


def test_indices_from_elsewhere_are_refused():
    class Foreign(nn.Module):
        def forward(self, x, indices):
            return nn.functional.max_unpool2d(x, indices, 2)

    inputs = {"x": torch.randn(1, 1, 2, 2), "indices": torch.tensor([[[[0, 2], [8, 10]]]])}
    model = trace(Foreign(), inputs, ["y"])
    with pytest.raises(PassError, match="indices do not come straight from a max pooling"):
        UnpoolWithoutIndices()(model)


def test_indices_that_somebody_else_reads_stay():
    class Shared(Mirror):
        def forward(self, x):
            pooled, indices = self.pool(x)
            return self.unpool(pooled, indices), indices

    model = trace(Shared(2), {"x": torch.randn(1, 1, 4, 4)}, ["y", "indices"])
    assert UnpoolWithoutIndices()(model).modified
    assert [len(node.outputs) for node in model.graph if node.op_type == "MaxPool"] == [2]
