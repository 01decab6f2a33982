"""What a long-lived process does for its memory once everything is loaded."""

import gc

# Objects more than were freed since the last look, before the youngest are looked through
# again. A batch of 128 purchases makes about that many; with Python's 700 that was done a
# dozen times a batch, and nearly all it found was still in use.
YOUNG = 10_000


def settle() -> None:
    """Spare what has been loaded from being looked through ever again; call it once, when ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
