"""`python -m tests.mutants` removes one safeguard after the other, and shows who notices: 1 if nobody does.

The first row is the sources as they are, looked at by everybody: nothing may be found there.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.bench import BenchError, Finding, broken_rule, copied, examine, failed_test
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, PatchError

WIDTH = 62


def main() -> int:
    """Examine the mutants that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those whose safeguard has this text")
    parser.add_argument("--everywhere", action="store_true", help="simulate all, also those that need not be noticed")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--no-baseline", action="store_true", help="believe that nothing is found without a mutant")
    wanted = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if wanted.only in mutant.safeguard]
    began_s = time.monotonic()
    is_sound = wanted.no_baseline or _is_sound(chosen)
    survivors = 0
    with ThreadPoolExecutor(wanted.cores) as pool:
        looks = [(mutant, pool.submit(_look, mutant, everywhere=wanted.everywhere)) for mutant in chosen]
        for mutant, look in looks:
            caught, line = look.result()
            survivors += not caught
            _say("caught" if caught else "SURVIVED", mutant.safeguard, line)
    took_s = time.monotonic() - began_s
    sys.stdout.write(f"{len(chosen)} mutants, {survivors} survived; {took_s:.0f} s\n")
    return 0 if is_sound and not survivors else 1


def _look(mutant: Mutant, *, everywhere: bool) -> tuple[bool, str]:
    try:
        finding = examine(mutant, everywhere=everywhere)
    except (PatchError, BenchError) as error:
        return False, f"NOT EXAMINED: {error}"
    return finding.settles(mutant), _told(mutant, finding)


def _told(mutant: Mutant, finding: Finding) -> str:
    parts: list[str] = []
    if finding.test is not None:
        parts.append(finding.test)
    elif mutant.tests:
        parts.append(f"NO TEST of {', '.join(mutant.tests)}")
    if finding.seeds is not None and finding.rule is not None:
        parts.append(f"{finding.seeds} seeds: {finding.rule[:80]}")
    elif mutant.simulated:
        parts.append("NO SEED")
    return f"{'; '.join(parts)} ({finding.took_s:.0f} s)"


def _is_sound(chosen: list[Mutant]) -> bool:
    tests = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
    with copied() as root:
        found = _baseline(root, tests)
    _say("sound" if found is None else "UNSOUND", "(nothing removed)", found or "nothing found")
    return found is None


def _baseline(root: Path, tests: tuple[str, ...]) -> str | None:
    try:
        failed = failed_test(root, tests) if tests else None
        return failed or (None if (broken := broken_rule(root)) is None else broken[1])
    except BenchError as error:
        return f"NOT EXAMINED: {error}"


def _say(verdict: str, what: str, line: str) -> None:
    sys.stdout.write(f"{verdict:<8} {what:<{WIDTH}} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
