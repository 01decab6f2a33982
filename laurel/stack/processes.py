"""What both embedded servers need: children that die with us, strays, private sockets."""

import ctypes
import hashlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
# PostgreSQL puts ".s.PGSQL.5432.lock" behind it; the system cuts socket paths at 107 bytes.
LONGEST_SOCKET_FOLDER = 85
POLL_SECONDS = 0.01


class StackError(Exception):
    """A part of the local stack can't run; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a child runs as."""

    uid: int
    gid: int
    name: str


def current_account() -> Account:
    """The account this process runs as."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Account(uid, os.getegid(), name)


def unprivileged_account(folder: Path) -> Account:
    """Whom to run as where root is refused: the owner of ``folder`` if it exists, else an account at hand."""
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        try:
            name = pwd.getpwuid(owner.st_uid).pw_name
        except KeyError:
            name = str(owner.st_uid)
        return Account(owner.st_uid, owner.st_gid, name)
    for name in ("postgres", "nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    raise StackError(
        "PostgreSQL refuses to run as root, and this system has none of the accounts postgres, nobody and "
        "daemon; run as an ordinary user or set LAUREL_DATABASE_URL"
    )


def spawn(
    command: Sequence[str],
    *,
    log: IO[bytes],
    dies_by: signal.Signals,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C reaches us and not it.

    On Linux the kernel sends it ``dies_by`` when the thread that called us ends, however
    it ends: call this from the main thread.
    """
    us = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def tie_to_parent() -> None:
        # After the change of user, which would undo it.
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(dies_by))
            if os.getppid() != us:
                os._exit(1)

    switch = account is not None and account.uid != os.geteuid()
    return subprocess.Popen(  # noqa: S603 - our own command line
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=folder,
        env=dict(environment) if environment is not None else None,
        start_new_session=True,
        preexec_fn=tie_to_parent,  # noqa: PLW1509 - touches nothing but prctl
        user=account.uid if switch and account else None,
        group=account.gid if switch and account else None,
        extra_groups=[] if switch else None,
    )


def command_of(pid: int) -> str:
    """The command line of a process, "" if there is none."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listing = subprocess.run(  # noqa: S603
        ["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    )
    return listing.stdout


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end_stray(pid: int, mark: str, signals: Sequence[signal.Signals], seconds: float = 20.0) -> None:
    """End a process left over from an earlier run if its command line holds ``mark``; gently first."""
    for number in signals:
        if mark not in command_of(pid):
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if wait_until(lambda: mark not in command_of(pid), seconds):
            return
    raise StackError(f"process {pid} of an earlier run can't be ended; end it by hand: kill -9 {pid}")


def end_child(child: subprocess.Popen[bytes], signals: Sequence[signal.Signals], seconds: float) -> None:
    """Ask a child to end, gently first, and collect it."""
    for number in signals:
        if child.poll() is not None:
            return
        child.send_signal(number)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def open_log(path: Path, keep_bytes: int = 10 * 1024 * 1024) -> IO[bytes]:
    """A log to append to; one that grew past ``keep_bytes`` becomes ``<name>.old`` first."""
    if path.exists() and path.stat().st_size > keep_bytes:
        path.replace(path.with_name(path.name + ".old"))
    return path.open("ab")


def last_lines(path: Path, count: int = 5) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def socket_folder(folder: Path, account: Account) -> Path:
    """A short private folder for the sockets of what runs in ``folder``: always the same one.

    Checkouts lie deep and socket paths are short, so it lies in the temporary folder,
    owned by ``account`` and closed to everybody else: whoever reaches the socket is let in.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    name = f"laurel-{account.uid}-{digest}"
    path = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(path)) > LONGEST_SOCKET_FOLDER:
        path = Path("/tmp") / name  # noqa: S108 - the name is made unguessable to nobody, but checked below
    try:
        path.mkdir(mode=0o700)
        if account.uid != os.geteuid():
            os.chown(path, account.uid, account.gid)
    except FileExistsError:
        pass
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid:
        raise StackError(f"{path} belongs to somebody else; remove it, or set TMPDIR to another folder")
    path.chmod(0o700)
    return path


def let_through(path: Path, account: Account, notify: Callable[[str], None]) -> None:
    """Let ``account`` pass through the folders above ``path``: search permission, nothing more."""
    for parent in reversed(path.resolve().parents):
        status = parent.stat()
        may_pass = (
            status.st_mode & stat.S_IXUSR
            if status.st_uid == account.uid
            else status.st_mode & stat.S_IXGRP
            if status.st_gid == account.gid
            else status.st_mode & stat.S_IXOTH
        )
        if may_pass:
            continue
        notify(f"PostgreSQL runs as {account.name}, who can't pass through {parent}: chmod o+x {parent}")
        parent.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def let_read(folder: Path) -> None:
    """Let everybody read the files below ``folder`` and run its programs, as after a usual install."""
    for base, _, files in os.walk(folder):
        for path in (Path(base), *(Path(base, name) for name in files)):
            if path.is_symlink():
                continue
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            if wanted != mode:
                path.chmod(wanted)
