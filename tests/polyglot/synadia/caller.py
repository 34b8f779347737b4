"""A caller made with the protocol's own SDK: `python caller.py URL AGENT PROMPT ANSWER` writes what it hears."""

import asyncio
import json
import sys

import nats
from synadia_ai.agents import Agents, DiscoverFilter, ProtocolError, Query, ResponseChunk, StatusChunk


async def main(url: str, agent: str, prompt: str, answer: str) -> None:
    """Discover, prompt once, answer every question the same."""
    connection = await nats.connect(servers=url)
    agents = Agents(nc=connection)
    heard: dict[str, list[str]] = {"text": [], "status": [], "query": [], "error": []}
    try:
        [found] = await agents.discover(filter=DiscoverFilter(agent=agent))
        try:
            async for message in found.prompt(prompt):
                if isinstance(message, ResponseChunk):
                    heard["text"].append(message.text)
                elif isinstance(message, StatusChunk):
                    heard["status"].append(message.status)
                elif isinstance(message, Query):
                    heard["query"].append(message.prompt)
                    await message.reply(answer)
        except ProtocolError as error:
            heard["error"].append(str(error))
    finally:
        await agents.close()
        await connection.close()
    sys.stdout.write(json.dumps(heard) + "\n")


asyncio.run(main(*sys.argv[1:]))
