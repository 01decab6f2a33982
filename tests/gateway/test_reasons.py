import re
from pathlib import Path

from loyalty.v1 import error_reason_pb2

import gateway

REASON = re.compile(r'"([A-Z][A-Z]+(?:_[A-Z]+)+)"')


def test_every_reason_that_the_shim_gives_is_in_the_contract() -> None:
    sources = Path(gateway.__file__).parent.glob("*.py")
    given = {found for source in sources for found in REASON.findall(source.read_text())}
    assert {"ROUTE_UNKNOWN", "TOO_MANY_STREAMS"} <= given
    known = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert given <= known
