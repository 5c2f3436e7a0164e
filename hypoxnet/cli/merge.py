"""`hypoxnet merge`: one table of the parts of a cohort."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hypoxnet.cli.paths import existing_folder

OK, SOME_FAILED = 0, 2


def add_merge(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb; libraries are loaded when it is used."""
    parser = verbs.add_parser(
        "merge",
        help="make one table of the parts that infer.py shard=1/4 ... predicted",
        description="Write predictions.csv of a folder whose parts were predicted by infer.py shard=1/4, 2/4 ...; the "
        "part that is finished last does so by itself. Exit status 2 when a case failed or a part is missing.",
        epilog="example: hypoxnet merge predictions",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder of the predictions")
    parser.set_defaults(run=run_merge)


def run_merge(options: argparse.Namespace) -> int:
    """Merge, and say which cases failed."""
    output = existing_folder(options.output, "give the folder of the predictions")

    from hypoxnet.inference.cluster.shards import merge

    table, failed = merge(output)
    print(table)
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    return SOME_FAILED if failed else OK
