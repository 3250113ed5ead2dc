"""Agreement of selections by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.selection_metrics import NEAR_THETA, Flip, Selection, SelectionAgreement
from cascadert.errors import InvalidRequest


def selection(scores: list[float], theta: float | None = None, n: int | None = None) -> Selection:
    """Make the decision for scores in the order of blocks."""
    values = np.array(scores, np.float32)
    order = np.argsort(-values, kind="stable").astype(np.int32)
    made = Selection(values[order], order, 0 if n is None else n, None)
    return made if theta is None else made.at(theta)


def test_by_hand() -> None:
    agreement = SelectionAgreement()
    agreement.add(selection([0.9, 0.2, 0.8, 0.505], 0.5), selection([0.9, 0.6, 0.3, 0.4], 0.5))
    agreement.add(selection([0.1, 0.2], 0.5), selection([0.1, 0.2], 0.5))
    agreement.add(selection([0.7, 0.2], 0.5), selection([0.6, 0.1], 0.5))
    assert (agreement.frames, agreement.intersection, agreement.union) == (3, 2, 5)
    assert agreement.iou == 2 / 5
    f = [float(np.float32(value)) for value in (0.2, 0.6, 0.8, 0.3, 0.505, 0.4)]
    assert agreement.flips == [
        Flip(0, 1, f[0], f[1], gained=True, near=False),
        Flip(0, 2, f[2], f[3], gained=False, near=False),
        Flip(0, 3, f[4], f[5], gained=False, near=True),
    ]
    assert [flip.block for flip in agreement.far_flips] == [1, 2]


def test_nothing_selected_by_either_agrees() -> None:
    agreement = SelectionAgreement()
    assert agreement.iou == 1
    agreement.add(selection([0.1, 0.2], 0.5), selection([0.3, 0.2], 0.5))
    assert agreement.iou == 1
    agreement.add(selection([0.1, 0.2], 0.5), selection([0.6, 0.2], 0.5))
    assert agreement.iou == 0


def test_near_is_measured_from_the_reference_and_its_theta() -> None:
    for score, near in ((0.5 + NEAR_THETA / 2, True), (0.5 + 2 * NEAR_THETA, False)):
        agreement = SelectionAgreement()
        agreement.add(selection([score], 0.5), selection([0.5001], 0.51))
        assert [flip.near for flip in agreement.flips] == [near]


def test_a_fixed_number_is_cut_between_two_scores() -> None:
    reference = selection([0.9, 0.52, 0.51, 0.1], n=2)
    assert reference.cut == pytest.approx(0.515)
    agreement = SelectionAgreement()
    agreement.add(reference, selection([0.9, 0.5, 0.6, 0.1], n=2))
    assert [(flip.block, flip.near) for flip in agreement.flips] == [(1, True), (2, True)]
    assert selection([0.5], n=0).cut == np.inf


def test_a_stage_that_only_one_skipped_is_a_flip_of_all() -> None:
    skipped = Selection(np.empty(0, np.float32), np.empty(0, np.int32), 0)
    agreement = SelectionAgreement()
    agreement.add(skipped, selection([0.9, 0.1], 0.5))
    agreement.add(selection([0.9, 0.1], 0.5), skipped)
    assert agreement.iou == 0
    assert [(flip.frame, flip.gained, flip.near) for flip in agreement.flips] == [(0, True, False), (1, False, False)]
    assert agreement.flips[0].reference_score == -np.inf


def test_other_blocks_are_refused() -> None:
    message = r"^two decisions: order 2 and 3 blocks, or not the same ones; compare the same stage"
    with pytest.raises(InvalidRequest, match=message):
        SelectionAgreement().add(selection([0.1, 0.2], 0.5), selection([0.1, 0.2, 0.3], 0.5))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_sets_add_up(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    agreement, union = SelectionAgreement(), 0
    for _ in range(frames):
        reference, candidate = (selection(rng.random(12).tolist(), 0.5) for _ in range(2))
        agreement.add(reference, candidate)
        union += len(reference.blocks | candidate.blocks)
    assert agreement.intersection + len(agreement.flips) == agreement.union == union
    assert 0 <= agreement.iou <= 1
