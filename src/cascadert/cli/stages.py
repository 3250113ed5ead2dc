"""Options that speak of single stages, as in `fast=int8,accurate=fp16`."""

from __future__ import annotations

from cascadert.errors import InvalidRequest


def by_stage(option: str, text: str) -> dict[str, str]:
    """Parse `fast=int8,accurate=fp16`.

    Raises:
        InvalidRequest: not of this form, or a stage that is named twice.
    """
    found: dict[str, str] = {}
    for item in text.split(","):
        stage, equals, value = (part.strip() for part in item.partition("="))
        if not (stage and equals and value):
            raise InvalidRequest(f"{option} {text}", f"has '{item}'", "write STAGE=VALUE, separated by commas")
        if stage in found:
            raise InvalidRequest(f"{option} {text}", f"names stage '{stage}' twice", "name it once")
        found[stage] = value
    return found


def parse_precision(text: str | None) -> str | dict[str, str] | None:
    """Return the precision of all stages, or of each where stages are named; whether it is known is checked later.

    `int8,exit1=fp16` has one for all that are not named, under the name "".

    Raises:
        InvalidRequest: see `by_stage`.
    """
    if text is None or "=" not in text:
        return text
    first, comma, others = text.partition(",")
    if "=" in first or not comma:
        return by_stage("--precision", text)
    return {"": first.strip(), **by_stage("--precision", others)}
