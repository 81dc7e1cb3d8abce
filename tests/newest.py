"""The newest release of everything that the tests compare with: which versions differ, which tests fail.

    python tests/newest.py            installs into the running environment: use a fresh one

PyTorch is taken as it is installed, so that its build (CPU or CUDA) is the caller's choice.
"""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pins() -> dict[str, str]:
    """Package -> version of tests/constraints.txt; of those with several, the first."""
    lines = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "tests" / "constraints.txt").read_text(), re.MULTILINE)
    return dict(reversed(lines))


def changed(installed: dict[str, str]) -> list[str]:
    """A line for each package whose version is not the pinned one."""
    return [
        f"{name}: {pinned} -> {installed[name]}"
        for name, pinned in sorted(pins().items())
        if installed.get(name, pinned).partition("+")[0] != pinned
    ]


def main() -> int:
    install = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([*install, ".[test]"], cwd=ROOT, check=True)
    installed = {name: metadata.version(name) for name in pins()}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    failed = [line for line in tests.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print(tests.stdout)
    print("Newer than tests/constraints.txt:", *(changed(installed) or ["nothing"]), sep="\n  ")
    print("Fails with them:", *(failed or ["nothing"]), sep="\n  ")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
