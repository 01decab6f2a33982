"""Which line of a file first named something, for files of any length."""

import os
import sqlite3
from hashlib import blake2b


class Seen:
    """Remembers lines by what they named, in a file without a name that ends with the process.

    Only keyed hashes are kept: what is named may be personal.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        # SQLite's own temporary database: in memory while small, on disk beyond that.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;"
            "CREATE TABLE seen (hash BLOB PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID"
        )

    def first(self, named: str, line: int) -> int:
        """The line that named it first: ``line`` itself if none did before."""
        hashed = blake2b(named.encode(errors="surrogatepass"), key=self._key, digest_size=16).digest()
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (hashed, line))
        if added.rowcount:
            return line
        [(found,)] = self._database.execute("SELECT line FROM seen WHERE hash = ?", (hashed,))
        return int(found)

    def close(self) -> None:
        """Forget everything."""
        self._database.close()
