"""What is seen of a run while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_STEPS = 100


class StepBar:
    """A progress bar on a terminal, a line every hundred steps elsewhere."""

    def __init__(self, name: str, steps: int, done: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
        self.name, self.steps, self.live = name, steps, self.progress.console.is_terminal
        self.task = self.progress.add_task(name, total=steps, completed=done, loss="")

    def __enter__(self) -> Callable[[Sequence[float], float], None]:
        if self.live:
            self.progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.progress.stop()

    def _advance(self, losses: Sequence[float], minutes: float) -> None:
        recent = losses[-50:]
        loss = f"loss {sum(recent) / len(recent):.4f}"
        self.progress.update(self.task, completed=len(losses), loss=loss)
        if not self.live and len(losses) % LINE_EVERY_STEPS == 0:
            print(f"{self.name}: step {len(losses)} of {self.steps}, {minutes:.1f} min, {loss}", flush=True)
