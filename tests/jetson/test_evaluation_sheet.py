"""The sheet of an evaluated frame: colours and outlines lie where the labels say."""

import numpy as np

from cascadert.calibration.evaluation import CascadeLabels, EvaluatedFrame, OracleChoice, Sample, UncertaintyMaps
from cascadert.classes import CAMVID
from cascadert.geometry import Grid
from cascadert.jetson.evaluation_gallery import Gallery
from cascadert.jetson.evaluation_sheet import GAINED, NEITHER, UNLABELLED, WRONG, SheetLook, draw_evaluated
from cascadert.jetson.images import Image8
from cascadert.spec import CascadeSpec, parse_spec

GRID = Grid(200, 400, (100, 100), (100, 100))
LOOK = SheetLook(columns=4, panel_width=400)
TITLE_PX = 28
GAP_PX = 4


def frame(name: str = "a", cameras: int = 1, maps: dict[str, np.ndarray] | None = None) -> EvaluatedFrame:
    """Quarters from left to right: both right, only the better, only the faster, neither; the last row is unlabelled.

    The cascade refines block 1, the oracle blocks 1 and 5.
    """
    truth = np.zeros((cameras, 200, 400), np.uint8)
    fast, accurate = truth.copy(), truth.copy()
    fast[..., 100:200] = fast[..., 300:] = accurate[..., 200:] = 3
    truth[:, 190:] = 255
    cascade, best = fast.copy(), fast.copy()
    cascade[:, :100, 100:200] = best[:, :, 100:200] = 0
    sample = Sample(name, np.full((cameras, 200, 400, 3), 100, np.uint8), {}, truth)
    labels = CascadeLabels({"fast": fast, "accurate": accurate}, cascade, {"accurate": (1,)})
    uncertainty = None if maps is None else UncertaintyMaps(maps, 2.0, "bits")
    return EvaluatedFrame(sample, labels, "fast", "accurate", (1,), OracleChoice((1, 5), best), uncertainty)


def panel(sheet: Image8, row: int, column: int) -> Image8:
    top, left = row * (TITLE_PX + 200 + GAP_PX) + TITLE_PX, column * (400 + GAP_PX)
    return sheet[top : top + 200, left : left + 400]


def colours(picture: Image8, y: int = 50) -> list[tuple[int, ...]]:
    return [tuple(picture[y, x].tolist()) for x in (50, 150, 250, 350)]


def test_errors_are_painted_where_they_are() -> None:
    sheet = draw_evaluated(frame(), CAMVID, GRID, LOOK)
    assert sheet.shape == (2 * (TITLE_PX + 200) + GAP_PX, 4 * 400 + 3 * GAP_PX, 3)
    pale = tuple(panel(sheet, 1, 0)[50, 50].tolist())
    assert pale not in (WRONG, GAINED, NEITHER, UNLABELLED)
    assert colours(panel(sheet, 1, 0)) == [pale, WRONG, pale, WRONG]
    assert colours(panel(sheet, 1, 1)) == [pale, pale, WRONG, WRONG]
    assert colours(panel(sheet, 1, 2)) == [pale, pale, pale, WRONG]
    assert colours(panel(sheet, 1, 2), y=150) == [pale, WRONG, pale, WRONG]
    assert colours(panel(sheet, 1, 3)) == [pale, GAINED, WRONG, NEITHER]
    assert colours(panel(sheet, 1, 0), y=196) == [UNLABELLED] * 4


def test_blocks_of_cascade_and_oracle_are_outlined() -> None:
    sheet = draw_evaluated(frame(), CAMVID, GRID, LOOK)
    for column, blocks in ((2, [(0, 100)]), (3, [(0, 100), (100, 100)])):
        white = (panel(sheet, 1, column) == 255).all(axis=-1)
        corners = [(y, x) for y in (0, 100) for x in (0, 100, 200, 300) if white[y + 1, x + 50]]
        assert corners == blocks


def test_labels_wear_their_classes_colours() -> None:
    sheet = draw_evaluated(frame(), CAMVID, GRID, LOOK)
    assert colours(panel(sheet, 0, 1))[0] == CAMVID.palette[0]
    assert colours(panel(sheet, 0, 1), y=196) == [(0, 0, 0)] * 4
    assert len(set(colours(panel(sheet, 0, 2)))) == 2


def test_cameras_and_maps_have_rows_of_their_own() -> None:
    maps = {"entropy": np.full((2, 50, 100), 2.0, np.float32), "epistemic": np.zeros((2, 200, 400), np.float32)}
    sheet = draw_evaluated(frame(cameras=2, maps=maps), CAMVID, GRID, LOOK)
    assert sheet.shape[0] == 6 * (TITLE_PX + 200) + 5 * GAP_PX
    for row in (2, 5):
        most, least = panel(sheet, row, 0), panel(sheet, row, 1)
        assert most.min(axis=(0, 1)).tolist() == [252, 255, 164]
        assert least.max() <= 4
    assert colours(panel(sheet, 4, 3))[1] == GAINED
    assert not (panel(sheet, 4, 3) == 255).all(axis=-1).any()  # the oracle's blocks are of the first camera


class _Folder:
    def __init__(self) -> None:
        self.names: list[str] = []

    def write(self, name: str, picture: Image8) -> None:
        assert picture.ndim == 3
        self.names.append(name)

    def __enter__(self) -> "_Folder":
        return self

    def __exit__(self, *exception: object) -> None:
        raise AssertionError("nobody opened it")


def test_a_gallery_keeps_the_worst_and_writes_all() -> None:
    stage = {"name": "fast", "model": "enet", "args": {"classes": 11}}
    spec: CascadeSpec = parse_spec(
        {
            "name": "x",
            "classes": "camvid",
            "frame": {"height": 200, "width": 400},
            "grid": {"block": 100},
            "stages": [stage],
        },
        "x",
    )
    folder = _Folder()
    gallery = Gallery(spec, 2, folder)
    for name, right in (("a", 40), ("b", 0), ("c", 90), ("d", 10)):
        shown = frame(name)
        shown.labels.cascade[:, 100 : 100 + right, 100:200] = 0
        gallery.show(shown)
    assert [(sheet.name, sheet.missed_pixels) for sheet in gallery.sheets()] == [("b", 9000), ("d", 8000)]
    assert folder.names == ["a", "b", "c", "d"]
