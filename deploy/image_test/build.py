"""Builds the image; see image.py."""

import argparse
import sys
from pathlib import Path

from image import Builder


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--program", type=Path, help="the program, already built")
    parser.add_argument("--system", type=Path, help="a system that debootstrap has unpacked, as the base")
    parser.add_argument("--pull", action="store_true", help="pull the base images that the Dockerfile pins")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    builder = Builder(arguments.folder)
    bases = {}
    try:
        bases["CPU_IMAGE"] = base = builder.pinned("CPU_IMAGE") if arguments.pull else builder.base(arguments.system)
        if arguments.program:
            bases["RUST_IMAGE"] = builder.compiler(base, arguments.program)
        else:
            bases["RUST_IMAGE"] = builder.pinned("RUST_IMAGE")
        image = builder.build(**bases)
    except RuntimeError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    print(f"built {image.name}, user {image.user}, from {base}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
