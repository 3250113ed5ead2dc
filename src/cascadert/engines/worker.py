"""The process that holds TensorRT while one engine is built: `python -m cascadert.engines.worker REQUEST PIPE`.

A process of its own, because a builder that crashes or runs out of memory must not take the caller with it, and because
only its end returns all its memory.

REQUEST is a JSON file (`BuildRequest`), PIPE the number of an open file descriptor that takes one JSON object a line:

* `{"kind": "progress", "phase": ..., "step": ..., "steps": ..., "fraction": ...}`
* and, last, one of `{"kind": "done", "seconds": ..., "versions": {...}, "log": [...], "network": [...]}`,
  `{"kind": "refused", "by": "parser" | "builder" | "refitter", "faults": [{"text": ..., "node": ..., "index": ...}]}`,
  `{"kind": "unfit", "found": ..., "remedy": ...}`, and `{"kind": "missing", "module": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from cascadert.engines.build_request import BuildRequest
from cascadert.engines.builder import Refused, Unfit, build
from cascadert.engines.refitter import refit


def send(report: TextIO, message: dict[str, Any]) -> bool:
    """Write one line to the pipe; false when its reader is gone."""
    try:
        report.write(json.dumps(message) + "\n")
        report.flush()
    except BrokenPipeError:
        return False
    return True


def serve(request: BuildRequest, report: TextIO) -> dict[str, Any]:
    """Build, or refit where there is something to refit, and return the last message."""
    make = refit if Path(request.base).exists() else build
    try:
        return {"kind": "done", **asdict(make(request, lambda message: send(report, message)))}
    except ModuleNotFoundError as error:
        return {"kind": "missing", "module": error.name}
    except Refused as refusal:
        return {"kind": "refused", "by": refusal.by, "faults": refusal.faults}
    except Unfit as unfit:
        return {"kind": "unfit", "found": unfit.found, "remedy": unfit.remedy}


def main(request: str, pipe: str) -> None:
    """Serve one request."""
    with os.fdopen(int(pipe), "w", encoding="utf-8") as report:
        send(report, serve(BuildRequest.read(Path(request)), report))


if __name__ == "__main__":
    main(*sys.argv[1:])
