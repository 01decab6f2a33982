"""Files that appear under their name only when they are whole."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class Draft:
    """A file to write, readable by its owner only; it takes its name, and what stood there, on ``keep``.

    As a context manager it is dropped unless it was kept. Raises OSError, also where something stands that
    is no file, such as a device: it can't be replaced by one.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "what is there is no regular file", str(path))
        self.path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.file: BinaryIO = os.fdopen(descriptor, "wb")

    def keep(self) -> None:
        """Write everything to disk and give the file its name; another one of that name is replaced."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._draft.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the name could be lost with the power
        finally:
            os.close(folder)

    def drop(self) -> None:
        """Leave nothing behind; after ``keep`` it does nothing."""
        self._draft.unlink(missing_ok=True)
        with suppress(OSError):  # of a full disk, about what isn't wanted any more
            self.file.close()

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.drop()
