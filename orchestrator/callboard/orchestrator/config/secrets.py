"""Hides secrets in what is shown: whole values, and user information and passwords inside addresses.

When in doubt too much is hidden, never too little.
"""

import re
from typing import Final

HIDDEN: Final = "***"

_NEXT_ADDRESS = re.compile(r",(?=\s*\w+://)")
# Greedy up to the last `@`: a password may hold any other character of an address.
_USER_INFORMATION = re.compile(r"^(\s*\w[\w+.-]*://)?.*@", re.DOTALL)
_PASSWORD_PARAMETER = re.compile(r"([?&\s][^=&\s]*pass[^=&]*=)[^&]*", re.IGNORECASE)


def hide_in_url(text: str) -> str:
    """One address or several, comma separated, without user information and password parameters."""
    hidden = (_USER_INFORMATION.sub(rf"\g<1>{HIDDEN}@", address) for address in _NEXT_ADDRESS.split(text))
    return ",".join(_PASSWORD_PARAMETER.sub(rf"\g<1>{HIDDEN}", address) for address in hidden)


def hide(value: object, secret: str | None) -> object:
    """`value` as it may be shown; `secret` is `all`, `url` or none (see `fields.Field`)."""
    if value is None or secret is None:
        return value
    return hide_in_url(value) if secret == "url" and isinstance(value, str) else HIDDEN  # noqa: S105 - a kind of secret
