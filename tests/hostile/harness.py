"""Cases in a pool of forked processes, and a verdict on each: accepted, refused in a sentence, a defect."""

import contextlib
import faulthandler
import gc
import importlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

MEMORY = 2**30  # bytes that a case may take
SECONDS = 10.0  # that a case may last
MESSAGE = 1000  # characters of an error; more is no sentence
AGAIN = 50  # cases that seem to hang are tried a second time
LIFE = 1000  # cases of a worker, which is then replaced: what leaks stays small
DEFECTS = ("signal", "hang", "memory", "wrong", "outside")


@dataclass(frozen=True)
class Door:
    """One way into the program. make(folder) writes valid files, once; damage(rng, folder) spoils a copy of
    them; call(folder), in that folder, does what a user does with them, and may return or raise ValueError or
    OSError with one sentence. `share` of the cases, beside the other doors' shares.
    """

    name: str
    make: Callable[[Path], None]
    damage: Callable[[random.Random, Path], None]
    call: Callable[[Path], object]
    share: int = 1


@dataclass(frozen=True, order=True)
class Case:
    """Case `number` of a door: with the seed, it names the damage exactly."""

    door: str
    number: int

    def __str__(self) -> str:
        return f"{self.door}:{self.number}"


@dataclass(frozen=True)
class Verdict:
    """kind: "accepted", "refused" or one of DEFECTS. detail: the same for all cases with one cause."""

    kind: str
    detail: str = ""
    trace: str = ""


class Wrong(Exception):
    """What a door's `call` raises for an outcome that is neither of the two allowed."""


@dataclass
class Tally:
    """Verdicts of a run, by door; of each kind of defect the smallest case, by size of its files."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    defects: dict[tuple[str, str, str], list] = field(default_factory=dict)

    def add(self, case: Case, verdict: Verdict) -> None:
        counts = self.counts.setdefault(case.door, {})
        counts[verdict.kind] = counts.get(verdict.kind, 0) + 1
        if verdict.kind in DEFECTS:
            self.defects.setdefault((case.door, verdict.kind, verdict.detail), []).append((case, verdict))

    @property
    def failed(self) -> int:
        return sum(map(len, self.defects.values()))

    def __str__(self) -> str:
        """The table: a line a door."""
        names = ("cases", "accepted", "refused", *DEFECTS)
        heads = {
            "signal": "signals",
            "hang": "hangs",
            "wrong": "wrong exceptions",
            "outside": "touched files",
        }
        heads = [heads.get(name, name) for name in names]
        total: dict[str, int] = {}
        lines = [f"{'door':<14}" + "".join(f"{head:>{max(9, len(head) + 2)}}" for head in heads)]
        for door in (*sorted(self.counts), "all"):
            counts = dict(self.counts[door]) if door in self.counts else total
            if counts is not total:
                counts["cases"] = sum(counts.values())
                for kind, n in counts.items():
                    total[kind] = total.get(kind, 0) + n
            cells = (
                f"{counts.get(name, 0):>{max(9, len(head) + 2)}}"
                for name, head in zip(names, heads, strict=True)
            )
            lines.append(f"{door:<14}" + "".join(cells))
        return "\n".join(lines)


class Arena:
    """Where one worker's cases live: `case`, and beside it what no case may touch."""

    def __init__(self, root: Path):
        self.root, self.case, self.base = root, root / "case", root.parent / "base"
        root.mkdir(parents=True, exist_ok=True)
        self.caches = [root / "home" / name for name in ("barklite", "huggingface")]
        for cache in self.caches:  # the package's own, which a valid Hub id may fill
            cache.mkdir(parents=True, exist_ok=True)
        (root / "sentinel").mkdir(exist_ok=True)
        for name in ("secret.txt", "voice.npz", "model.safetensors"):
            (root / "sentinel" / name).write_bytes(b"nobody reads this, or writes it\n")

    def prepare(self, door: Door, case: Case, seed: int) -> None:
        """The case's files, and this process in their folder."""
        os.chdir(self.root)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.case)
        copy(self.base / door.name, self.case)
        os.chdir(self.case)
        door.damage(random.Random(f"{seed}:{case}"), self.case)

    def around(self) -> dict[str, tuple]:
        """What lies around the case, as far as a change would show."""
        seen, folders = {}, [self.root]
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if Path(entry.path) in (self.case, *self.caches):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    status = entry.stat(follow_symlinks=False)
                    seen[entry.path] = (status.st_mode, status.st_size, status.st_mtime_ns)
        return seen


def copy(source: Path, target: Path) -> None:
    """A folder's copy; large files are linked, so whoever damages one must replace it (`put`)."""
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            place = target / entry.name
            if entry.is_dir():
                copy(Path(entry.path), place)
            elif entry.stat().st_size > 2**16:
                os.link(entry.path, place)
            else:
                place.write_bytes(Path(entry.path).read_bytes())


