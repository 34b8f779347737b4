"""An OpenAI-compatible chat endpoint as an agent; needs `callboard[llm]`.

- A task is one `POST …/chat/completions`; what is sent and read is the rule of `callboard.agents.chat`.
- The end of the text so far is progress, as it comes; `stream=False` waits for the whole.
- A status of 401, 408, 425, 429 or 5xx may be tried again, not before `retry-after`; so may a connection that cannot be
  made, breaks or says nothing for too long. Every other status fails the task for good; no redirect is followed.
- A cancel, or a time-out, closes the connection, at which servers stop generating.
- The key stands in one header only: in no message, log or list of processes. What servers say is searched for it.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Final

import httpx2
import msgspec

from callboard.agents.agent import Agent
from callboard.agents.chat import ChatResult, Reply, error_text, is_retryable, request_body
from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.agents.handlers import ANY
from callboard.agents.retry_after import retry_after_ms
from callboard.agents.sse import EventStream, EventTooLargeError
from callboard.bus.options import BusOptions
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.labels import LabelValue

CONNECT_S: Final = 10.0
ANSWER_BYTES: Final = 1024 * 1024
"""How large a whole answer may be."""
REFUSAL_BYTES: Final = 64 * 1024
"""How much of a refusal is read."""


class Chat:
    """A chat endpoint as a handler: `agent.task("ask")(Chat("http://127.0.0.1:11434/v1", "llama3.2"))`.

    Args:
        base_url: what stands before `/chat/completions`.
        model: for all tasks.
        api_key: sent as a bearer token; `None` for servers that ask for none.
        stream: whether the answer is asked for in chunks.
        timeout_s: how long one answer may take.
        idle_timeout_s: how long the server may say nothing: in an answer in chunks a line, a comment too, else a byte,
            since there are servers that ask for patience with white space.

    Raises:
        ConfigurationError: the address or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        stream: bool = True,
        timeout_s: float | None = None,
        idle_timeout_s: float = 120.0,
    ) -> None:
        base = _checked_url(base_url)
        self._url = base.copy_with(path=f"{base.path.rstrip('/')}/chat/completions")
        self._origin = f"{base.scheme}://{base.netloc.decode()}"
        self._model = model
        self._stream = stream
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._api_key = _checked_key(api_key)
        # Not compressed, since what compresses also holds back.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(idle_timeout_s, connect=CONNECT_S, pool=None),
            # The agent's slots are the limit.
            limits=httpx2.Limits(max_connections=None),
        )

    async def __call__(self, ctx: TaskContext) -> ChatResult:
        """Ask once.

        Raises:
            TaskFailed: of type `invalid_payload`, `unreachable`, `timeout`, `http_<status>`, `server_error`,
                `invalid_answer`, `incomplete` or `output_too_large`.
        """
        body = request_body(ctx.payload, self._model, stream=self._stream)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(ctx, body)
        except TimeoutError:
            raise TaskFailed(f"the answer took longer than {self._timeout_s:g} s", type="timeout") from None
        except httpx2.ConnectTimeout:
            raise TaskFailed(f"{self._origin} could not be reached in {CONNECT_S:g} s", type="timeout") from None
        except httpx2.TimeoutException:
            message = f"{self._origin} said nothing for {self._idle_timeout_s:g} s"
            raise TaskFailed(message, type="timeout") from None
        except httpx2.RequestError as error:
            reason = str(error) or type(error).__name__
            raise TaskFailed(f"no answer from {self._origin}: {reason}", type="unreachable") from None
        except EventTooLargeError:
            raise TaskFailed("the answer has an event that is too large", type="invalid_answer") from None
        except TaskFailed as failed:
            failed.error = msgspec.structs.replace(failed.error, message=self._without_key(failed.error.message))
            raise

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._client.aclose()

    async def _ask(self, ctx: TaskContext, body: bytes) -> ChatResult:
        async with self._client.stream("POST", self._url, content=body) as response:
            if not response.is_success:
                raise await _refusal(response)
            reply = Reply(self._model)
            if response.headers.get("content-type", "").partition(";")[0].strip() == "text/event-stream":
                await _follow(response, reply, ctx, self._idle_timeout_s)
            else:
                reply.take(await _read(response, ANSWER_BYTES))
            return reply.result()

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "[key]") if self._api_key else text


