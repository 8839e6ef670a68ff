"""One SQLite file, one writer thread, group commit. What `write` returned is on the disk.

- All writes of the process go through one connection on one thread, which also does the checkpoints. Everybody
  else reads through read-only connections. (Two connections that write and checkpoint at one moment can damage a
  database in SQLite before 3.51.3; so can a second writing process, which the daemon's lock keeps away.)
- Writes that wait while a transaction commits share the next one. Each stands in a savepoint of its own: one that
  fails undoes itself only.
- The schema of each module is a numbered sequence of its own (`Migrations`), so that rooms which do not know each
  other share one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import os
import queue
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from fleet.errors import NetworkFilesystem, SchemaTooNew, StorageError, StorageFull

T = TypeVar("T")
Fn = Callable[[sqlite3.Connection], T]

GROUP = 512
"""Writes that share one transaction at most."""

LOG_PAGES = 4096
"""Pages of the write-ahead log after which a commit itself brings them into the file. SQLite's own 1000 are soon
reached by small writes to large indices, each of which then waits for the file as well."""

REST = 0.25
"""Seconds without a write after which they are brought there while nobody waits …"""

WORTH_IT = 256
"""… if there were so many."""

FRAME = 4096 + 24
"""Bytes that a page takes in the write-ahead log."""

ROOM_AT_ONCE = 2**20
"""Bytes of room that are written at once."""

PLENTY = 8
"""Room is made where the disk has so many times as much."""

BACKUPS_KEPT = 3

READERS = 2
"""Threads that read."""

NETWORK_FILESYSTEMS = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x00C36400: "ceph",
    0x19830326: "beegfs",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0xAAD7AAEA: "panfs",
    0x20030528: "orangefs",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
}
"""`f_type` of statfs(2) for file systems that several machines write at once: WAL's shared memory is not shared
there."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """One module's schema: step N brings it from version N-1 to N. Steps are only ever added at the end."""

    module: str
    steps: tuple[str | Fn[None], ...]
    """SQL statements, or a function where SQL is not enough."""


