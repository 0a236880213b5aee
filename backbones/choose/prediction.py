"""Latency predicted from the operators that a network calls, timed one by one on this machine. No torch here."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import exp, log, prod, sqrt

from backbones.choose.cache import Cache
from backbones.choose.group import place
from backbones.choose.latency import Setting
from backbones.choose.process import Failed, Worker

logger = logging.getLogger("backbones")

SECONDS = 60.0
"""of probes at most"""
MODULE = "module"
"""the call of a module itself"""
UNKNOWN, LEAST = 2.0, 0.03
"""the spread told where no two networks are known, and the least, of logarithms, that is ever told"""
FEW = 8
"""calls of a kind from which its time can be fitted"""

Profile = Mapping[str, int]


@dataclass(frozen=True)
class Prediction:
    """How long a network should take for one batch, in milliseconds: nine of ten lie from `low` to `high`."""

    setting: Setting
    ms: float
    low: float
    high: float
    probed: float
    """share of the time that was timed call by call; the rest is fitted to calls like them"""


def predict(
    settings: Sequence[Setting], cache: Cache, known: Mapping[Setting, float], seconds: float = SECONDS
) -> dict[Setting, Prediction]:
    """All settings must have the same threads, batch and device. What was probed before is not probed again.

    Args:
        settings: of the networks
        cache: of this machine
        known: networks of the same way of running -> their milliseconds: they tell how far sums of calls are off
        seconds: for probes, at most
    """
    if not settings:
        return {}
    profiles = _profiles([*settings, *known], cache)
    times = _times(list(profiles.values()), settings[0], cache, seconds)
    fitted = fit(times)
    sums = {s: _sum(profile, times, fitted) for s, profile in profiles.items()}
    factor, spread = calibrate([(ms / 1000, sums[s][0]) for s, ms in known.items() if s in sums])
    told = {}
    for setting in (s for s in settings if s in sums):
        total, probed = sums[setting]
        ms = 1000 * factor * total
        told[setting] = Prediction(setting, ms, ms / spread, ms * spread, probed)
    return told


def calibrate(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """From measured and summed seconds: the factor between them, and the spread around it of nine of ten others.

    Their ratios are taken as a sample of a normal law of logarithms: Student's t widens the spread of few.
    """
    if len(pairs) < 2:
        return (pairs[0][0] / pairs[0][1] if pairs else 1.0), UNKNOWN
    ratios = [log(seconds / total) for seconds, total in pairs]
    mean, n = sum(ratios) / len(ratios), len(ratios)
    deviation = sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / (n - 1))
    return exp(mean), exp(max(_student(n - 1) * deviation * sqrt(1 + 1 / n), LEAST))


def _student(freedom: int) -> float:
    """The t that 95 % lie below, by Cornish and Fisher's expansion around the normal law's."""
    z = 1.645
    more = (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + more + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)


def fit(times: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """Per kind of call: log seconds = a + b log work + c log values, by least squares over those that were timed."""
    import numpy as np

    kinds: dict[str, list[tuple[float, float, float]]] = {}
    for call, seconds in times.items():
        if call != MODULE:
            kind, work, values = features(call)
            for name in (kind, ""):
                kinds.setdefault(name, []).append((log(work), log(values), log(max(seconds, 1e-9))))
    fits = {}
    for kind, rows in kinds.items():
        if len(rows) >= FEW or not kind:
            table = np.array(rows)
            design = np.column_stack([np.ones(len(rows)), table[:, :2]])
            a, b, c = np.linalg.lstsq(design, table[:, 2], rcond=None)[0]
            fits[kind] = (float(a), float(b), float(c))
    return fits


def features(call: str) -> tuple[str, float, float]:
    """What kind of call it is, its work (multiply-adds, or values), and how many values it reads."""
    name, args, _ = json.loads(call)
    tensors = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, dict) and "t" in t]
    shapes = [t["t"][0] for t in tensors]
    values = float(sum(map(prod, shapes))) or 1.0
    if name.startswith("aten.convolution"):
        image, weight = shapes[:2]
        stride, padding, dilation, groups = args[3], args[4], args[5], args[8]
        sides = zip(image[2:], weight[2:], stride, padding, dilation, strict=True)
        out = prod((side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in sides)
        kernel = "x".join(map(str, weight[2:]))
        kind = "depthwise" if groups == image[1] > 1 else "grouped" if groups > 1 else ""
        return f"{name} {kind} {kernel}", float(max(image[0] * out * prod(weight), 1)), values
    if name.startswith("aten.addmm"):
        return name, float(prod(shapes[1]) * shapes[2][1]), values
    return name, values, values


def _sum(
    profile: Profile, times: Mapping[str, float], fits: Mapping[str, tuple[float, float, float]]
) -> tuple[float, float]:
    """Seconds of all calls, and which share of them was timed."""
    total = timed = 0.0
    for call, count in profile.items():
        if call in times:
            timed += count * times[call]
            total += count * times[call]
        elif call != MODULE:
            kind, work, values = features(call)
            a, b, c = fits.get(kind) or fits[""]
            total += count * exp(a + b * log(work) + c * log(values))
    return total, timed / total


def _profiles(settings: Iterable[Setting], cache: Cache) -> dict[Setting, Profile]:
    """What each network calls, counted on the meta device; those that cannot be counted are left out."""
    wanted = list(dict.fromkeys(settings))
    profiles: dict[Setting, Profile] = dict(cache.counted("profiles", wanted))
    if missing := [s for s in wanted if s not in profiles]:
        logger.info("counting the operators of %d networks", len(missing))
        with closing(Worker(1)) as worker:
            for s in missing:
                try:
                    found = worker.ask("profile", network=s.network, img_size=s.img_size, batch_size=s.batch_size)
                except Failed as error:
                    logger.warning("%s: %s", s.network, error)
                    continue
                profiles[s] = found
                cache.keep_counted("profiles", {s: found})
    return profiles


def _times(profiles: Sequence[Profile], setting: Setting, cache: Cache, seconds: float) -> dict[str, float]:
    """Of every call that could be timed, those first that take most of all networks' time."""
    weight: dict[str, float] = {}
    for profile in profiles:
        works = {call: features(call)[1] for call in profile if call != MODULE}
        total = sum(profile[call] * work for call, work in works.items())
        for call, work in works.items():
            weight[call] = weight.get(call, 0.0) + profile[call] * work / total
    times = cache.times(setting)
    missing = sorted((c for c in weight if c not in times), key=lambda c: -weight[c])
    if missing and seconds > 0:
        logger.info("timing %d operator calls, for %.0f s at most", len(missing), seconds)
        with cache.alone(), closing(Worker(setting.threads)) as worker:
            try:
                told = worker.ask("probe", calls=missing, seconds=seconds, **place(setting))
            except Failed as error:
                raise ValueError(f"no operator could be timed on {setting.device}: {error}") from None
        found = {call: t for call, t in zip(missing, told["seconds"], strict=True) if t is not None}
        times = {**times, **found, MODULE: told["module"]}
        cache.keep_times(setting, times)
    return times
