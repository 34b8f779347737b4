"""The mirror in a JetStream key-value bucket, read back as any NATS client would."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from callboard.bus.connection import Bus, BusOptions
from callboard.bus.embedded import EmbeddedNats
from callboard.bus.keyvalue import Mirror
from callboard.schemas.errors import ConfigurationError, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bus(nats_server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with await Bus.connect(BusOptions(servers=(nats_server.url,))) as bus:
        yield bus


async def api(bus: Bus, verb: str, request: object = None) -> dict[str, Any]:
    answer = await bus.request(f"$JS.API.{verb}", json.dumps(request).encode() if request else b"", timeout_s=5)
    decoded: dict[str, Any] = json.loads(answer.data)
    return decoded


async def last(bus: Bus, bucket: str, key: str) -> tuple[bytes, bytes]:
    """The last value of a key and the headers that came with it."""
    answer = await api(bus, f"STREAM.MSG.GET.KV_{bucket}", {"last_by_subj": f"$KV.{bucket}.{key}"})
    message = answer["message"]
    return base64.b64decode(message.get("data", "")), base64.b64decode(message.get("hdrs", ""))


async def test_the_last_value_of_a_key_is_kept(bus: Bus) -> None:
    mirror = await Mirror.open(bus, "tasks")
    await mirror.put("a.b", b"1")
    await mirror.put("a.b", b"2")
    await mirror.put("c", b"3")
    assert await last(bus, "tasks", "a.b") == (b"2", b"")
    info = await api(bus, "STREAM.INFO.KV_tasks")
    assert info["state"]["messages"] == 2
    assert info["config"]["storage"] == "memory"
    await mirror.delete("c")
    data, headers = await last(bus, "tasks", "c")
    assert data == b""
    assert b"KV-Operation: DEL" in headers
    await mirror.close()
    await mirror.close()
    with pytest.raises(UnavailableError, match="closed"):
        await mirror.put("c", b"4")


async def test_a_bucket_that_exists_is_used_as_it_is(bus: Bus) -> None:
    await (await Mirror.open(bus, "kept", in_memory=False)).put("k", b"v")
    again = await Mirror.open(bus, "kept", in_memory=True)
    assert await last(bus, "kept", "k") == (b"v", b"")
    await again.put("k", b"w")
    assert (await api(bus, "STREAM.INFO.KV_kept"))["config"]["storage"] == "file"


async def test_a_full_bucket_shows_the_present(bus: Bus) -> None:
    mirror = await Mirror.open(bus, "small", max_bytes=4096)
    for number in range(10):
        await mirror.put(f"k{number}", bytes(1000))
    await mirror.put("newest", b"v")
    assert (await last(bus, "small", "newest"))[0] == b"v"
    assert (await api(bus, "STREAM.INFO.KV_small"))["state"]["bytes"] <= 4096


@pytest.mark.parametrize("key", ["", "a b", "a..b", ".a", "a.*", ">", "ä"])
async def test_what_is_no_key_is_refused(bus: Bus, key: str) -> None:
    mirror = await Mirror.open(bus, "keys")
    with pytest.raises(InvalidRequestError):
        await mirror.put(key, b"")


@pytest.mark.parametrize("bucket", ["", "a.b", "a b", "*"])
async def test_what_is_no_bucket_is_refused(bus: Bus, bucket: str) -> None:
    with pytest.raises(ConfigurationError, match="bucket"):
        await Mirror.open(bus, bucket)


async def test_without_jetstream_the_remedy_is_named(tmp_path: Path) -> None:
    async with (
        EmbeddedNats(tmp_path, token=None, jetstream=False) as server,
        await Bus.connect(BusOptions(servers=(server.url,))) as bus,
    ):
        with pytest.raises(ConfigurationError, match="turn caching off"):
            await Mirror.open(bus, "tasks")
