"""An agent made with the protocol's own SDK: `python host.py URL NAME`; says READY, and does what its prompt says."""

import asyncio
import sys

import nats
from synadia_ai.agent_service import AgentService, PromptStream
from synadia_ai.agents import Attachment, Envelope, ResponseChunk


async def serve(envelope: Envelope, stream: PromptStream) -> None:
    """Echo, ask, send an attachment back, fail, or take its time."""
    match envelope.prompt.split():
        case ["ask", *question]:
            answer = await stream.ask(" ".join(question), timeout=30)
            await stream.send(f"you said {answer.prompt}")
        case ["attach"]:
            names = [each.filename for each in envelope.attachments or ()]
            await stream.send(
                ResponseChunk(text=",".join(names), attachments=[Attachment(filename="b", content="aGk=")])
            )
        case ["fail"]:
            raise RuntimeError("as asked")
        case ["hang"]:
            await asyncio.sleep(3600)
        case ["slow"]:
            await asyncio.sleep(2)  # with a sign of life each second
            await stream.send("slow")
        case _:
            await stream.send("echo: ")
            await stream.send(envelope.prompt)


async def main(url: str, name: str) -> None:
    """Serve until killed."""
    connection = await nats.connect(servers=url)
    service = AgentService(
        agent="demo", owner="alice", session_name=name, nc=connection, heartbeat_interval_s=1, keepalive_interval_s=0.5
    )
    service.on_prompt(serve)
    await service.start()
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
