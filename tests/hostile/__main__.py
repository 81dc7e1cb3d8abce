"""`python -m tests.hostile --cases 100000`: the long run; exit status 1 if any case found a defect."""

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from .doors import DOORS
from .harness import Case, run


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="over all doors, by their shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", choices=DOORS, help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("hostile-failures"), help="where failing inputs go")
    parser.add_argument("--replay", action="append", metavar="DOOR:NUMBER", help="one case of --seed again")
    options = parser.parse_args()
    doors = [DOORS[name] for name in options.door or DOORS]
    if options.replay:
        pairs = (name.rsplit(":", 1) for name in options.replay)
        cases = [Case(door, int(number)) for door, number in pairs]
        doors = [DOORS[name] for name in dict.fromkeys(case.door for case in cases)]
    else:
        shares = sum(door.share for door in doors)
        cases = [
            Case(door.name, i)
            for door in doors
            for i in range(-(-options.cases * door.share // shares))
        ]  # fmt: skip
    start = time.monotonic()
    with tqdm(total=len(cases), unit=" cases", disable=None) as bar:
        tally = run(doors, cases, options.seed, options.jobs, bar.update, options.keep)
    print(tally)
    print(f"{len(cases)} cases of seed {options.seed} in {time.monotonic() - start:.0f} s")
    for (door, kind, detail), found in sorted(tally.defects.items()):
        print(f"{door}, {kind}, {len(found)} times: {detail} (--replay {found[0][0]})")
        if options.replay:
            print(found[0][1].trace)
    if tally.failed:
        print(f"{tally.failed} cases failed; files of some are in {options.keep}", file=sys.stderr)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
