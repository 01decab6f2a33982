"""A server process whose instruments count nothing, for what metrics cost.

    python -m bench.untold

Otherwise the same as `python -m laurel.process`. No setting does that: whoever runs Laurel has metrics.
"""

import sys
from typing import Any

from laurel.process.__main__ import main
from telemetry.metrics import Counter, Series


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Count nothing."""


if __name__ == "__main__":
    setattr(Counter, "add", _nothing)  # noqa: B010 - a method, replaced
    setattr(Series, "observe", _nothing)  # noqa: B010 - a method, replaced
    sys.exit(main())
