from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cascadert.engines.worker import ProgressTree, without_driver_noise


def test_inner_phases_count_as_part_of_a_step() -> None:
    tree = ProgressTree()
    tree.start("outer", None, 4)
    tree.step("outer", 0)
    tree.start("inner", "outer", 2)
    tree.step("inner", 0)
    assert tree.fraction() == (1 + 1 / 2) / 4
    tree.finish("inner")
    assert tree.step("outer", 1) == (2, 4)
    assert tree.fraction() == 2 / 4


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.booleans()), max_size=30))
def test_fraction_never_falls_and_stays_in_range(events: list[tuple[int, int, bool]]) -> None:
    """Whatever TensorRT reports: more steps than announced, phases opened twice or never closed."""
    tree, last = ProgressTree(), 0.0
    tree.start("0", None, 5)
    for depth, step, close in events:
        tree.start(str(depth), str(depth - 1) if depth else None, step)
        tree.step(str(depth), step)
        if close:
            tree.finish(str(depth))
        assert last <= tree.fraction() <= 1
        last = tree.fraction()


def test_only_lines_about_the_missing_driver_are_dropped() -> None:
    kept = ["Invalid Node - pool", "IBuilder: Error Code 9: Invalid State (profile 0 is missing)"]
    noise = [
        "[catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient for it)",
        "IBuilder: Error Code 9: Internal Error (CUDA initialization failed)",
    ]
    assert without_driver_noise("\n".join([kept[0], *noise, kept[1]])) == "\n".join(kept)
