"""Few groups fall back, and the right ones: on planted noise, where the answer is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.calibration.judge import Floor, Found
from cascadert.calibration.sensitivity import MOST_GROUPS, fall_back, group_by_module, measure_groups
from cascadert.precision import QuantizationPlan

Noises = dict[str, float]


def planted(noises: Noises) -> tuple[QuantizationPlan, dict[str, str], list[QuantizationPlan], object]:
    """A network of one operator a module, whose noises add up; the judge remembers what it was asked."""
    plan = QuantizationPlan(calibrator="min-max", ranges={"pixels": (0.0, 1.0)}, keep={"first": "thin"})
    operators = {f"{module}.out": module for module in noises}
    asked: list[QuantizationPlan] = []

    def judge(tried: QuantizationPlan) -> Found:
        asked.append(tried)
        noise = sum(value for module, value in noises.items() if f"{module}.out" not in tried.keep)
        return Found(-10 * math.log10(noise) if noise else math.inf, 1.0, None)

    return plan, operators, asked, judge


noises = st.lists(st.floats(1e-6, 0.1), min_size=1, max_size=12).map(
    lambda values: {f"m{i}": v for i, v in enumerate(values)}
)


@given(noises, st.floats(5, 60))
def test_the_fewest_of_the_noisiest_groups_are_kept(noises: Noises, floor_db: float) -> None:
    plan, operators, _, judge = planted(noises)
    groups = measure_groups(plan, operators, judge, lambda done, total: None)
    assert [group.found.noise for group in groups] == pytest.approx(sorted(noises.values(), reverse=True))
    found = fall_back(plan, groups, judge, Floor(floor_db, 0.0))
    rest = sorted(noises.values(), reverse=True)
    least = next(m for m in range(1, len(rest) + 1) if not rest[m:] or -10 * math.log10(sum(rest[m:])) >= floor_db)
    assert found.kept == least
    assert found.found.sqnr_db >= floor_db
    assert found.exhausted is (least == len(rest))
    kept = {name for group in groups[:least] for name in group.operators}
    assert set(found.plan.keep) == kept | {"first"}, "what was kept before stays so"


def test_reasons_name_the_module_and_what_it_costs() -> None:
    plan, operators, _, judge = planted({"good": 1e-5, "bad": 0.1})
    groups = measure_groups(plan, operators, judge, lambda done, total: None)
    found = fall_back(plan, groups, judge, Floor(20, 0.0))
    assert found.plan.keep == {"first": "thin", "bad.out": "sensitive: int8 in bad alone leaves 10.0 dB"}


def test_each_group_is_measured_alone() -> None:
    plan, operators, asked, judge = planted({"a": 0.01, "b": 0.02, "c": 0.03})
    seen: list[tuple[int, int]] = []
    measure_groups(plan, operators, judge, lambda done, total: seen.append((done, total)))
    quantized = [sorted(set(operators) - set(tried.keep)) for tried in asked]
    assert quantized == [["a.out"], ["b.out"], ["c.out"]]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_bisection_asks_rarely() -> None:
    plan, operators, asked, judge = planted({f"m{i}": 1e-3 * (i + 1) for i in range(16)})
    groups = measure_groups(plan, operators, judge, lambda done, total: None)
    asked.clear()
    fall_back(plan, groups, judge, Floor(25, 0.0))
    assert len(asked) <= 5


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (Found(20, 0.99, None), True),
        (Found(14.9, 0.99, None), False),
        (Found(20, 0.95, None), False),
        (Found(20, 0.99, 0.02), True),
        (Found(20, 0.99, 0.021), False),
        (Found(20, 0.99, 0.02, "share"), True),
        (Found(20, 0.99, 0.021, "share"), False),
        (Found(math.nan, 0.99, None), False),
        (Found(20, 0.99, math.nan), False),
    ],
)
def test_a_floor_asks_for_everything_at_once(found: Found, holds: bool) -> None:
    assert Floor(15, 0.96).holds(found) is holds


@given(st.integers(1, 60), st.integers(1, 6))
def test_groups_are_modules_and_few(blocks: int, layers: int) -> None:
    operators = {f"{b}/{i}": f"network.stage{b % 4}.{b}.conv{i}" for b in range(blocks) for i in range(layers)}
    groups = group_by_module(operators)
    assert len(groups) <= MOST_GROUPS
    assert sorted(name for members in groups.values() for name in members) == sorted(operators)
    for module, members in groups.items():
        assert all(operators[name].startswith(module) for name in members)


def test_nothing_to_quantize_makes_no_group() -> None:
    assert group_by_module({}) == {}
