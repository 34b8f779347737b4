"""The command that explains: why a task waits, or why its agent was chosen."""

from collections.abc import Iterator

from callboard.cli.connection import HERE, Connection, connected, run
from callboard.cli.output import print_json, print_line, print_table
from callboard.cli.values import TaskId
from callboard.schemas.why import Why


def why(task_id: TaskId, /, *, json: bool = False, to: Connection = HERE) -> None:
    """Explain a task: what keeps each agent from taking it, or the scores by which its agent was chosen.

    Args:
        task_id: Which task.
        json: Print the explanation as one JSON document.
        to: How the orchestrator is reached.
    """

    async def ask() -> None:
        async with connected(to) as client:
            answer = await client.why(task_id, timeout_s=to.timeout_s)
        if json:
            print_json(answer)
            return
        for line in lines(task_id, answer):
            print_line(line)
        if answer.scores:
            parts = sorted({part for score in answer.scores for part in score.parts})
            rows = (
                (score.agent_id, f"{score.total:.3f}", *(f"{score.parts.get(part, 0):.3f}" for part in parts))
                for score in answer.scores
            )
            print_table(("AGENT", "TOTAL", *(part.upper() for part in parts)), rows)
        elif answer.agents:
            print_table(("AGENT", "REASON"), ((agent.agent_id, agent.reason) for agent in answer.agents))

    run(ask())


def lines(task_id: str, answer: Why) -> Iterator[str]:
    """What is said before the table, a line each."""
    yield f"{task_id} is {answer.state or 'not submitted'}"
    if answer.scores is not None:
        if not answer.scores:
            yield "it has no scores: no agent was ever chosen"
        yield from _remedies(answer)
        return
    if answer.position is not None:
        yield f"number {answer.position} of those that wait for the same agents and key"
    if answer.candidates is not None:
        yield f"{answer.candidates} known agents could ever take it"
    if answer.excluded:
        yield "kept from it: " + ", ".join(f"{count} by {reason}" for reason, count in answer.excluded.items())
    yield from _remedies(answer)


def _remedies(answer: Why) -> Iterator[str]:
    for remedy in answer.unblocked_by or ():
        yield f"it goes on when {remedy}"
