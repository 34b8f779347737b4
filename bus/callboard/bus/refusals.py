"""Why a server that is there does not become ours, in words that say which setting to mend.

Of what it does not take only the setting is named, never the value.
"""

import ssl
from typing import Final

from callboard.bus.options import BusOptions, DialTarget

_AUTHORIZATION: Final = "authorization failed"
_CERTIFICATE: Final = "its certificate is not trusted"


def in_words(error: Exception, target: DialTarget, options: BusOptions) -> str | None:
    """What an attempt to connect failed for and what to do about it; `None` when it is no refusal."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_CERTIFICATE} ({error.verify_message}): give its authority in NATS_CA"
    if "authorization violation" in str(error).lower():
        return f"{_AUTHORIZATION}: {_remedy(target, options)}"
    return None


def is_refusal(reason: str) -> bool:
    """Whether a reason of the bus already says what to do: its address is right, and somebody is there."""
    return _AUTHORIZATION in reason or _CERTIFICATE in reason


def _remedy(target: DialTarget, options: BusOptions) -> str:
    in_order_of_choice = (
        (options.creds, f"mend the credentials file {options.creds} (NATS_CREDS)"),
        (options.nkey, f"mend the nkey {options.nkey} (NATS_NKEY)"),
        (target.user, "mend the user and the password in the address"),
        (options.user, "mend NATS_USER and NATS_PASSWORD"),
        (target.token, "mend the token in the address"),
        (options.token, "mend NATS_TOKEN"),
    )
    nothing_given = "give NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"
    return next((remedy for given, remedy in in_order_of_choice if given), nothing_given)
