"""What the demo shows: panels side by side in a video, and one frame under the other on a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascadert.jetson.heat import entropy_heat
from cascadert.jetson.images import Image8
from cascadert.jetson.outputs import refined_blocks
from cascadert.jetson.overlay import OverlayOptions, colourise, draw_overlay
from cascadert.jetson.panels import Panel, draw_sheet
from cascadert.runtime.results import Result
from cascadert.spec import CascadeSpec

HEAT_BITS = 3.0
"""Entropy that is drawn yellow: a tie between eight classes."""

_LABEL_OPACITY = 0.8


@dataclass(frozen=True)
class Shown:
    """One frame of the video: its number, its panels in reading order, and the exact labels as colours."""

    name: str
    panels: tuple[Panel, ...]
    truth: Image8


def draw_panels(name: str, image: Image8, truth: Image8, result: Result, spec: CascadeSpec) -> Shown:
    """Draw the frame, the fast network's labels, the cascade's with refined blocks outlined, and the entropy."""
    first, grid = spec.stages[0].name, spec.make_grid()
    fast, entropy = result.tensors[f"{first}.labels"][0], result.tensors[f"{first}.entropy"][0]
    boxes = tuple(grid.owned_box(index) for blocks in refined_blocks(result, grid) for index in blocks)
    look = OverlayOptions(opacity=_LABEL_OPACITY)
    painted = [
        draw_overlay(image, labels, spec.classes, grid=grid, options=look) for labels in (fast, result.labels[0])
    ]
    panels = (
        Panel("frame", image),
        Panel("fast network", painted[0]),
        Panel(f"cascade: {len(boxes)} of {grid.size} blocks refined", painted[1], boxes),
        Panel(f"uncertainty: black 0, yellow {HEAT_BITS:g} bits", entropy_heat(entropy, HEAT_BITS)),
    )
    return Shown(name, panels, colourise(truth, spec.classes))


def draw_side_by_side(shown: Shown, panel_width: int) -> Image8:
    """Set the panels of a frame in two columns, each under its title; RGB with even sides, as video needs."""
    return draw_sheet([shown.panels[i : i + 2] for i in range(0, len(shown.panels), 2)], panel_width)


def draw_contact_sheet(frames: Sequence[Shown], panel_width: int) -> Image8:
    """Set some frames under each other: their panels, then the exact labels."""
    rows = []
    for shown in frames:
        panels = (*shown.panels, Panel("exact labels", shown.truth))
        first = Panel(f"{panels[0].title} {shown.name}", panels[0].picture)
        rows.append((first, *panels[1:]))
    return draw_sheet(rows, panel_width)
