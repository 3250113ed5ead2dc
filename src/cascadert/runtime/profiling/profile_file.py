"""A profile on disk: the measured costs of a cascade's decisions, for latency budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascadert.bundle import BundleManifest
from cascadert.errors import InvalidRequest
from cascadert.runtime.costs import StageCosts, parse_costs
from cascadert.runtime.profiling.report import BENCH_SCHEMA, WHOLE_FRAME

PROFILE_SCHEMA = "cascadert-profile-1"
_REMEDY = "measure one with `cascadert bench --save-profile FILE`"
_TIMES_REMEDY = "measure with `cascadert bench --json > FILE`"
_WHOLE = " on a whole frame"


def profile_json(manifest: BundleManifest, device: str, costs: Mapping[str, StageCosts]) -> str:
    """Return costs as JSON, with the cascade and the device that they belong to."""
    measured = {stage: asdict(cost) for stage, cost in costs.items()}
    head = {"schema": PROFILE_SCHEMA, "name": manifest.spec.name, "device": device}
    return json.dumps({**head, "costs": measured}, indent=1) + "\n"


def read_profile(path: Path, manifest: BundleManifest) -> dict[str, StageCosts]:
    """Read the costs of a cascade's stages: from a profile, or from the report of a bench.

    Raises:
        InvalidRequest: no such file, no profile, or one of another cascade.
    """
    data = _read(path, _REMEDY)
    costs = _costs_in(path, data)
    _check_name(path, data, manifest, _REMEDY)
    deciding = {stage.name for stage in manifest.stages if stage.select is not None}
    if costs.keys() != deciding:
        found = f"has costs of {sorted(costs)} where {sorted(deciding)} decide"
        raise InvalidRequest(str(path), found, _REMEDY)
    return {stage: parse_costs(cost, f"{path}: costs.{stage}") for stage, cost in costs.items()}


def read_stage_ms(path: Path, manifest: BundleManifest) -> dict[str, float]:
    """Read the time of every stage on a whole frame, from the report of a bench.

    Raises:
        InvalidRequest: no such file, no report of a bench, one of another cascade, or a stage without such a time.
    """
    found = {}
    for stage, times in _measured(path, manifest, _WHOLE)["stage_ms"].items():
        one = times.get(WHOLE_FRAME, times.get("1"))
        if one is None:
            raise _lacking(path, stage, _WHOLE)
        found[stage] = one
    return found


def read_stage_times(
    path: Path, manifest: BundleManifest
) -> tuple[dict[str, dict[int | None, float]], dict[str, float]]:
    """Read the times of every stage by n, none for a whole frame, and those of copies, from the report of a bench.

    Raises:
        InvalidRequest: no such file, no report of a bench, one of another cascade, or a stage without times.
    """
    data = _measured(path, manifest, "")
    stages = {
        stage: {None if n == WHOLE_FRAME else int(n): ms for n, ms in times.items()}
        for stage, times in data["stage_ms"].items()
    }
    return stages, data["copy_ms"]


def _measured(path: Path, manifest: BundleManifest, wanted: str) -> dict[str, dict[str, Any]]:
    """Return "stage_ms", by stage and n, and "copy_ms" of a bench's report, both of plain numbers."""
    data = _read(path, _TIMES_REMEDY)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != BENCH_SCHEMA:
        saved = "is a profile, which does not have the time of every stage"
        raise InvalidRequest(str(path), saved if schema == PROFILE_SCHEMA else "is no report of a bench", _TIMES_REMEDY)
    _check_name(path, data, manifest, _TIMES_REMEDY)
    measured, copies = data.get("stage_ms"), data.get("copy_ms")
    found = {}
    for stage in manifest.stages:
        times = measured.get(stage.name) if isinstance(measured, dict) else None
        if not isinstance(times, dict) or not times or not all(map(_is_time, times.items())):
            raise _lacking(path, stage.name, wanted)
        found[stage.name] = {n: float(ms) for n, ms in times.items()}
    if copies is None:  # nothing is copied where stages run on the host
        return {"stage_ms": found, "copy_ms": {}}
    if not isinstance(copies, dict) or not all(isinstance(ms, int | float) and ms >= 0 for ms in copies.values()):
        raise InvalidRequest(f"{path}: copy_ms", "has something else than milliseconds", _TIMES_REMEDY)
    return {"stage_ms": found, "copy_ms": dict(copies)}


def _is_time(item: tuple[str, Any]) -> bool:
    n, ms = item
    return (n == WHOLE_FRAME or n.isdecimal()) and isinstance(ms, int | float) and ms >= 0


def _lacking(path: Path, stage: str, where: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: stage_ms", f"has no time of stage '{stage}'{where}", _TIMES_REMEDY)


def _read(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(str(path), f"cannot be read ({error.strerror})", remedy) from error
    except ValueError as error:
        raise InvalidRequest(str(path), f"is no JSON: {error}", remedy) from error


def _check_name(path: Path, data: Mapping[str, Any], manifest: BundleManifest, remedy: str) -> None:
    if data.get("name") != manifest.spec.name:
        found = f"is of the cascade {data.get('name')!r}, not of '{manifest.spec.name}'"
        raise InvalidRequest(str(path), found, remedy)


def _costs_in(path: Path, data: Any) -> dict[str, Any]:
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema not in (PROFILE_SCHEMA, BENCH_SCHEMA):
        raise InvalidRequest(str(path), f"has schema {schema!r}", f"give {PROFILE_SCHEMA} or {BENCH_SCHEMA}")
    costs = data.get("costs")
    if not isinstance(costs, dict):
        raise InvalidRequest(f"{path}: costs", "is missing", _REMEDY)
    return costs
