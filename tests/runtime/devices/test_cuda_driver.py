"""Which arrays of others are contiguous: numpy is asked."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cascadert.runtime.devices.cuda_driver import DeviceArray

slices = st.tuples(*[st.builds(slice, st.integers(0, 2), st.integers(0, 4), st.integers(1, 3))] * 3)


@given(cut=slices, axes=st.permutations(range(3)))
def test_contiguous_is_what_numpy_calls_so(cut: tuple[slice, ...], axes: list[int]) -> None:
    array = np.zeros((3, 2, 4), np.float32)[cut].transpose(axes)
    found = DeviceArray(array.ctypes.data, array.shape, array.strides, array.dtype, array)
    assert found.is_contiguous == array.flags.c_contiguous


def test_no_strides_are_contiguous() -> None:
    assert DeviceArray(0, (2, 3), None, np.dtype("f4"), None).is_contiguous
