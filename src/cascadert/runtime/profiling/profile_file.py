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
    data = _read(path, _TIMES_REMEDY)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != BENCH_SCHEMA:
        saved = "is a profile, which does not have the time of every stage"
        raise InvalidRequest(str(path), saved if schema == PROFILE_SCHEMA else "is no report of a bench", _TIMES_REMEDY)
    _check_name(path, data, manifest, _TIMES_REMEDY)
    measured = data.get("stage_ms")
    found = {}
    for stage in manifest.stages:
        times = measured.get(stage.name) if isinstance(measured, dict) else None
        one = times.get(WHOLE_FRAME, times.get("1")) if isinstance(times, dict) else None
        if not isinstance(one, int | float) or one < 0:
            lacking = f"has no time of stage '{stage.name}' on a whole frame"
            raise InvalidRequest(f"{path}: stage_ms", lacking, _TIMES_REMEDY)
        found[stage.name] = float(one)
    return found


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
