"""Compares the Triton kernels, run by Triton's interpreter, with the oracle; prints the worst errors.

A program of its own: the interpreter must be chosen before the kernels are defined.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

from scan_oracle import problem, relative_error
from test_selective_scan import NAMES, oracle, run

from aescli.ops.scans import kernels

# batch, groups, channels per group, length, states
SHAPES = [(2, 3, 2, 5, 2), (1, 2, 5, 40, 3), (1, 1, 2, 100, 1), (1, 1, 2, 33, 16), (1, 1, 1, 1, 1)]

if __name__ == "__main__":
    kernels.TILE_ELEMENTS = (
        64  # so that short sequences, which the slow interpreter can do, need several chunks
    )
    worst = dict.fromkeys(NAMES, 0.0)
    for shape in SHAPES:
        for low, high in ((1e-4, 50.0), (1e-4, 1e-3)):
            arrays = [x.astype("float32").astype("float64") for x in problem(0, *shape, low, high)]
            got, weights = run(arrays, "triton")
            for name, a, b in zip(NAMES, got, oracle(arrays, weights), strict=True):
                worst[name] = max(worst[name], relative_error(a, b))
    steps = [kernels.tile_shape(s[2], s[4], s[3])["BLOCK_T"] for s in SHAPES]
    json.dump(
        {"worst": worst, "chunks": [-(-s[3] // t) for s, t in zip(SHAPES, steps, strict=True)]}, sys.stdout
    )
