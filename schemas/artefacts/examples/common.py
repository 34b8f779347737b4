"""The names that the examples share."""

from datetime import UTC, datetime
from typing import Final

from callboard.schemas.tasks import AttemptRef

TASK_ID: Final = "01993b5e-7c1a-7bd2-8f0e-3a1f5c2d9e10"
OTHER_TASK_ID: Final = "01993b5e-7c1b-7d04-9a63-c0ffee5e0001"
AGENT_ID: Final = "reviewer-1"
INCARNATION: Final = "7d0c3d5e-6f43-4a19-9a57-2f6f3a1f9a10"
AT: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER: Final = datetime(2026, 1, 2, 3, 4, 6, 250_000, tzinfo=UTC)
HELD: Final = AttemptRef(task_id=TASK_ID, attempt=1)
