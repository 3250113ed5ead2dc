"""What a bench found, as tables and lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from cascadert.cli.console import out

_LEAST_WIDTH = 124

if TYPE_CHECKING:
    from cascadert.runtime.profiling.report import BenchReport
    from cascadert.runtime.profiling.times import Times


def print_bench(report: BenchReport, outputs: Sequence[Path]) -> None:
    """Print a report as tables."""
    from cascadert.jetson.policies import show_policy

    settings = report.bench.settings["overlapped"]
    frames, rounds = len(report.bench.passes["overlapped"][0].frames), len(report.bench.passes["overlapped"])
    out.print(f"{report.bench.manifest.spec.name} on {report.bench.device} ({report.origin.machine})", soft_wrap=True)
    decisions = ", ".join(f"{stage}: {show_policy(policy)}" for stage, policy in report.bench.policies.items())
    out.print(
        f"{frames} frames of {report.origin.source}, {rounds} rounds; {decisions or 'no decision'}", soft_wrap=True
    )
    out.print(f"threads {_threads(settings.threads)}, {report.bench.slots} slots")
    _print_whole(_stage_table(report))
    _print_whole(_period_table(report))
    _print_gains(report)
    _print_where(report)
    _print_memory(report)
    for written in outputs:
        out.print(f"wrote {written}", soft_wrap=True)
    out.print(f"by {report.origin.command}", soft_wrap=True, markup=False)


def _print_whole(table: Table) -> None:
    """Print a table at least as wide as its numbers: a number that is cut off is none."""
    Console(file=out.file, width=max(out.width, _LEAST_WIDTH), highlight=False).print(table)


def _threads(threads: object) -> str:
    return (
        ", ".join(f"{name} {count}" for name, count in threads.items()) if isinstance(threads, dict) else str(threads)
    )


def _stage_table(report: BenchReport) -> Table:
    """Stages alone: t_f, t_b(n), and what batching saves."""
    from cascadert.runtime.profiling.figures import batching

    ratios = batching(report.bench.profile)
    numbers = (Column(name, justify="right") for name in ("n", "ms", "q10 to q90", "ms per block", "over t_b(1)"))
    table = Table(Column("stage, alone", no_wrap=True), *numbers, box=SIMPLE_HEAD, padding=(0, 1))
    for stage, by_n in report.bench.profile.stages.items():
        for n, times in by_n.items():
            ratio = ratios.get(stage, {}).get(n or 0)
            table.add_row(
                stage, "frame" if n is None else str(n), f"{times.median:.2f}", _range(times),
                "" if n is None else f"{times.median / n:.2f}", "" if ratio is None else f"{ratio:.2f}",
            )  # fmt: skip
    return table


def _period_table(report: BenchReport) -> Table:
    """Measured against predicted."""
    from cascadert.runtime.profiling.figures import predicted_period_ms

    predicted = predicted_period_ms(report.bench)
    headers = ("threads", "period ms", "q10 to q90", "predicted", "ratio", "overlap", "latency p50", "p90")
    numbers = (Column(name, justify="right") for name in headers)
    table = Table(Column("run", no_wrap=True), *numbers, box=SIMPLE_HEAD, padding=(0, 1))
    for mode, times in report.periods.items():
        expected = predicted.get(mode)
        latency = report.latency(mode)
        table.add_row(
            mode.replace("_", " "), _threads(report.bench.settings[mode].threads), f"{times.median:.2f}", _range(times),
            "" if expected is None else f"{expected:.2f}",
            "" if expected is None else f"{times.median / expected:.2f}",
            f"{report.overlap_ratios[mode].median:.2f}", f"{latency.median:.1f}", f"{latency.spread[1]:.1f}",
        )  # fmt: skip
    return table


def _print_gains(report: BenchReport) -> None:
    names = {"serial": "serial with the same threads", "best_serial": f"the best serial ({report.best_serial})"}
    for name, times in report.gains.items():
        over = names[name].replace("_", " ")
        out.print(f"overlapped gains [bold]{times.median:.2f}[/bold] ({_range(times)}) over {over}")
    for stage, times in report.scalings.items():
        out.print(f"{stage}: all threads make it {times.median:.2f} times as fast ({_range(times)})")
    same = {True: "are the same", False: "[bold red]DIFFER[/bold red]", None: "are not compared: decisions are timed"}
    out.print(f"labels of all runs {same[report.bench.same_labels]}")


def _print_where(report: BenchReport) -> None:
    parts, found = report.serial_parts, report.bottleneck
    serial = ", ".join(f"{name.replace('_', ' ')} {milliseconds:.2f}" for name, milliseconds in parts.items())
    out.print(f"serial, ms per frame: {serial}", soft_wrap=True)
    out.print(
        f"overlapped, ms per frame: {found.stream} alone {found.alone_ms:.2f}, slow-down {found.slow_down_ms:.2f}, "
        f"waits for its input {found.input_ms:.2f}, hand-over {found.hand_over_ms:.2f}", soft_wrap=True,
    )  # fmt: skip
    for stage, times in report.slow_downs.items():
        out.print(f"{stage} beside the others: {times.median:.2f} times its time alone ({_range(times)})")
    host = report.host_ms()
    out.print(", ".join(f"{name} {milliseconds:.3f} ms" for name, milliseconds in host.items()), soft_wrap=True)


def _print_memory(report: BenchReport) -> None:
    predicted = report.memory.predicted
    out.print(
        f"memory, MiB: predicted {_mib(predicted.total_bytes)} (weights {_mib(predicted.weight_bytes)}, activations "
        f"{_mib(predicted.activation_bytes)}, slots {_mib(predicted.slot_bytes)})", soft_wrap=True,
    )  # fmt: skip
    for mode, found in report.memory.measured.items():
        more = found.peak_resident_bytes - found.before_bytes
        out.print(
            f"{mode}: peak resident {_mib(found.peak_resident_bytes)}, {_mib(more)} of it beyond the interpreter; "
            f"slots and staging {_mib(found.buffer_bytes)}", soft_wrap=True,
        )  # fmt: skip


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f}"


def _range(times: Times) -> str:
    low, high = times.spread
    return f"{low:.2f} to {high:.2f}"
