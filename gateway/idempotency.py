"""The id that makes a request happen once: a field of the contract, which a header may fill."""

from google.rpc import code_pb2, error_details_pb2, status_pb2

REQUEST_ID = "request_id"
HINT = "the header Idempotency-Key fills it, too"


def suggest(status: status_pb2.Status) -> None:
    """Name the header in a refusal for want of the field."""
    if status.code != code_pb2.INVALID_ARGUMENT:
        return
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        if not detail.Unpack(request):
            continue
        for violation in request.field_violations:
            if violation.field == REQUEST_ID:
                told = f"{violation.description}; {HINT}"
                status.message = status.message.replace(
                    f"{REQUEST_ID}: {violation.description}", f"{REQUEST_ID}: {told}", 1
                )
                violation.description = told
        detail.Pack(request)
