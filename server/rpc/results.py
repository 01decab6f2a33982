"""The results of a journal in one reply, as far as there is room for them."""

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
    """What is told of an upload at its end. ``room`` for results in bytes."""

    def __init__(self, room: int = RESULTS_BYTES) -> None:
        self.reply = pb.UploadJournalResponse()
        self._room = room

    def add(self, result: pb.JournalResult, *, replayed: bool) -> bool:
        """One more is answered; ``replayed``: it was on record before.

        False if there is no room for it: the upload ends before it. For the first there always is.
        """
        told, size = self.reply, size_of(result)
        if told.entries and size > self._room:
            told.more = True
            return False
        refused, aside = result.HasField("error"), result.HasField("review")
        told.entries += 1
        told.accepted += not refused and not aside
        told.refused += refused
        told.put_aside += aside
        told.replayed += replayed and not aside
        told.results.append(result)
        self._room -= size
        return True
