"""The front and the choice, against brute force."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.calibration.tuning_choice import Goal, Kind, choose, nearest, pareto
from cascadert.errors import InvalidRequest

KINDS: tuple[Kind, ...] = ("max-drop", "target-ms", "target-fps")


@dataclass(frozen=True)
class Way:
    miou: float
    latency_ms: float
    period_ms: float


coarse = st.integers(1, 6).map(lambda tenths: tenths / 10)  # few values: ties are as likely as not
values = st.one_of(coarse, st.just(math.nan))
ways = st.lists(st.builds(Way, values, values, values), max_size=9)
goals = st.builds(Goal, st.just("max-drop"), st.integers(0, 60).map(float)) | st.builds(
    Goal, st.sampled_from(KINDS[1:]), st.sampled_from([0.1, 0.25, 0.3, 0.6, 2.0, 1666.0, 2500.0, 9000.0])
)


def known(found: list[Way], goal: Goal) -> list[int]:
    return [i for i, way in enumerate(found) if math.isfinite(way.miou) and math.isfinite(goal.time_ms(way))]


@given(ways)
def test_the_front_is_what_no_other_beats(found: list[Way]) -> None:
    times, miou = [way.latency_ms for way in found], [way.miou for way in found]
    usable = known(found, Goal("target-ms", 1))

    def beaten(i: int) -> bool:
        return any(
            times[j] <= times[i] and miou[j] >= miou[i] and ((times[j], miou[j]) != (times[i], miou[i]) or j < i)
            for j in usable
        )

    front = pareto(times, miou)
    assert set(front) == {i for i in usable if not beaten(i)}
    assert [times[i] for i in front] == sorted(times[i] for i in front)


@given(ways, goals, coarse)
def test_the_choice_is_the_best_within_the_bound(found: list[Way], goal: Goal, best: float) -> None:
    if goal.kind == "max-drop":
        allowed = [i for i in known(found, goal) if found[i].miou >= best - goal.value / 100 - 1e-9]
        wanted = min(((goal.time_ms(found[i]), -found[i].miou) for i in allowed), default=None)
    else:
        limit = goal.value if goal.kind == "target-ms" else 1000 / goal.value
        allowed = [i for i in known(found, goal) if goal.time_ms(found[i]) <= limit + 1e-9]
        wanted = min(((-found[i].miou, goal.time_ms(found[i])) for i in allowed), default=None)
    chosen = choose(goal, found, best)
    assert (chosen is None) == (wanted is None)
    if chosen is not None:
        assert chosen in allowed
        key = (goal.time_ms(found[chosen]), -found[chosen].miou)
        assert (key if goal.kind == "max-drop" else key[::-1]) == wanted


@given(ways, goals)
def test_the_nearest_is_as_good_as_it_gets_in_what_is_bounded(found: list[Way], goal: Goal) -> None:
    index, usable = nearest(goal, found), known(found, goal)
    if index is None:
        return
    assert index in usable
    if goal.kind == "max-drop":
        assert found[index].miou == max(way.miou for way in found if math.isfinite(way.miou))
    else:
        times = [goal.time_ms(way) for way in found]
        assert times[index] == min(time for time in times if math.isfinite(time))


def test_a_choice_is_on_the_front_by_hand() -> None:
    found = [Way(0.50, 10, 9), Way(0.60, 30, 20), Way(0.605, 60, 31), Way(0.61, 100, 70)]
    assert choose(Goal("max-drop", 1), found, 0.61) == 1
    assert choose(Goal("max-drop", 0.6), found, 0.61) == 2
    assert choose(Goal("target-ms", 60), found, 0.61) == 2
    assert choose(Goal("target-fps", 40), found, 0.61) == 1
    assert choose(Goal("target-ms", 9), found, 0.61) is None
    assert nearest(Goal("target-ms", 9), found) == 0
    assert nearest(Goal("max-drop", 0), found) == 3


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("max-drop", -1, "--max-drop -1: is no number of points; give 0 to 100"),
        ("max-drop", 101, "--max-drop 101"),
        ("max-drop", math.nan, "--max-drop nan"),
        ("target-ms", 0, "--target-ms 0: is no number above 0; give milliseconds"),
        ("target-fps", math.inf, "--target-fps inf: is no number above 0; give frames per second"),
    ],
)
def test_goals_that_are_none(kind: Kind, value: float, found: str) -> None:
    with pytest.raises(InvalidRequest, match=found):
        Goal(kind, value)
