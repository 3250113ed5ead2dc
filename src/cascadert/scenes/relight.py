"""Another time of day, and rain: a street's look under them. What stands in the street stays as it is."""

from __future__ import annotations

from dataclasses import replace

from cascadert.scenes.options import LightName
from cascadert.scenes.rng import keyed, mix, vary
from cascadert.scenes.style import MOODS, Light, Style, light_of


def relit(style: Style, light: LightName, rain: float) -> Style:
    """Return the street under `light` and `rain`; the same street for "as-seeded" and 0."""
    if light == "night":
        style = replace(style, light=_night(style.seed), exposure=style.contrast)
    elif light == "dusk":
        style = replace(style, light=_dusk(style))
    elif light == "day" and style.light.dusk:
        style = replace(style, light=light_of(keyed(style.seed, "by day"), MOODS[:-1]))
    return style if rain == 0 else _rained_on(style, rain)


def _dusk(style: Style) -> Light:
    rng = keyed(style.seed, "at dusk")
    light = style.light if style.light.dusk else light_of(rng, MOODS[-1:])
    return replace(light, lamps=0.55, dark=rng.uniform(0.30, 0.45), lamp_colour=_lamp_colour(style.seed))


def _lamp_colour(seed: int) -> tuple[float, float, float]:
    """Sodium vapour or light emitting diodes: one kind per street."""
    return keyed(seed, "lamp colour").choice(((1.0, 0.74, 0.42), (1.0, 0.93, 0.80), (0.95, 0.97, 1.0)))


def _night(seed: int) -> Light:
    """Surfaces get their colours by day from above and behind; `night.StreetLight` then darkens and lights them."""
    rng = keyed(seed, "at night")
    glow = vary(rng, mix((0.17, 0.135, 0.11), (0.08, 0.095, 0.14), rng.random()), 0.25)
    return Light(
        zenith=vary(rng, (0.030, 0.038, 0.070), 0.3),
        horizon=glow,
        tint=(1.0, 1.0, 1.0),
        ambient=0.78,
        direct=0.19,
        sun=(0.0, 0.75, -0.66),
        haze_per_m=0.006 * rng.uniform(0.6, 1.4),
        clouds=rng.uniform(0.2, 0.8),
        shadow=1.0,
        cloud_white=0.20,
        lamps=1.0,
        dark=rng.uniform(0.74, 0.82),
        lamp_colour=_lamp_colour(seed),
    )


def _rained_on(style: Style, rain: float) -> Style:
    """Clouds close, the sun and shadows go, far things fade, and all is a little flatter."""
    light = style.light
    brightness = sum(light.horizon) / 3
    grey = tuple(c * brightness for c in (0.86, 0.89, 0.93))
    share = 0.85 * rain
    direct = light.direct * (1 - share)
    wet = replace(
        light,
        zenith=mix(light.zenith, (grey[0] * 0.8, grey[1] * 0.8, grey[2] * 0.82), share),
        horizon=mix(light.horizon, (grey[0], grey[1], grey[2]), share),
        tint=mix(light.tint, (0.95, 0.98, 1.01), 0.7 * rain),
        ambient=light.ambient * (1 - 0.08 * rain) + 0.35 * (light.direct - direct),
        direct=direct,
        haze_per_m=light.haze_per_m + 0.009 * rain,
        clouds=max(light.clouds, light.clouds * (1 - rain) + rain),
        cloud_white=light.cloud_white * (1 - 0.22 * rain),
        shadow=light.shadow + (1 - light.shadow) * share,
        rain=rain,
    )
    return replace(
        style, light=wet, contrast=style.contrast * (1 - 0.10 * rain), exposure=style.exposure * (1 - 0.06 * rain)
    )
