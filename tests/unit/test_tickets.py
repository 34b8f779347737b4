"""Who is refused when a commit is in doubt, and who is not."""

from callboard.orchestrator.tickets import TicketBook
from callboard.schemas.errors import OrchestratorError, OutcomeUnknownError


class Asking:
    """A request, with what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def answer(self, message: object) -> None:
        self.told.append(message)

    def refuse(self, error: OrchestratorError) -> None:
        self.told.append(error)


def test_a_commit_in_doubt_refuses_who_waits_for_it_and_leaves_heartbeats_to_be_answered() -> None:
    book, submit, heartbeat, doubt = TicketBook(), Asking(), Asking(), OutcomeUnknownError()
    waiting, beating = book.open(submit), book.open(heartbeat, waits_for_commit=False)
    book.refuse_waiting(doubt)
    waiting.answer("too late")
    beating.answer("beat")
    assert (submit.told, heartbeat.told) == ([doubt], ["beat"])
    assert len(book) == 0


def test_whoever_cannot_be_served_at_all_is_refused_with_all_the_others() -> None:
    book, heartbeat, gone = TicketBook(), Asking(), OutcomeUnknownError()
    book.open(heartbeat, waits_for_commit=False)
    book.refuse_all(gone)
    assert heartbeat.told == [gone]
