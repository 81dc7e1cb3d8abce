"""Kill a process at every point where it changes the disk, and look at what it left behind."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType

from barklite.storage import atomic

NAMES = "fsync replace rename link symlink mkdir rmdir unlink remove truncate"
POINTS = (*((os, name) for name in NAMES.split()), (atomic, "_exchanged"))


def kills(
    run: Callable[[], object],
    check: Callable[[int], object] = lambda n: None,
    points: Iterable[tuple[ModuleType, str]] = POINTS,
    seconds: float = 60,
) -> int:
    """How often a process that calls `run` was killed: before its first call of `points`, its second, and so
    on, until it ends by itself.

    Each process is a fork with nothing shared; `check(n)` is called here after the n-th was killed, and must
    leave the disk as `run` is to find it. AssertionError if a process fails or hangs.
    """
    points = [*points]
    for n in range(1, 10_000):
        if in_child(lambda n=n: (_arm(points, n), run()), seconds):
            return n - 1
        check(n)
    raise AssertionError("ten thousand kills, and no end")


def in_child(run: Callable[[], object], seconds: float = 60) -> bool:
    """Run in a process of its own, as the next start of a program would: False if it was killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        try:
            atomic.sweep.cache_clear()  # a new process knows no directory
            run()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"a process did not end within {seconds} s")
        time.sleep(0.002)
    if os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL:
        return False
    assert ended[1] == 0, f"a process ended with {os.waitstatus_to_exitcode(ended[1])}"
    return True


def _arm(points: list[tuple[ModuleType, str]], n: int) -> None:
    """From here on the n-th call of any of `points` kills this process in its place."""
    left = n

    def deadly(function: Callable) -> Callable:
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for module, name in points:
        setattr(module, name, deadly(getattr(module, name)))
