"""A frame of an evaluation on one sheet: what each side labels, where it is wrong, and what the oracle would choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.evaluation import EvaluatedFrame, Labels
from cascadert.calibration.oracles import error_map
from cascadert.classes import IGNORE_LABEL, ClassSet
from cascadert.geometry import Grid
from cascadert.jetson.heat import entropy_heat
from cascadert.jetson.images import Image8
from cascadert.jetson.overlay import OverlayOptions, colourise, draw_overlay
from cascadert.jetson.panels import Box, Panel, draw_sheet

Colour = tuple[int, int, int]

WRONG: Colour = (214, 40, 57)
"""Of pixels that are wrong, and on the oracle's panel of those that only the faster stage has right."""

GAINED: Colour = (32, 150, 90)
"""Of pixels that only the better stage has right."""

NEITHER: Colour = (232, 170, 60)
"""Of pixels that neither has right."""

UNLABELLED: Colour = (122, 126, 134)
_LABEL_OPACITY = 0.8
_PALE = 0.35


@dataclass(frozen=True)
class SheetLook:
    """How many panels are side by side, and how wide each is in pixels."""

    columns: int
    panel_width: int


def draw_evaluated(frame: EvaluatedFrame, classes: ClassSet, grid: Grid, look: SheetLook) -> Image8:
    """Draw all cameras of a frame, one under the other; RGB uint8.

    Args:
        frame: what was evaluated.
        classes: names and colours.
        grid: the cascade's blocks.
        look: how many panels, and how large.
    """
    rows: list[list[Panel]] = []
    for camera in range(len(frame.sample.truth)):
        panels = [*_labels(frame, camera, classes, grid), *_errors(frame, camera, grid), *_maps(frame, camera)]
        rows += [panels[start : start + look.columns] for start in range(0, len(panels), look.columns)]
    return draw_sheet(rows, look.panel_width)


def _labels(frame: EvaluatedFrame, camera: int, classes: ClassSet, grid: Grid) -> Iterator[Panel]:
    sample, look = frame.sample, OverlayOptions(opacity=_LABEL_OPACITY)
    image, truth = sample.image[camera], sample.truth[camera]
    yield Panel(f"frame {sample.name}", image)
    yield Panel("exact labels", colourise(truth, classes))
    for name in (frame.faster, frame.better):
        labels = frame.labels.stages[name][camera]
        yield Panel(f"labels of {name}", draw_overlay(image, labels, classes, grid=grid, options=look))


def _errors(frame: EvaluatedFrame, camera: int, grid: Grid) -> Iterator[Panel]:
    image, truth = frame.sample.image[camera], frame.sample.truth[camera]
    fast, accurate = (frame.labels.stages[name][camera] for name in (frame.faster, frame.better))
    refined, chosen = _boxes(frame.refined or (), camera, grid), _boxes(frame.oracle.blocks, camera, grid)
    for name, labels in ((frame.faster, fast), (frame.better, accurate)):
        yield Panel(
            f"errors of {name}: {_wrong(labels, truth)}", _paint(image, truth, [(error_map(labels, truth), WRONG)])
        )
    cascade = frame.labels.cascade[camera]
    blocks = "" if frame.refined is None else f"; {len(refined)} of {grid.size} blocks"
    title = f"errors of the cascade: {_wrong(cascade, truth)}{blocks}"
    yield Panel(title, _paint(image, truth, [(error_map(cascade, truth), WRONG)]), refined)
    fast_wrong, accurate_wrong = error_map(fast, truth), error_map(accurate, truth)
    who = [
        (fast_wrong & ~accurate_wrong, GAINED),
        (~fast_wrong & accurate_wrong, WRONG),
        (fast_wrong & accurate_wrong, NEITHER),
    ]
    yield Panel(f"oracle: {len(chosen)} of {grid.size} blocks", _paint(image, truth, who), chosen)


def _maps(frame: EvaluatedFrame, camera: int) -> Iterator[Panel]:
    found = frame.uncertainty
    if found is None:
        return
    scale = f"yellow {found.most:.3g}{' bits' if found.unit == 'bits' else ''}"
    for name, values in found.maps.items():
        yield Panel(f"{name}: black 0, {scale}", entropy_heat(values[camera], found.most))


def _wrong(labels: Labels, truth: Labels) -> str:
    """Return the share of labelled pixels that are wrong."""
    known = max(int(np.count_nonzero(truth != IGNORE_LABEL)), 1)
    return f"{np.count_nonzero(error_map(labels, truth)) / known:.1%}"


def _boxes(blocks: Iterable[int], camera: int, grid: Grid) -> tuple[Box, ...]:
    return tuple(grid.owned_box(block % grid.size) for block in blocks if block // grid.size == camera)


def _paint(image: Image8, truth: Labels, where: Iterable[tuple[NDArray[np.bool_], Colour]]) -> Image8:
    """Paint pixels over a pale frame, grey where nothing is known."""
    pale = (_PALE * image.mean(axis=-1, keepdims=True) + (1 - _PALE) * 255).astype(np.uint8)
    painted = np.repeat(pale, 3, axis=-1)
    for pixels, colour in ((truth == IGNORE_LABEL, UNLABELLED), *where):
        painted[pixels] = colour
    return painted
