"""The results of a journal in one reply, as far as there is room for them."""

from collections import deque

from loyalty.v1 import journal_pb2 as pb

from server.domain.errors import ResourceExhausted
from server.rpc.errors import status_of

# Clients take 4 MiB by default; what says that there was no room takes some, too.
RESULTS_BYTES = 3 * 1024 * 1024
# What stands before each result: its tag and its size.
PREFIX_BYTES = 5


def size_of(result: pb.JournalResult) -> int:
    """What the result takes of a reply, in bytes."""
    return int(result.ByteSize()) + PREFIX_BYTES


def without_room(result: pb.JournalResult) -> pb.JournalResult:
    """What stands there instead of a result for which a batch has no room."""
    refusal = ResourceExhausted(
        "RESULTS_TOO_LARGE",
        "the results before take the whole reply; send this and all that follow with another batch",
        {"limit_bytes": str(RESULTS_BYTES)},
    )
    return pb.JournalResult(index=result.index, request_id=result.request_id, error=status_of(refusal))


class Uploaded:
    """What is told of an upload at its end. ``room`` for results in bytes.

    Whoever uploaded must know what was not accepted, so the results of those entries have precedence.
    """

    def __init__(self, room: int = RESULTS_BYTES) -> None:
        self._told = pb.UploadJournalResponse()
        self._accepted: deque[pb.JournalResult] = deque()
        self._others: list[pb.JournalResult] = []
        self._room = room

    def add(self, result: pb.JournalResult, *, replayed: bool) -> None:
        """One more is answered; ``replayed``: it was on record before."""
        told, size = self._told, size_of(result)
        refused, aside = result.HasField("error"), result.HasField("review")
        accepted = not refused and not aside
        told.entries += 1
        told.accepted += accepted
        told.refused += refused
        told.put_aside += aside
        told.replayed += replayed and not aside
        if accepted:
            # Once one has no room, no later one has: they are the first.
            if told.accepted_left_out or size > self._room:
                told.accepted_left_out += 1
                return
            self._accepted.append(result)
        else:
            while size > self._room and self._accepted:
                self._room += size_of(self._accepted.pop())
                told.accepted_left_out += 1
            if told.unaccepted_left_out or size > self._room:
                told.unaccepted_left_out += 1
                return
            self._others.append(result)
        self._room -= size

    def reply(self) -> pb.UploadJournalResponse:
        """Counts of all, and the results in the order of the entries."""
        self._told.results.extend(sorted((*self._accepted, *self._others), key=lambda result: result.index))
        return self._told
