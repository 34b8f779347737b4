"""What is measured, and the medians over the rounds; the JSON file is these classes as they stand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Self

from benchmarks.probe import Speed


@dataclass(frozen=True, slots=True)
class Latency:
    """Submit to result, milliseconds."""

    p50: float
    p95: float
    p99: float
    count: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Self:
        """The percentiles of at least two times."""
        cuts = quantiles(times_ms, n=100, method="inclusive")
        return cls(cuts[49], cuts[94], cuts[98], len(times_ms))

    @classmethod
    def median(cls, many: Sequence[Self]) -> Self:
        """Of each percentile."""
        return cls(
            median(one.p50 for one in many),
            median(one.p95 for one in many),
            median(one.p99 for one in many),
            min(one.count for one in many),
        )


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one system; peak memory in MB and CPU per task in microseconds, by part."""

    one_by_one_per_s: float
    bulk_per_s: float
    idle: Latency
    half_load: Latency
    peak_mb: dict[str, float]
    cpu_us: dict[str, float]


@dataclass(frozen=True, slots=True)
class Survival:
    """Tasks acknowledged before the servers were killed, and those of them that were executed."""

    acknowledged: int
    survived: int


@dataclass(slots=True)
class Outcome:
    """All of one system; `skipped` is the reason why there is no more of it."""

    rounds: list[Round] = field(default_factory=list)
    survival: Survival | None = None
    skipped: str | None = None

    def typical(self) -> Round:
        """The medians; there must be a round."""
        some = self.rounds
        return Round(
            median(one.one_by_one_per_s for one in some),
            median(one.bulk_per_s for one in some),
            Latency.median([one.idle for one in some]),
            Latency.median([one.half_load for one in some]),
            {part: median(one.peak_mb[part] for one in some) for part in some[0].peak_mb},
            {part: median(one.cpu_us[part] for one in some) for part in some[0].cpu_us},
        )


@dataclass(slots=True)
class Report:
    """A whole run; `probes` has one entry a round."""

    machine: dict[str, str]
    effort: dict[str, float]
    probes: list[Speed] = field(default_factory=list)
    systems: dict[str, Outcome] = field(default_factory=dict)

    def speed(self) -> Speed:
        """The medians of the probes."""
        return Speed(
            median(one.trips_per_s for one in self.probes),
            median(one.trip_ms for one in self.probes),
            median(one.commit_ms for one in self.probes),
        )

    def ratio(self, name: str, base: str, *, bulk: bool) -> float | None:
        """The median over the rounds of a system's throughput to that of `base` in the same round."""
        pairs = zip(self.systems[name].rounds, self.systems[base].rounds, strict=False)
        ratios = [
            one.bulk_per_s / other.bulk_per_s if bulk else one.one_by_one_per_s / other.one_by_one_per_s
            for one, other in pairs
        ]
        return median(ratios) if ratios else None
