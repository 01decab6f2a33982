"""All that one binding needs to be served, made once."""

from dataclasses import dataclass

from gateway.bindings import Binding
from gateway.contract import Contract
from gateway.replies import ReplyWriter
from gateway.requests import RequestReader
from gateway.shapes import Shapes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A binding, its reader of requests and its writer of replies."""

    binding: Binding
    path: str
    reader: RequestReader
    writer: ReplyWriter

    @property
    def client_streams(self) -> bool:
        """Whether the client sends any number of messages."""
        return bool(self.binding.rpc.client_streaming)


def endpoints(contract: Contract) -> dict[Binding, Endpoint]:
    """Every binding of the contract with what serves it."""
    shapes = Shapes()
    return {
        binding: Endpoint(
            binding,
            binding.path,
            RequestReader(contract, shapes, binding),
            ReplyWriter(contract, binding),
        )
        for binding in contract.routes.bindings
    }
