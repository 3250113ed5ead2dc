"""Traces of real pipelines: what viewers need, and what the two modes must look like."""

import json
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.profiling.passage import Traced, run_through
from cascadert.runtime.profiling.trace import streams_of, trace_events, trace_json
from cascadert.runtime.results import Span
from cascadert.spec import ThresholdPolicy
from tests.runtime.plant import TWO, Jitter, frame, planted

STAGES = ("fast", "accurate")
SLOW = Jitter(slow={f"inside {stage}": 0.01 for stage in STAGES})
ALL = {"accurate": ThresholdPolicy(theta=-1)}
SCORED_BY = {"accurate": "fast"}


def traced(mode: str) -> tuple[Traced, ...]:
    """Eight frames, each stage 20 ms or more."""
    with Pipeline(TWO, planted(TWO, SLOW), HostDevice(unified=False), RuntimeOptions(mode=mode)) as pipeline:
        return run_through(pipeline, [frame(i) for i in range(8)], ALL).frames


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[Traced, ...]]:
    return {mode: traced(mode) for mode in ("serial", "overlapped")}


@pytest.fixture(scope="module")
def events(runs: dict[str, tuple[Traced, ...]]) -> list[dict[str, Any]]:
    data = json.loads(trace_json(runs, SCORED_BY))
    assert data["displayTimeUnit"] == "ms"
    return data["traceEvents"]


def of_run(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    (pid,) = {e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == name}
    return [event for event in events if event["pid"] == pid]


def overlapping(events: list[dict[str, Any]]) -> int:
    """How many pairs of stages, of two frames, ran at the same time."""
    slices = [event for event in events if event["ph"] == "X" and event["name"] in STAGES]
    return sum(
        a["args"]["frame"] != b["args"]["frame"]
        and a["ts"] < b["ts"] + b["dur"] - 1
        and b["ts"] < a["ts"] + a["dur"] - 1
        for a, b in combinations(slices, 2)
    )


def test_every_event_has_what_its_phase_needs(events: list[dict[str, Any]]) -> None:
    needed = {
        "M": {"name", "pid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
        "s": {"name", "cat", "pid", "tid", "ts", "id"},
        "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
    }
    for event in events:
        assert needed[event["ph"]] <= event.keys()
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0


@pytest.mark.parametrize("mode", ["serial", "overlapped"])
def test_events_come_in_the_order_of_time_after_names(events: list[dict[str, Any]], mode: str) -> None:
    mine = of_run(events, mode)
    names = [event["ph"] == "M" for event in mine]
    assert names == sorted(names, reverse=True)
    times = [event["ts"] for event in mine if event["ph"] != "M"]
    assert times == sorted(times)
    assert times[0] == 0


def test_one_row_a_stream(events: list[dict[str, Any]]) -> None:
    rows = {
        mode: [e["args"]["name"] for e in of_run(events, mode) if e["name"] == "thread_name"]
        for mode in ("serial", "overlapped")
    }
    assert rows == {"serial": ["host", "serial"], "overlapped": ["host", "upload", "fast", "accurate", "download"]}
    for mode in rows:
        tids = {e["tid"]: e["args"]["name"] for e in of_run(events, mode) if e["name"] == "thread_name"}
        assert {e["tid"] for e in of_run(events, mode) if e["ph"] == "X"} == set(tids)


def test_slices_name_their_frame_and_n(events: list[dict[str, Any]]) -> None:
    refined = [e["args"] for e in of_run(events, "overlapped") if e["ph"] == "X" and e["name"] == "accurate"]
    assert [arguments["frame"] for arguments in refined] == list(range(8))
    assert {arguments["n"] for arguments in refined} == {8}
    assert all("n" not in e["args"] for e in events if e["ph"] == "X" and e["name"] == "fast")


def test_no_slices_of_one_row_overlap(events: list[dict[str, Any]]) -> None:
    slices = [event for event in events if event["ph"] == "X"]
    for row in {(event["pid"], event["tid"]) for event in slices}:
        mine = [event for event in slices if (event["pid"], event["tid"]) == row]
        for before, after in pairwise(mine):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.01


def test_stages_of_two_frames_overlap_in_overlapped_mode_and_never_in_serial(events: list[dict[str, Any]]) -> None:
    assert overlapping(of_run(events, "serial")) == 0
    assert overlapping(of_run(events, "overlapped")) >= 4


def test_arrows_go_from_scores_to_their_refinement(events: list[dict[str, Any]]) -> None:
    for mode in ("serial", "overlapped"):
        mine = of_run(events, mode)
        starts, ends = ({e["id"]: e for e in mine if e["ph"] == phase} for phase in "sf")
        assert len(starts) == 8
        assert starts.keys() == ends.keys()
        for number, start in starts.items():
            source, target = (slice_at(mine, e["tid"], e["ts"]) for e in (start, ends[number]))
            assert (source["name"], target["name"]) == STAGES
            assert source["args"]["frame"] == target["args"]["frame"]


def slice_at(events: list[dict[str, Any]], tid: int, ts: float) -> dict[str, Any]:
    (found,) = [e for e in events if e["ph"] == "X" and e["tid"] == tid and e["ts"] <= ts <= e["ts"] + e["dur"]]
    return found


def test_ids_of_arrows_differ_between_runs(events: list[dict[str, Any]]) -> None:
    ids = [event["id"] for event in events if event["ph"] == "s"]
    assert len(ids) == len(set(ids)) == 16


def spans(*named: tuple[str, str, float, float]) -> Sequence[Traced]:
    return [Traced(0, tuple(Span(*span) for span in named), 1.0)]


def test_a_frame_that_was_not_refined_has_no_arrow() -> None:
    found = trace_events(1, "run", spans(("fast", "fast", 0, 1), ("decide accurate", "host", 1, 1.5)), SCORED_BY)
    assert {event["ph"] for event in found} == {"M", "X"}


def test_rows_are_in_the_order_of_the_first_frame_behind_the_host() -> None:
    mixed = spans(("download", "download", 3, 4), ("decide b", "host", 1, 2), ("a", "a", 0, 1), ("b", "b", 2, 3))
    assert streams_of(mixed) == ["host", "a", "b", "download"]


def test_an_empty_run_is_a_trace_all_the_same() -> None:
    assert {event["ph"] for event in trace_events(1, "run", [], {})} == {"M"}
    assert np.isfinite(json.loads(trace_json({"run": []}, {}))["traceEvents"][0]["pid"])
