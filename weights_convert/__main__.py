"""`python -m weights_convert SOURCE DIR`: the same as `barklite convert`."""

import sys

from barklite.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
