"""The default size limits, in bytes of JSON (protocol, section 2, `payload_too_large`)."""

from typing import Final

PAYLOAD_BYTES: Final = 256 * 1024
RESULT_BYTES: Final = 256 * 1024
TEXT_BYTES: Final = 32 * 1024
"""Description and metadata of a task together."""
PROGRESS_BYTES: Final = 16 * 1024
ERROR_BYTES: Final = 16 * 1024
JSON_DEPTH: Final = 32
"""How deep a payload, result or progress may nest."""
SUBMIT_MANY: Final = 1_000
"""Specifications in one `submit_many`."""
BATCH_ITEMS: Final = 256
"""Offers in one `assign_many`, reports in one `report_many`."""
GATHERED: Final = 32
"""How many submits, offers or reports our own side sends together: most of what a batch saves is saved by then, and in
larger ones client, orchestrator and agent would wait for one another (2,000 tasks/s at 256, 2,350 at 32)."""
WAIT_MANY: Final = 1_000
"""Tasks in one `wait_many`."""
LIST_LIMIT: Final = 500
WAIT_MS: Final = 60_000
KEPT_ATTEMPTS: Final = 20
REMEMBERED_INCARNATIONS: Final = 8