class Database:
    """The open database. Made by `open`; `close` it."""

    def __init__(self, path: Path, writer: sqlite3.Connection) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = False
        self._close_lock = threading.Lock()
        self._read_connections: list[sqlite3.Connection] = []
        self._of_thread = threading.local()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="fleet-db-read")
        # A daemon thread: a loop that crashed must not hang the process; what was not answered is not promised.
        self._writer = threading.Thread(
            target=_write_all,
            args=(writer, self._jobs, _Pauses(writer)),
            name="fleet-db-write",
            daemon=True,
        )
        self._writer.start()

    @classmethod
    def open(cls, path: Path, migrations: Sequence[Migrations], *, roomy: bool = False) -> Database:
        """Open or create the file (0600), and bring every module's schema to its newest step, all or none. `roomy`:
        somebody waits for each of many small commits, so that space, and a tenth of a second of the opening, is spent
        to have them sooner.

        Where there is something to migrate in a file that holds something, a copy stands beside it first
        (`fleet.db.bak-N`). Raise `NetworkFilesystem`, `SchemaTooNew`, `StorageFull` or `StorageError`; the file is
        then as it was.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        refuse_network_filesystem(path.parent)
        with _translated(path):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            connection = _connect(path, read_only=False)
            try:
                _migrate(connection, path, migrations)
                if roomy:
                    _make_room(connection, path.with_name(path.name + "-wal"))
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    async def write(self, fn: Fn[T]) -> T:
        """Run `fn` in a transaction on the writer's connection, and return its value once it is committed.

        Whatever `fn` raises is raised here, with nothing of it kept; SQLite's own errors as `StorageError`, a full
        disk as `StorageFull`, after which the next write tries again. `fn` speaks to the connection only, never
        commits, and may be run a second time where its transaction was lost through another's fault.
        A caller that is cancelled leaves its write to happen.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(value: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(cast(T, value))
            elif isinstance(error, StopIteration):  # a future cannot carry one
                future.set_exception(RuntimeError("the write raised StopIteration"))
            else:
                future.set_exception(error)

        self.submit(fn, done)
        return await future

    def submit(self, fn: Fn[T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """The same without waiting: `done(value, error)` is called on the running loop, once, and does not raise."""
        with self._close_lock:
            if self._closing:
                raise StorageError(f"{self.path} is closed.")
            self._jobs.put(_Job(fn, asyncio.get_running_loop(), done))

    async def read(self, fn: Fn[T]) -> T:
        """Run `fn` on a read-only connection in a thread; all it reads is of one moment. Keep it short: it holds
        back the log's reuse."""
        loop = asyncio.get_running_loop()
        if self._closing:
            raise StorageError(f"{self.path} is closed.")
        return await loop.run_in_executor(self._readers, self._read_in_thread, fn)

    def read_now(self, fn: Fn[T]) -> T:
        """The same in the calling thread: for start-up, before the loop serves anybody."""
        with _translated(self.path), contextlib.closing(_connect(self.path, read_only=True)) as connection:
            return _read(connection, fn)

    async def close(self) -> None:
        """Commit what waits, then let go of the file: the writer last, since only it can leave it whole."""
        await asyncio.to_thread(self._readers.shutdown)
        while self._read_connections:
            self._read_connections.pop().close()
        with self._close_lock:
            if not self._closing:
                self._closing = True
                self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)

    def _read_in_thread(self, fn: Fn[T]) -> T:
        with _translated(self.path):
            connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
            if connection is None:
                connection = self._of_thread.connection = _connect(self.path, read_only=True)
                self._read_connections.append(connection)
            return _read(connection, fn)


# -- the writer ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Job:
    """One write that waits, and then how it went."""

    fn: Fn[Any]
    loop: asyncio.AbstractEventLoop
    done: Callable[[Any, BaseException | None], None]
    result: Any = None
    error: BaseException | None = None


class _Lost(Exception):
    """SQLite itself has rolled back the whole transaction (disk full, I/O error)."""


def _write_all(connection: sqlite3.Connection, jobs: queue.SimpleQueue[_Job | None], pauses: _Pauses) -> None:
    """The writer thread's whole life."""
    with contextlib.closing(connection):
        while True:
            try:
                first = jobs.get(timeout=pauses.due)
            except queue.Empty:
                pauses.use()
                continue
            if first is None:
                return
            group, last = _waiting(first, jobs)
            pauses.written(len(group))
            try:
                if len(group) == 1:  # a savepoint would keep a copy of every page that it changes
                    _alone(connection, group[0])
                else:
                    _together(connection, group)
            except (_Lost, sqlite3.Error):
                for job in group:
                    _alone(connection, job)
            _answer(group)
            if last:
                return


class _Pauses:
    """What the writer does while nobody waits, a little at a time, so that those who come then do not have to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._written = 0
        """Since the log was brought into the file."""
        self.due: float | None = None
        """Seconds without a write after which there is something to do; `None`: nothing."""

    def written(self, count: int) -> None:
        self._written += count
        self.due = REST if self._written >= WORTH_IT else None

    def use(self) -> None:
        """Do some of it."""
        self._written, self.due = 0, None
        with contextlib.suppress(sqlite3.Error):  # the next commits will do it
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _make_room(connection: sqlite3.Connection, log: Path) -> None:
    """Put zeros behind what is in the write-ahead log, as far as it grows before a commit empties it. After a kill the
    log is as long as it was, and nothing is left to do.

    A commit that makes the file longer has to wait for the file system's own journal, and with it for what everybody
    else writes: on ext4 ten times as long, one time in ten. SQLite reads no further than the first frame that is none,
    and writes over what follows.
    """
    whole = LOG_PAGES * FRAME
    if not log.exists() or not log.stat().st_size:  # something has to be in it first
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute(f"PRAGMA user_version = {version}")
    # That there is none is no reason to open nothing: it is a help, not a need.
    with contextlib.suppress(OSError), log.open("r+b", buffering=0) as file:
        size, disk = file.seek(0, os.SEEK_END), os.fstatvfs(file.fileno())
        if size >= whole or disk.f_bavail * disk.f_frsize < PLENTY * whole:
            return
        try:
            while (left := whole - file.tell()) > 0:
                file.write(bytes(min(left, ROOM_AT_ONCE)))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _waiting(first: _Job, jobs: queue.SimpleQueue[_Job | None]) -> tuple[list[_Job], bool]:
    """What waits now, and whether the end was among it."""
    group = [first]
    while len(group) < GROUP:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            break
        if job is None:
            return group, True
        group.append(job)
    return group, False


def _together(connection: sqlite3.Connection, group: list[_Job]) -> None:
    """All in one transaction, each in its savepoint. Raise where the transaction as a whole was lost."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in group:
            connection.execute("SAVEPOINT job")
            _run(connection, job)
            if not connection.in_transaction:
                raise _Lost
            if job.error is not None:
                connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _alone(connection: sqlite3.Connection, job: _Job) -> None:
    """One in a transaction of its own; its error is its own."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        _run(connection, job)
        if job.error is None:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        job.error = error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _run(connection: sqlite3.Connection, job: _Job) -> None:
    job.result, job.error = None, None
    try:
        job.result = job.fn(connection)
    except BaseException as error:  # noqa: BLE001  it is raised where the write was asked for
        job.error = error


def _answer(group: list[_Job]) -> None:
    """Tell the askers, with one wake-up per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, answered in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_settle, answered)


def _settle(answered: Iterable[_Job]) -> None:
    for job in answered:
        error = job.error
        if isinstance(error, sqlite3.Error):
            error = _translate(error, None)
            error.__cause__ = job.error
        job.done(job.result if error is None else None, error)  # it may have run, and its commit have failed


# -- connections ---------------------------------------------------------------------------------------------------


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, with modest memory. It may be handed from one thread to another."""
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA cache_size = -2048")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            _prepare_for_writing(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare_for_writing(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise NetworkFilesystem(
            f"The folder {path.parent} cannot hold the database: SQLite got journal mode {mode!r} there, not WAL.",
            hint=_REMEDY,
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")


def _read(connection: sqlite3.Connection, fn: Fn[T]) -> T:
    connection.execute("BEGIN")
    try:
        return fn(connection)
    finally:
        connection.execute("ROLLBACK")


# -- the schema ----------------------------------------------------------------------------------------------------


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migrations]) -> None:
    have = _versions(connection)
    know = {migration.module: len(migration.steps) for migration in migrations}
    for module, version in have.items():
        if version > know.get(module, 0):
            raise SchemaTooNew(
                f"{path} was written by a newer fleet (its {module!r} schema is {version}; this version knows "
                f"{know.get(module, 0)}). Nothing was changed.",
                hint=f"Use the newer fleet again{_or_backup(path)}.",
            )
    pending = [m for m in migrations if have.get(m.module, 0) < len(m.steps)]
    if not pending:
        return
    if have:
        _back_up(connection, path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (module TEXT PRIMARY KEY, version INTEGER NOT NULL)"
        )
        for migration in pending:
            for step in migration.steps[have.get(migration.module, 0) :]:
                _apply(connection, step)
            connection.execute(
                "INSERT INTO schema_version (module, version) VALUES (?, ?)"
                " ON CONFLICT (module) DO UPDATE SET version = excluded.version",
                (migration.module, len(migration.steps)),
            )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _versions(connection: sqlite3.Connection) -> dict[str, int]:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
        return {}
    return {row["module"]: row["version"] for row in connection.execute("SELECT module, version FROM schema_version")}


def _apply(connection: sqlite3.Connection, step: str | Fn[None]) -> None:
    if callable(step):
        step(connection)
        return
    for statement in _statements(step):
        connection.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """The script's statements one by one: `executescript` would commit before it begins."""
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \n\t;"):
                yield statement
            statement = ""
    if statement.strip(" \n\t;"):
        yield statement


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    """A whole copy beside the file, under the next number; the oldest beyond `BACKUPS_KEPT` go."""
    numbered = _backups(path)
    number = numbered[-1][0] + 1 if numbered else 1
    target = path.with_name(f"{path.name}.bak-{number}")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(part)) as copy:
            connection.backup(copy)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    for _, old in [*numbered, (number, target)][:-BACKUPS_KEPT]:
        old.unlink(missing_ok=True)


