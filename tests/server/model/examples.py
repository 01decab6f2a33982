"""How many histories are tried, and what comes with one that fails."""

import contextlib
import os
from collections.abc import Callable, Iterator

from hypothesis import HealthCheck

from server.domain.lots import LotTerms
from server.domain.program import Clawback

# As many as are asked for; 0 for those that `make test` has time for.
EXAMPLES = int(os.environ.get("LAUREL_MODEL_EXAMPLES") or 0)
UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

Policy = tuple[LotTerms, LotTerms, Clawback]


@contextlib.contextmanager
def noted(report: Callable[[], str]) -> Iterator[None]:
    """What fails within comes with a report."""
    try:
        yield
    except AssertionError as failure:
        failure.add_note(report())
        raise
