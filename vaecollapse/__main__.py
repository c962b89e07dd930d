"""`python -m vaecollapse train …`: the same as `vaecollapse-train …`, and so for every verb."""

import os
import sys

from . import cli

VERBS = {
    "train": cli.train,
    "evaluate": cli.evaluate,
    "sample": cli.sample,
    "export": cli.export,
    "diagnose": cli.diagnose,
    "report": cli.report,
}


def main() -> int:
    verb = sys.argv[1] if len(sys.argv) > 1 else None
    if verb in ("--version", "--help", "-h"):
        return cli.train()
    if verb not in VERBS and "LOCAL_RANK" in os.environ:
        return cli.train()  # Lightning starts the other ranks by this module and the words after the verb
    if verb not in VERBS:
        print(f"usage: python -m vaecollapse {{{'|'.join(VERBS)}}} …", file=sys.stderr)
        return 2
    del sys.argv[1]
    return VERBS[verb]()


if __name__ == "__main__":
    sys.exit(main())