def _backups(path: Path) -> list[tuple[int, Path]]:
    """The whole copies beside the file with their numbers, oldest first."""
    return sorted(
        (int(found.name.rpartition("-")[2]), found)
        for found in path.parent.glob(f"{path.name}.bak-*")
        if found.name.rpartition("-")[2].isdigit()
    )


# -- what can go wrong ---------------------------------------------------------------------------------------------

_REMEDY = (
    "Name a folder on a local disk: `database_folder: /var/tmp/…` in config.yaml, or FLEET_DATABASE_FOLDER. "
    "Everything else may stay where it is."
)


def place(beside: Path, folder: str) -> Path:
    """Where the database is: as a rule beside the rest of the state, else in the local folder that the settings name,
    under a name that no other state's database has there."""
    if not folder:
        return beside
    mark = hashlib.sha256(os.fsencode(beside.absolute())).hexdigest()[:16]
    return Path(folder).expanduser() / f"{beside.stem}-{mark}{beside.suffix}"


def refuse_network_filesystem(folder: Path) -> None:
    """Raise `NetworkFilesystem` where several machines could write the folder at once."""
    kind = NETWORK_FILESYSTEMS.get(_filesystem_type(folder) or 0)
    if kind is not None:
        raise NetworkFilesystem(
            f"{folder} is on a network file system ({kind}), where the database could be damaged.", hint=_REMEDY
        )


def _filesystem_type(folder: Path) -> int | None:
    """`f_type` of statfs(2); `None` where this system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    answer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes at most; f_type is its first long
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), answer) != 0:
        return None
    return ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error


def _translate(error: sqlite3.Error, path: Path | None) -> StorageError:
    where = f"{path}: " if path else ""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StorageFull()
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageError(f"{where}the database is damaged ({error}).", hint=_instead(path))
    return StorageError(f"{where}{error}")


def _instead(path: Path | None) -> str:
    """What to do about a damaged file: its newest backup, where there is one, else a new file."""
    if path is None:
        return "`fleet daemon restart` says which file it is, and what can stand in its place."
    if kept := _backups(path):
        return f"Stop the daemon, put the file aside, and put its newest backup in its place: {kept[-1][1]}"
    return (
        "There is no backup of it. Stop the daemon, put the file aside, and start your agents again: each start ends "
        "what an earlier one has left running. What the file held is lost: the history, and which agents there were."
    )


def _or_backup(path: Path) -> str:
    kept = _backups(path)
    return f", or put the newest backup ({kept[-1][1].name}) in its place" if kept else ""
