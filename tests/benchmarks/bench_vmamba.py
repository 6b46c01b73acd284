"""Speed of VMamba on the CPU beside timm's Swin-T, and beside a textbook scan.

    python tests/benchmarks/bench_vmamba.py [--threads 1] [--batch 8] [--rounds 7] [--textbook-rounds 3]

All networks run in turns within one process, since a shared machine drifts and interrupts: the ratios are medians
over rounds of neighbouring runs, of wall-clock time and of processor time. The textbook is the same network with
the four directions copied and scanned one step at a time over precomputed exp(ΔA) and ΔBu, with B and C repeated for
every channel: what VMamba's and mamba-ssm's own reference functions do. It needs 8 GB for 8 images at N = 16.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from aescli.models import vmamba
from aescli.ops.ss2d import selective_scan_2d
from aescli.runtime import keep_freed_memory
from aescli.torch_compat import prepare_torchvision


def textbook(x, projected, dt_weight, dt_bias, A, D):
    """The meaning of `selective_scan_2d`, computed as VMamba's release does where its CUDA kernel is missing."""
    batch, height, width, channels = x.shape
    rank, states = dt_weight.shape[2], A.shape[1]

    def four(m):  # (B, C, H, W) → (B, 4, C, L)
        two = torch.stack([m.flatten(2), m.transpose(2, 3).flatten(2)], dim=1)
        return torch.cat([two, two.flip(-1)], dim=1)

    def of_every_channel(m):  # (B, 4, N, L) → (B, 4C, N, L)
        return m.repeat_interleave(channels, dim=1)

    u = four(x.float().permute(0, 3, 1, 2))
    p = torch.stack([four(projected[..., k, :].float().permute(0, 3, 1, 2))[:, k] for k in range(4)], dim=1)
    dt, B, C = p.split([rank, states, states], dim=2)
    delta = F.softplus(torch.einsum("bkrl,kcr->bkcl", dt, dt_weight.float()) + dt_bias.float()[..., None])
    u, delta, B, C = u.flatten(1, 2), delta.flatten(1, 2), of_every_channel(B), of_every_channel(C)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    source = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    h, ys = u.new_zeros(batch, 4 * channels, states), []
    for t in range(u.shape[-1]):
        h = decay[:, :, t] * h + source[:, :, t]
        ys.append(torch.einsum("bdn,bdn->bd", h, C[..., t]))
    y = (torch.stack(ys, dim=-1) + u * D[:, None]).unflatten(1, (4, channels))
    y = y[:, :2] + y[:, 2:].flip(-1)
    y = y[:, 0].unflatten(-1, (height, width)) + y[:, 1].unflatten(-1, (width, height)).transpose(2, 3)
    return y.permute(0, 2, 3, 1).to(x.dtype)


class Run:
    """A network whose every call is timed: wall-clock and processor seconds."""

    def __init__(self, name, net, scan=selective_scan_2d):
        self.name, self.net, self.scan, self.times = name, net.eval(), scan, []

    def __call__(self, images, dtype, keep=True):
        vmamba.selective_scan_2d = self.scan
        low = dtype == torch.bfloat16
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype if low else None, enabled=low):
            wall, processor = time.perf_counter(), time.process_time()
            self.net(images)
            if keep:
                self.times.append((time.perf_counter() - wall, time.process_time() - processor))
        vmamba.selective_scan_2d = selective_scan_2d


def compare(runs, images, dtype, rounds):
    """Time the runs in turns; print each one's rate and its ratio to the last one."""
    for run in runs:
        run.times.clear()
        if rounds > 1:
            run(images, dtype, keep=False)
    for _ in range(rounds):
        for run in runs:
            run(images, dtype)
    label = "bf16" if dtype == torch.bfloat16 else "fp32"
    for run in runs:
        wall, processor = (
            statistics.median(a[i] / b[i] for a, b in zip(run.times, runs[-1].times, strict=True))
            for i in range(2)
        )
        best = len(images) / min(t for t, _ in run.times)
        seconds = statistics.median(t for _, t in run.times)
        print(
            f"{label}  {run.name:28s} {best:6.1f} img/s at best, {seconds:7.3f} s of processor a batch; "
            f"time / {runs[-1].name}: {wall:5.2f} wall, {processor:5.2f} processor",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--textbook-rounds", type=int, default=3, help="0 leaves the textbook out")
    parser.add_argument("--textbook-batch", type=int, help="images beside the textbook (default: --batch)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    prepare_torchvision()
    import timm

    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, 224, 224)
    tiny, v0 = vmamba.vmamba_tiny_s2l5(classes=1000), vmamba.vmamba_tiny_v0(classes=1000)
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    ours = [Run("VMamba-T[s2l5]", tiny), Run("VMamba-T v0", v0)]
    print(f"224 px, batch {options.batch}, {options.threads} threads")
    for dtype in (torch.float32, torch.bfloat16):
        compare([*ours, Run("Swin-T", swin)], images, dtype, options.rounds)
    if options.textbook_rounds:
        few = images[: options.textbook_batch]
        print(f"batch {len(few)}")
        for run in ours:
            pair = [Run("the same, textbook scan", run.net, textbook), run]
            for dtype in (torch.float32, torch.bfloat16):
                compare(pair, few, dtype, options.textbook_rounds)
        x = torch.randn(len(few), 56, 56, 192)
        for name, op in (("T[s2l5]", tiny.layers[0].blocks[0].op), ("T v0", v0.layers[0].blocks[0].op)):
            scan_alone(name, op, x, options.textbook_rounds)


def scan_alone(name, op, x, rounds):
    """SS2D's core of the first stage, ours against the textbook's."""
    projected = F.linear(x, op.x_proj_weight.flatten(0, 1)).unflatten(-1, (4, -1))
    tensors = (x, projected, op.dt_projs_weight, op.dt_projs_bias, -op.A_logs.exp(), op.Ds)
    ratios = []
    with torch.inference_mode():
        torch.testing.assert_close(selective_scan_2d(*tensors), textbook(*tensors), rtol=1e-4, atol=1e-4)
        for _ in range(max(rounds, 1)):
            times = []
            for scan in (textbook, selective_scan_2d):
                start = time.process_time()
                scan(*tensors)
                times.append(time.process_time() - start)
            ratios.append(times[0] / times[1])
    print(f"scan of stage 1 alone, {name}: textbook / ours {statistics.median(ratios):.1f} in processor time")


if __name__ == "__main__":
    main()
