"""A pool as one agent of the Synadia Agent Protocol: whoever prompts it gets a durable task.

Retries, priority, placement and all that a task may ask for are the pool's; the caller sees a stream of chunks, as from
any agent. Several gateways of the same owner and name share the prompts.
"""

import asyncio
import importlib.metadata
import uuid
from typing import Final

import structlog

from callboard.agents.synadia.conversation import SIGN_OF_LIFE_S, Conversation, Terms
from callboard.agents.synadia.errors import RATE_LIMITED, refusal
from callboard.agents.synadia.running import run_until_signalled
from callboard.agents.synadia.service import Presence, Service
from callboard.agents.synadia.wire import DEFAULT_INTERVAL_S, INBOX, TERMINATOR
from callboard.bus.client import Client, SubmitOptions
from callboard.bus.connection import Bus, BusMessage
from callboard.bus.context import options_from_environment
from callboard.bus.options import BusOptions
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.limits import PAYLOAD_BYTES
from callboard.schemas.names import is_name
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX

log = structlog.get_logger("callboard.agents.synadia")

MOST: Final = 1_000
"""Prompts that one gateway follows at once; beyond, callers are told to come back."""


class Gateway:
    """A pool's door for callers of the protocol.

    Args:
        owner, name: tokens of its subjects, `agents.prompt.callboard.<owner>.<name>`; the name is the pool by default.
        task_type: of the tasks that prompts become.
        options: what else those tasks ask for: priority, capabilities, limits.
        cancels: whether a task is cancelled when its caller is gone; by default it goes on.
        interval_s: between heartbeats.
        sign_of_life_s: how often a caller hears something at least.
        pool, prefix: where tasks are submitted.

    Raises:
        ConfigurationError: something of this cannot be used.
    """

    def __init__(
        self,
        *,
        owner: str,
        name: str | None = None,
        task_type: str = "prompt",
        options: SubmitOptions | None = None,
        cancels: bool = False,
        interval_s: float = DEFAULT_INTERVAL_S,
        sign_of_life_s: float = SIGN_OF_LIFE_S,
        pool: str | None = None,
        prefix: str | None = None,
    ) -> None:
        if not is_name(task_type):
            raise ConfigurationError(f"not a task type: {task_type!r}; use letters, digits, '-' and '_'")
        self._pool, self._prefix = pool or DEFAULT_POOL, prefix or DEFAULT_PREFIX
        self._presence = Presence(
            owner=owner,
            name=name or self._pool,
            version=importlib.metadata.version("callboard"),
            max_payload=PAYLOAD_BYTES,
            about={"pool": self._pool, "task_type": task_type},
            interval_s=interval_s,
        )
        self._terms = Terms(
            type=task_type,
            options=options or {},
            max_payload=PAYLOAD_BYTES,
            cancels=cancels,
            sign_of_life_s=sign_of_life_s,
        )
        self._running: set[asyncio.Task[None]] = set()
        self._bus: Bus | None = None
        self._client: Client | None = None
        self._service: Service | None = None

    @property
    def subject(self) -> str:
        """Where it is prompted."""
        return self._presence.subject("prompt")

    async def run(self, url: str | BusOptions | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then until all that is followed has ended; a second signal ends at once.

        Raises:
            ConfigurationError: NATS cannot be reached as configured, for good.
        """
        await run_until_signalled(lambda: self.start(url), drain=self.drain, stop=self.stop)

    async def start(self, url: str | BusOptions | None = None) -> None:
        """Be there, in the background of this event loop. May be called twice.

        Raises:
            ConfigurationError: as `run`.
            UnavailableError: NATS went away at this very moment.
        """
        if self._bus is not None:
            return
        options = url if isinstance(url, BusOptions) else options_from_environment(url=url)
        self._bus = await Bus.connect(options)
        self._client = Client(self._bus, pool=self._pool, prefix=self._prefix)
        self._service = Service(self._bus, self._presence, uuid.uuid4().hex.upper(), self._prompted)
        await self._service.start()
        log.info("gateway open", subject=self.subject, pool=self._pool, type=self._terms.type)

    async def drain(self) -> None:
        """Take no prompt any more, and follow those that were taken to their ends."""
        if self._service is not None:
            await self._service.close_door()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def stop(self) -> None:
        """End now: callers are told, and their tasks go on. May be called twice, and without `start`."""
        if self._service is not None:
            await self._service.stop()
        self._cancel_all()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._bus is not None:
            await self._bus.close()

    def _cancel_all(self) -> None:
        for task in self._running:
            task.cancel()

    def _prompted(self, message: BusMessage) -> None:
        if self._bus is None or self._client is None:
            return
        if not message.reply.startswith(INBOX):
            log.warning("prompt dropped: its answer would go to no inbox", reply=message.reply[:80])
            return
        if len(self._running) >= MOST:
            headers, body = refusal(RATE_LIMITED, f"{MOST} prompts are being followed", "busy", retry_after_s=5.0)
            for data, extra in ((body, headers), (TERMINATOR, None)):
                self._bus.send(message.reply, data, headers=extra)
            return
        conversation = Conversation(self._bus, self._client, self._terms, message)
        task = asyncio.get_running_loop().create_task(_logged(conversation))
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def _logged(conversation: Conversation) -> None:
    try:
        await conversation.run()
    except Exception:
        log.exception("a conversation failed", task_id=conversation.task_id)
