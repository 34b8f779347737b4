"""A report of the comparison as tables."""

from benchmarks.compare.results import Latency, Outcome, Report
from benchmarks.compare.systems import OURS, SYSTEMS, System
from benchmarks.tables import Rows


def tables(report: Report) -> list[Rows]:
    """Throughput, latency, cost, what survives, what did not run."""
    known = [(system, report.systems[system.name]) for system in SYSTEMS if system.name in report.systems]
    ran = [(system, outcome) for system, outcome in known if outcome.rounds]
    skipped = [[system.name, outcome.skipped] for system, outcome in known if outcome.skipped]
    speed = report.speed()
    probe = [
        f"{speed.trips_per_s:,.0f}",
        f"{speed.trip_ms:.2f}",
        f"{speed.commit_ms:.2f}",
    ]
    found: list[Rows] = [
        ("Speed probe", ["round trips/s at 256", "round trip ms", "one-row commit ms"], [probe]),
        (
            "Throughput (tasks/s, results read)",
            ["system", "one by one", "of the probe", "ours to it", "bulk", "ours to it", "bulk call"],
            [_throughput(report, system, outcome) for system, outcome in ran],
        ),
        (
            "Latency, submit to result known (ms)",
            ["system", "idle p50", "p95", "p99", "round trips", "half load p50", "p95", "p99"],
            [_latency(report, system, outcome) for system, outcome in ran],
        ),
        (
            "Cost",
            ["system", "CPU µs a task", "by part", "peak MB by part"],
            [_cost(system, outcome) for system, outcome in ran],
        ),
        (
            "After kill -9 of the servers",
            ["system", "acknowledged", "executed", "what it is"],
            [_survival(system, outcome) for system, outcome in ran],
        ),
    ]
    if skipped:
        found.append(("Not run", ["system", "reason"], [[str(cell) for cell in row] for row in skipped]))
    return found


def _throughput(report: Report, system: System, outcome: Outcome) -> list[str]:
    typical = outcome.typical()
    share = typical.one_by_one_per_s / report.speed().trips_per_s
    return [
        system.name,
        f"{typical.one_by_one_per_s:,.0f}",
        f"{share:.2f}",
        _against(report, system.name, bulk=False),
        f"{typical.bulk_per_s:,.0f}",
        _against(report, system.name, bulk=True),
        system.bulk,
    ]


def _against(report: Report, name: str, *, bulk: bool) -> str:
    if name == OURS or OURS not in report.systems:
        return ""
    ratio = report.ratio(OURS, name, bulk=bulk)
    return "" if ratio is None else f"{ratio:.1f} x"


def _latency(report: Report, system: System, outcome: Outcome) -> list[str]:
    typical = outcome.typical()
    trips = typical.idle.p50 / report.speed().trip_ms
    return [system.name, *_three(typical.idle), f"{trips:.1f}", *_three(typical.half_load)]


def _three(latency: Latency) -> list[str]:
    return [f"{latency.p50:.1f}", f"{latency.p95:.1f}", f"{latency.p99:.1f}"]


def _cost(system: System, outcome: Outcome) -> list[str]:
    typical = outcome.typical()
    cpu = ", ".join(f"{part} {value:.0f}" for part, value in typical.cpu_us.items())
    memory = ", ".join(f"{part} {value:.0f}" for part, value in typical.peak_mb.items())
    return [system.name, f"{sum(typical.cpu_us.values()):.0f}", cpu, memory]


def _survival(system: System, outcome: Outcome) -> list[str]:
    survival = outcome.survival
    if survival is None:
        return [system.name, "not measured", "", system.note]
    return [system.name, f"{survival.acknowledged:,}", f"{survival.survived:,}", system.note]
