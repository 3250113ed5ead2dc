"""The fault injection table: what happens to every frame when something goes wrong.

    python -m bench.faults -o bench/results/faults.json

Run from the root of the checkout. Every row is a run of the planted cascade of `tests/runtime` (two stages in numpy;
"accurate" refines every block) on the host, overlapped and serial, with memory shared by host and device and apart. The
tests beside it (tests/runtime/test_faults.py, test_hangs.py, test_closing.py) assert what this table shows.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cascadert.errors import CascadertError
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Submission
from tests.runtime.faults import (
    SETUPS,
    Fate,
    Faults,
    Hold,
    Raise,
    faulty_pipeline,
    names,
    numbered,
    our_threads,
    run,
    soon,
    submit,
    take,
)

FRAMES, TIMEOUT_S, CLOSE_S = 12, 0.3, 1.0
NO_FAULTS = Faults()
SETTLE_S = 0.3  # for threads that were abandoned to notice


@dataclass
class Outcome:
    """What one fault did."""

    fates: list[str] = field(default_factory=list)
    raised: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault: how the pipeline is opened, and what is done with it. What is held is released at the very end."""

    name: str
    use: Callable[[Pipeline, Outcome], None]
    faults: Faults = NO_FAULTS
    options: dict[str, Any] = field(default_factory=dict)
    hold: Hold | None = None
    drain: bool = False


def submissions(count: int = FRAMES) -> Iterator[Submission]:
    return (Submission(numbered(i), context=i) for i in range(count))


def in_turn(pipeline: Pipeline, outcome: Outcome) -> None:
    """Submit and take, going on after failures."""
    fates: list[Fate] = []
    try:
        run(pipeline, range(FRAMES), fates)
    except CascadertError as error:
        outcome.raised = type(error).__name__
    outcome.fates += names(fates)


def streaming(source: Callable[[], Iterator[Submission]], leave_after: int = 0, slow_s: float = 0.0) -> Any:
    """Iterate over a stream, perhaps slowly, perhaps not to its end."""

    def use(pipeline: Pipeline, outcome: Outcome) -> None:
        results = pipeline.stream(source())
        try:
            for _ in results:
                outcome.fates.append("delivered")
                time.sleep(slow_s)
                if len(outcome.fates) == leave_after:
                    results.close()
        except Exception as error:
            outcome.raised = type(error).__name__

    return use


def camera() -> Iterator[Submission]:
    for submission in submissions():
        time.sleep(0.005)
        yield submission


def failing_source() -> Iterator[Submission]:
    yield from submissions(FRAMES // 2)
    raise ConnectionError("camera unplugged")


def blocking_source(hold: Hold) -> Callable[[], Iterator[Submission]]:
    def source() -> Iterator[Submission]:
        yield from submissions(FRAMES // 2)
        hold(0)

    return source


def fill(pipeline: Pipeline, outcome: Outcome) -> None:
    """Submit as many frames as fit, and take nothing."""
    try:
        for number in range(FRAMES):
            submit(pipeline, number, timeout_s=0.05)
    except CascadertError as error:
        outcome.raised = type(error).__name__


def table() -> list[Fault]:
    """The faults, each anew: latches are used once."""
    hangs, blocked, queueing = Hold(on=(4,)), Hold(), Hold(on=(1,))
    closing = Hold()
    slow_close = threading.Timer(0.2, closing.released.set)

    def close_held(pipeline: Pipeline, outcome: Outcome) -> None:
        fill(pipeline, outcome)
        slow_close.start()

    timeout = {"timeout_s": TIMEOUT_S}
    return [
        Fault("nothing", in_turn),
        Fault("fast raises on frame 4", in_turn, Faults({"fast": Raise(on=(4,))})),
        Fault("accurate raises on frame 4", in_turn, Faults({"accurate": Raise(on=(4,))})),
        Fault("accurate raises when queued, frame 4", in_turn, Faults(queueing={"accurate": Raise(on=(4,))})),
        Fault("accurate raises on every frame", in_turn, Faults({"accurate": Raise()})),
        Fault("accurate raises on frame 4 of a stream", streaming(submissions), Faults({"accurate": Raise(on=(4,))})),
        Fault("accurate hangs on frame 4", in_turn, Faults({"accurate": hangs}), timeout, hangs),
        Fault("accurate hangs when queued, frame 1", fill, Faults(queueing={"accurate": queueing}), timeout, queueing),
        Fault("source ends", streaming(submissions)),
        Fault("source raises after 6", streaming(failing_source)),
        Fault("source blocks after 6, consumer leaves", streaming(blocking_source(blocked), 6), hold=blocked),
        Fault("sink slow, back-pressure", streaming(submissions, slow_s=0.01)),
        Fault("sink slow, drop-oldest", streaming(camera, slow_s=0.02), options={"overflow": "drop-oldest"}),
        Fault("consumer stops after 3", streaming(submissions, leave_after=3)),
        Fault("closed in flight, cancel", close_held, Faults({"accurate": closing}), hold=closing),
        Fault("closed in flight, drain", fill, drain=True),
    ]


def inject(fault: Fault, setup: tuple[str, bool]) -> dict[str, Any]:
    """Run one fault, and say what became of every frame."""
    outcome, pipeline = Outcome(), faulty_pipeline(setup, fault.faults, **fault.options)
    fault.use(pipeline, outcome)
    started = time.perf_counter()
    ended = pipeline.close(drain=fault.drain, timeout_s=CLOSE_S)
    close_s = time.perf_counter() - started
    outcome.fates += names(take(pipeline) for _ in range(pipeline.counts.in_flight))
    time.sleep(SETTLE_S if our_threads() else 0.0)
    left = sorted(our_threads())
    if fault.hold is not None:
        fault.hold.released.set()
    assert soon(lambda: not our_threads()), "threads stay after what was held was released"
    counts = asdict(pipeline.counts)
    assert pipeline.counts.in_flight == 0, "a frame without a fate"
    return {
        "fault": fault.name,
        "mode": setup[0],
        "memory": "shared" if setup[1] else "apart",
        **counts,
        "causes": {name: count for name, count in Counter(outcome.fates).items() if name != "delivered"},
        "raised": outcome.raised,
        "closed": ended,
        "close_ms": round(close_s * 1e3, 1),
        "threads_left": left,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    heads = ["fault", "mode", "memory", "submitted", "delivered", "failed", "cancelled", "dropped"]
    lines = [" | ".join([*heads, "causes", "raised", "close ms", "threads left"]), "|".join(["---"] * 12)]
    for row in rows:
        causes = ", ".join(f"{count} × {name}" for name, count in row["causes"].items())
        rest = [causes, row["raised"], f"{row['close_ms']:.0f}", ", ".join(row["threads_left"])]
        lines.append(" | ".join([*(str(row[head]) for head in heads), *rest]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = [inject(fault, setup) for setup in SETUPS for fault in table()]
    print(markdown(rows))
    if arguments.output:
        settings = {"frames": FRAMES, "timeout_s": TIMEOUT_S, "close_timeout_s": CLOSE_S, "cpus": os.cpu_count()}
        arguments.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
