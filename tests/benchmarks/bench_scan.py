"""Milliseconds per selective scan for each backend that runs here; forward alone, and forward with backward.

    python tests/benchmarks/bench_scan.py [--device cuda] [--threads 2] [--seconds 1.0] [--only NAME]

All backends of one shape are timed in turns within one run and the best time of each counts, since a shared
machine drifts and interrupts: compare only the columns of one row. A star marks the choice of "auto".
"""

import argparse
import time

import torch

from aescli.ops.selective_scan import BACKENDS, available, choose_backend, selective_scan

# name: batch, groups, channels, length, states
SHAPES = {
    "momamba 7x7, d 256": (32, 1, 256, 12, 16),
    "momamba 7x7, d 512": (8, 1, 512, 49, 16),
    "momamba 14x14, d 512": (32, 1, 512, 49, 16),
    "momamba one image": (4, 1, 512, 49, 16),
    "vmamba stage 1, N=1": (8, 4, 768, 3136, 1),
    "vmamba stage 1, N=16": (8, 4, 768, 3136, 16),
    "vmamba stage 3, N=1": (8, 4, 3072, 196, 1),
    "vmamba stage 1, one image, N=1": (1, 4, 768, 3136, 1),
    "vmamba stage 1, one image, N=16": (1, 4, 768, 3136, 16),
    "vmamba stage 3, one image, N=1": (1, 4, 3072, 196, 1),
}
# The sequential reference needs minutes and gigabytes of autograd beyond this many state updates.
REFERENCE_LIMIT = 2_000_000


def inputs(batch, groups, dim, length, states, device, grad):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(device).requires_grad_(grad)

    A = -torch.arange(1, states + 1, dtype=torch.float32).repeat(dim, 1).to(device).requires_grad_(grad)
    u, delta = normal(batch, dim, length), normal(batch, dim, length)
    bias = torch.full((dim,), -3.0, device=device)
    return u, delta, A, normal(batch, groups, states, length), normal(batch, groups, states, length), bias


def once(backend, tensors, grad):
    u, delta, A, B, C, bias = tensors
    synchronise = torch.cuda.synchronize if u.is_cuda else lambda: None
    synchronise()
    start = time.perf_counter()
    y = selective_scan(u, delta, A, B, C, delta_bias=bias, delta_softplus=True, backend=backend)
    if grad:
        torch.autograd.grad(y, (u, delta, A, B, C), y.detach())
    synchronise()
    return 1e3 * (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="time per backend, shape and direction")
    parser.add_argument("--only", default="", help="only shapes whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backends = [b for b in BACKENDS if b not in ("auto", "export") and available(b, options.device)]
    print(f"{options.device}, {options.threads} threads; best ms per call, forward / forward + backward")
    for name, shape in SHAPES.items():
        if options.only not in name:
            continue
        work = shape[0] * shape[2] * shape[3] * shape[4]
        runs = [b for b in backends if b != "reference" or work <= REFERENCE_LIMIT]
        cells = dict.fromkeys(runs, "")
        for grad in (False, True):
            tensors = inputs(*shape, options.device, grad)
            times = {backend: [] for backend in runs}
            for backend in runs:
                once(backend, tensors, grad)  # compiles and warms up
            end = time.perf_counter() + options.seconds * len(runs)
            while time.perf_counter() < end or len(times[runs[0]]) < 3:
                for backend in runs:
                    times[backend].append(once(backend, tensors, grad))
            for backend in runs:
                cells[backend] += f"{min(times[backend]):9.2f}"
            chosen = choose_backend(*tensors[:5])
        row = "  ".join(
            f"{backend}{'*' if backend == chosen else ''}{cell}" for backend, cell in cells.items()
        )
        print(f"{name:32s} {row}", flush=True)


if __name__ == "__main__":
    main()
