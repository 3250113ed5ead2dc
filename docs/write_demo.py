"""Writes what README.md shows of the demo: picture, output of the four commands, table. Run it after `make demo`.

    .venv/bin/python docs/write_demo.py

Commands run anew, in a scratch folder, against the specification in the package; numbers come from demo/demo.json.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
from PIL import Image

ROOT = Path(__file__).parents[1]
README, DEMO, IMAGES = ROOT / "README.md", ROOT / "demo", ROOT / "docs" / "images"
PICTURE_FRAME, PICTURE_WIDTH = 25, 1200
SHEET_WIDTH, SHEET_SHARE = 1200, 1 / 2  # every other street is enough
COMMANDS = (
    "cascadert export src/cascadert/jetson/specs/scenes.toml -o street.bundle",
    "cascadert parity street.bundle --frames demo/frames",
    "cascadert build-engine street.bundle --target rtx-40 -o street.rtx-40",
    "cascadert run street.bundle demo/frames -o overlay.mp4 --stats stats.json",
)


def main() -> None:
    """Write the pictures and the two blocks."""
    summary = json.loads((DEMO / "demo.json").read_text(encoding="utf-8"))["summary"]
    write_pictures()
    text = README.read_text(encoding="utf-8")
    text = put(text, "commands", "```console\n" + "\n".join(transcript()) + "\n```")
    README.write_text(put(text, "demo", table(summary)), encoding="utf-8")


def put(text: str, name: str, content: str) -> str:
    """Replace what stands between the two comments of that name."""
    pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
    found, count = re.subn(pattern, lambda match: match[1] + content + match[2], text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"README.md: has {count} blocks <!-- {name} -->; keep one")
    return found


def write_pictures() -> None:
    """Take one frame of the demo's video, and the first streets of its contact sheet."""
    with av.open(str(DEMO / "demo.mp4")) as video:
        frame = next(f for i, f in enumerate(video.decode(video=0)) if i == PICTURE_FRAME).to_image()
    sheet = Image.open(DEMO / "contact_sheet.png").convert("RGB")
    sheet = sheet.crop((0, 0, sheet.width, round(sheet.height * SHEET_SHARE)))
    IMAGES.mkdir(exist_ok=True)
    for picture, width, name in ((frame, PICTURE_WIDTH, "demo.jpg"), (sheet, SHEET_WIDTH, "contact_sheet.jpg")):
        height = round(picture.height * width / picture.width)
        picture.resize((width, height), Image.Resampling.LANCZOS).save(IMAGES / name, quality=86, subsampling=0)


def transcript() -> list[str]:
    """Run the commands where their paths mean what they mean in the project, and leave the list of ports out."""
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("src", "demo"):
            (Path(scratch) / name).symlink_to(ROOT / name)
        for command in COMMANDS:
            words = [str(Path(sys.executable).with_name("cascadert")), *shlex.split(command)[1:]]
            done = subprocess.run(words, cwd=scratch, env=environment, capture_output=True, text=True, check=True)
            shown = [line.rstrip() for line in done.stdout.splitlines()]
            kept = [line for line in shown if line.strip() and line != "ports" and not line.lstrip().startswith(("├", "│", "└"))]
            lines += [f"$ {command}", *kept, ""]
    return lines[:-1]


def table(summary: dict[str, Any]) -> str:
    """Return the demo's table of quality against cost."""
    sweep, video = summary["sweep"], summary["video"]
    lines = ["| decision | mIoU, % | blocks refined | ms per frame |", "|---|---|---|---|"]
    for row in sweep["rows"]:
        cells = f"{100 * row['mean_iou']:.1f} | {row['mean_n']:.1f} of {sweep['blocks']} | {row['median_ms']:.0f}"
        lines.append(f"| {row['name']} | {cells} |")
    note = (
        f"On {sweep['frames']} frames that the networks never saw, on {summary['machine']}, with ONNX Runtime "
        f"{summary['versions']['onnxruntime']} while other work ran beside it; {video['frames']} frames at "
        f"θ = {video['theta']:g}: {100 * video['fast_mean_iou']:.1f} % fast, {100 * video['cascade_mean_iou']:.1f} % "
        f"as a cascade."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
