"""How long a server asks to be left alone: `retry-after` (RFC 9110, section 10.2.3), or `retry-after-ms`."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_MS: Final = 24 * 60 * 60 * 1000
"""What is longer is taken for a mistake, and for this."""

_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_UNITS_MS: Final = {"retry-after-ms": 1, "retry-after": 1000}


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Milliseconds, `None` when the headers do not say.

    A date counts from the server's own `date`, so that its clock need not agree with ours.

    Args:
        headers: of the answer, by names in lower case.
    """
    for name, unit_ms in _UNITS_MS.items():
        text = headers.get(name, "").strip()
        if _NUMBER.fullmatch(text):
            return min(round(float(text) * unit_ms), LONGEST_MS)
    until = _date(headers.get("retry-after"))
    if until is None:
        return None
    pause = until - (_date(headers.get("date")) or datetime.now(UTC))
    return max(0, min(pause // timedelta(milliseconds=1), LONGEST_MS))


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