class Watch:
    """An audit hook that notes what a case opens for writing, removes or starts outside its folder."""

    CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
    CHANGES += ("os.chmod", "os.chown", "os.utime", "shutil.rmtree")
    STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen")
    STARTS += ("socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen", "pty.spawn")
    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self, arena: Arena):
        self.inside, self.root = f"{os.path.realpath(arena.case)}/", f"{os.path.realpath(arena.root)}/"
        self.own = (self.inside, *(f"{os.path.realpath(cache)}/" for cache in arena.caches))
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)):
                self._look(event, path, bool((flags or 0) & self.WRITES))
        elif event in self.CHANGES:
            for path in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._look(event, path, True)
        elif event in self.STARTS:
            self.seen.append(f"{event} {str(arguments[0])[:60]}")

    def _look(self, event: str, path: str | bytes | os.PathLike, writes: bool) -> None:
        with contextlib.suppress(ValueError, OSError):
            place = os.fsdecode(path)
            place = os.path.normpath(os.path.join(self.inside, place))
            if writes:
                place = os.path.realpath(place)
            inside = f"{place}/".startswith(self.own)
            named = place in (os.devnull, self.root.rstrip("/"))  # as `-i ..` does; a folder gives no content
            if not inside and (writes or f"{place}/".startswith(self.root)) and not named:
                self.seen.append(f"{event} {place.removeprefix(self.root)}")


# --- one case ---------------------------------------------------------------------------------------------


def judge(door: Door, case: Case, seed: int, arena: Arena, watch: Watch) -> Verdict:
    """Run a case here. What kills or stops this process, the pool notices."""
    arena.prepare(door, case, seed)
    before = arena.around()
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"Hello.\n"))
    limit(MEMORY)
    error = None
    watch.seen, watch.on = [], True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            door.call(arena.case)
    except BaseException as raised:
        error = raised
    finally:
        watch.on = False
        limit(None)
    try:
        os.chdir(arena.case)
        after = arena.around()
    except OSError:
        return Verdict("outside", "the case's folder is gone")
    if touched := [*watch.seen, *sorted(str(path) for path in before.items() ^ after.items())]:
        return Verdict("outside", touched[0][:200], "\n".join(touched))
    return verdict_of(error)


def verdict_of(error: BaseException | None) -> Verdict:
    if error is None:
        return Verdict("accepted")
    trace = "".join(traceback.format_exception(error))
    where = f"{type(error).__name__} {_place(error)}"
    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if lacking := next((link for link in chain if _is_memory(link)), None):
        return Verdict("memory", f"{type(lacking).__name__} {_place(lacking)}", trace)
    text = str(error)
    if isinstance(error, Wrong):
        return Verdict("wrong", text.partition("\n")[0], trace)
    if type(error) is not ValueError and not isinstance(error, OSError):
        return Verdict("wrong", where, trace)
    if not text.strip() or "\n" in text or len(text) > MESSAGE:
        return Verdict("wrong", f"no sentence, {where}", trace)
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        return Verdict("wrong", f"no file named, {where}", trace)
    return Verdict("refused", text)


