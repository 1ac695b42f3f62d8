"""Check that a server gives the log-probabilities of the policies in a run.

Serve the types of a run of em-dpo by vLLM, each under its own name:

    vllm serve BASE --enable-lora --max-lora-rank 16 \\
        --lora-modules type-1=runs/people/type-1 type-2=runs/people/type-2

and compare them with `pluralign.load_policy`, in the precision that the server uses:

    python examples/serving/check.py runs/people test.parquet --server http://127.0.0.1:8000 --dtype bfloat16

The exit code is 1 if a model differs by more than the tolerance.
"""

import argparse
import sys

import torch

from pluralign.core.errors import PluralignError
from pluralign.workflows.serving import compare_served

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""Nats a token: kernels add in another order, and shorter formats round more."""


def main() -> None:
    """Compare, print a line for each model, and exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="A run, a model folder, or an adapter.")
    parser.add_argument("files", nargs="+", help="Canonical files; their responses are compared.")
    parser.add_argument("--server", required=True, help="The address, like http://127.0.0.1:8000.")
    parser.add_argument("--base", help="The name of the base on the server, to compare it too.")
    parser.add_argument("--model", help="The name of a policy without types; default: the folder's name.")
    parser.add_argument("--responses", type=int, default=32, help="The most responses to compare.")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32", help="Of the model here.")
    parser.add_argument("--tolerance", type=float, help="The largest difference in nats a token.")
    given = parser.parse_args()
    tolerance = TOLERANCE[given.dtype] if given.tolerance is None else given.tolerance
    options = {"base": given.base, "model": given.model, "most": given.responses, "dtype": getattr(torch, given.dtype)}
    try:
        found = compare_served(given.run, given.files, given.server, **options)
    except PluralignError as fault:
        sys.exit(f"check: {fault}")
    for one in found:
        print(
            f"{one.name}: {one.responses} responses, {one.tokens} tokens: difference {one.mean_difference:.2g} nats a "
            f"token on average, {one.largest_difference:.2g} at most"
        )
    broken = [one.name for one in found if not one.largest_difference <= tolerance]
    if broken:
        sys.exit(f"check: {', '.join(broken)}: more than {tolerance:g} nats a token apart: is it the same adapter?")


if __name__ == "__main__":
    main()