class LlmAgent:
    """An agent whose every task is a question to a chat endpoint.

    Args:
        base_url, model, api_key, stream, timeout_s, idle_timeout_s: as `Chat`.
        agent_id, capabilities, role, slots, labels, pool, prefix: as `Agent`; slots are questions at once.
        task_types: the types to take; any by default.

    Raises:
        ConfigurationError: as `Chat`, or as `Agent`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        agent_id: str | None = None,
        *,
        api_key: str | None = None,
        stream: bool = True,
        timeout_s: float | None = None,
        idle_timeout_s: float = 120.0,
        capabilities: Iterable[str] | None = None,
        role: str | None = None,
        slots: int | None = None,
        labels: Mapping[str, LabelValue] | None = None,
        pool: str | None = None,
        prefix: str | None = None,
        task_types: Iterable[str] = (ANY,),
    ) -> None:
        self._chat = Chat(
            base_url, model, api_key=api_key, stream=stream, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s
        )
        self.agent = Agent(
            agent_id, capabilities=capabilities, role=role, slots=slots, labels=labels, pool=pool, prefix=prefix
        )
        for task_type in task_types:
            self.agent.task(task_type)(self._chat)

    async def run(self, url: str | BusOptions | None = None) -> None:
        """Serve until drained, shut down or stopped; see `Agent.run`."""
        try:
            await self.agent.run(url)
        finally:
            await self._chat.close()


async def _follow(response: httpx2.Response, reply: Reply, ctx: TaskContext, idle_timeout_s: float) -> None:
    """Read an answer in chunks; those that come together are one progress.

    Raises:
        httpx2.ReadTimeout: bytes come, but no line of them has ended for so long.
    """
    events = EventStream()
    told = reply.tail
    lines, heard_s = 0, time.monotonic()
    async for piece in response.aiter_bytes():
        for data in events.feed(piece):
            reply.take(data)
        if events.lines > lines:
            lines, heard_s = events.lines, time.monotonic()
        elif time.monotonic() - heard_s > idle_timeout_s:
            raise httpx2.ReadTimeout("no line")
        if reply.tail != told:
            told = reply.tail
            ctx.progress_nowait(message=told.replace("\0", "\ufffd"))
        if reply.is_done:
            # Some servers keep the connection open.
            return
    for data in events.finish():
        reply.take(data)


async def _refusal(response: httpx2.Response) -> TaskFailed:
    status = response.status_code
    text = (await _read(response, REFUSAL_BYTES)).decode(errors="replace").strip()
    try:
        said = msgspec.json.decode(text)
        text = error_text(said["error"] if isinstance(said, dict) and "error" in said else said)
    except (msgspec.DecodeError, RecursionError):
        pass  # a page of some proxy: its text has to do
    retryable = is_retryable(status)
    return TaskFailed(
        f"HTTP {status} {response.reason_phrase}: {text}" if text else f"HTTP {status} {response.reason_phrase}",
        type=f"http_{status}",
        retryable=retryable,
        retry_after_ms=retry_after_ms(response.headers) if retryable else None,
    )


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """The first `limit` bytes of the body."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) >= limit:
            break
    return bytes(body[:limit])


def _checked_url(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"not an address of a server: {error}") from None
    if url.userinfo:
        raise ConfigurationError("the address must not hold a key, which all on this host could read; see --key-env")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigurationError(f"not an address of a server: {text!r}; write https://host/v1")
    return url


def _checked_key(key: str | None) -> str:
    """Without the white space that a file's end leaves behind; never shown, not even when it is wrong."""
    text = (key or "").strip()
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigurationError("the key holds what no header can: spaces, control characters or non-ASCII ones")
    return text