def _is_memory(error: BaseException) -> bool:
    words = ("allocate memory", "alloc_cpu", "bad_alloc", "Unable to allocate")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _place(error: BaseException) -> str:
    """The line of ours that was running, and the one that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/barklite/" in f.filename or "/weights_convert/" in f.filename]
    names = {f"{Path(f.filename).name}:{f.lineno} {f.name}": None for f in [*ours[-1:], *frames[-1:]]}
    return "at " + ", in ".join(names)


def limit(more: int | None) -> None:
    """Let this process map at most `more` bytes beyond what it has; None: as much as it wants."""
    soft = resource.RLIM_INFINITY
    if more is not None:
        with open("/proc/self/statm") as file:
            soft = int(file.read().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))


# --- the pool ---------------------------------------------------------------------------------------------


def run(
    doors: Iterable[Door],
    cases: Iterable[Case],
    seed: int,
    jobs: int = 2,
    tick: Callable[[], None] = lambda: None,
    keep: Path | None = None,
) -> Tally:
    """Judge the cases. keep: where the files of the first cases of each defect go."""
    tally, table = Tally(), {door.name: door for door in doors}
    fast = Path("/dev/shm")  # syncing costs nothing there
    place = fast if os.access(fast, os.W_OK) and shutil.disk_usage(fast).free > 2**29 else None
    with tempfile.TemporaryDirectory(prefix="hostile-", dir=place) as root, contextlib.ExitStack() as stack:
        root = Path(root)
        for door in table.values():
            (root / "base" / door.name).mkdir(parents=True)
            door.make(root / "base" / door.name)
        pool = _Pool(table, root, seed)
        stack.callback(pool.close)

        def add(case: Case, verdict: Verdict) -> None:
            tally.add(case, verdict)
            if keep is not None and verdict.kind in DEFECTS:
                _keep(table[case.door], case, seed, verdict, root, keep, tally)
            tick()

        hung = []
        for case, verdict in pool.judged(iter(cases), jobs):
            if verdict.kind == "hang" and len(hung) < AGAIN:
                hung.append(case)
            else:
                add(case, verdict)
        for case in hung:  # once more, alone: the machine may only have been busy
            add(*next(pool.judged(iter([case]), 1)))
    return tally


def _keep(door: Door, case: Case, seed: int, verdict: Verdict, root: Path, keep: Path, tally: Tally) -> None:
    if len(tally.defects[case.door, verdict.kind, verdict.detail]) > 3:
        return
    here = os.getcwd()
    arena = Arena(root / "kept")
    try:
        arena.prepare(door, case, seed)
    finally:
        os.chdir(here)
    target = keep / verdict.kind / str(case).replace(":", "-")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(shutil.Error):  # a pipe is not copied
        shutil.copytree(arena.case, target, symlinks=True)
    target.mkdir(parents=True, exist_ok=True)
    (target / "VERDICT.txt").write_text(
        f"{case} of seed {seed}: {verdict.kind}, {verdict.detail}\n\n{verdict.trace}\n",
        encoding="utf-8", errors="backslashreplace",
    )  # fmt: skip


class _Pool:
    """Forked workers, each with a pipe; one that dies or does not answer is replaced."""

    def __init__(self, table: dict[str, Door], root: Path, seed: int):
        self.table, self.root, self.seed = table, root, seed
        self.context = multiprocessing.get_context("fork")
        self.workers: dict[int, _Worker] = {}

    def judged(self, cases: Iterator[Case], jobs: int) -> Iterator[tuple[Case, Verdict]]:
        busy: dict[object, tuple[int, Case, float]] = {}  # by pipe
        free = list(range(jobs))
        case = next(cases, None)
        while busy or case is not None:
            while free and case is not None:
                number = free.pop()
                pipe = self._worker(number).pipe
                try:
                    pipe.send(case)
                except OSError:  # it died after its last case
                    self._replace(number)
                    pipe = self._worker(number).pipe
                    pipe.send(case)
                busy[pipe] = number, case, time.monotonic() + SECONDS
                case = next(cases, None)
            soonest = min(deadline for *_, deadline in busy.values())
            ready = wait(list(busy), max(0.0, soonest - time.monotonic()))
            late = [] if ready else [p for p, (*_, deadline) in busy.items() if deadline <= time.monotonic()]
            for pipe in [*ready, *late]:
                number, done, _ = busy.pop(pipe)
                free.append(number)
                worker = self.workers[number]
                try:
                    verdict = pipe.recv() if pipe in ready else Verdict("hang", f"over {SECONDS:g} s")
                except (EOFError, OSError):
                    worker.process.join()
                    code = worker.process.exitcode
                    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                    verdict = Verdict("signal", name)
                worker.cases += 1
                if verdict.kind in ("signal", "hang") or worker.cases >= LIFE:
                    self._replace(number)
                yield done, verdict

    def _worker(self, number: int) -> "_Worker":
        if number not in self.workers:
            ours, theirs = self.context.Pipe()
            arguments = (theirs, self.table, self.root / f"worker-{number}", self.seed)
            process = self.context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            ours.recv()  # it is ready: the first case's time begins
            self.workers[number] = _Worker(process, ours)
        return self.workers[number]

    def _replace(self, number: int) -> None:
        worker = self.workers.pop(number)
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        shutil.rmtree(self.root / f"worker-{number}", ignore_errors=True)

    def close(self) -> None:
        for number in list(self.workers):
            self._replace(number)


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: object
    cases: int = 0


def _work(pipe, table: dict[str, Door], root: Path, seed: int) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    sink = open(os.devnull, "r+b")  # noqa: SIM115
    for stream in (0, 1, 2):
        os.dup2(sink.fileno(), stream)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    arena = Arena(root)
    os.environ |= {"HOME": str(arena.root / "home"), "XDG_CACHE_HOME": str(arena.root / "home")}
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    watch = Watch(arena)
    gc.collect()
    gc.freeze()
    pipe.send(None)
    while True:
        try:
            case = pipe.recv()
        except (EOFError, OSError):
            return
        verdict = judge(table[case.door], case, seed, arena, watch)
        for stream in (sys.stdout, sys.stderr):
            stream.seek(0)
            stream.truncate()
        pipe.send(verdict)
