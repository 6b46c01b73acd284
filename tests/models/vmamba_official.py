"""Official VMamba state dicts by their published names and shapes, and the official forward straight from them.

Written from the specification, independently of the project's own renaming and modules: float64, channels first,
one direction after the other.
"""

import math

import torch
import torch.nn.functional as F

# name: width, depths, N, ratio of the inner width, gated block
SIZES = {
    "vmamba_tiny_v0": (96, (2, 2, 9, 2), 16, 2, True),
    "vmamba_small_v0": (96, (2, 2, 27, 2), 16, 2, True),
    "vmamba_base_v0": (128, (2, 2, 27, 2), 16, 2, True),
    "vmamba_tiny_s2l5": (96, (2, 2, 5, 2), 1, 2, False),
    "vmamba_small_s2l15": (96, (2, 2, 15, 2), 1, 2, False),
    "vmamba_base_s2l15": (128, (2, 2, 15, 2), 1, 2, False),
    "vmamba_tiny_s1l8": (96, (2, 2, 8, 2), 1, 1, False),
    "vmamba_small_s1l20": (96, (2, 2, 20, 2), 1, 1, False),
    "vmamba_base_s1l20": (128, (2, 2, 20, 2), 1, 1, False),
}
V0_OP = {
    "in_proj.weight": "2Di C",
    "conv2d.weight": "Di 1 3 3",
    "conv2d.bias": "Di",
    "x_proj_weight": "4 R+2N Di",
    "dt_projs_weight": "4 Di R",
    "dt_projs_bias": "4 Di",
    "A_logs": "4Di N",
    "Ds": "4Di",
    "out_norm.weight": "Di",
    "out_norm.bias": "Di",
    "out_proj.weight": "C Di",
}
PLAIN_OP = {k: v for k, v in V0_OP.items() if k != "conv2d.bias"} | {"in_proj.weight": "Di C"}
MLP = {"fc1.weight": "4C C", "fc1.bias": "4C", "fc2.weight": "C 4C", "fc2.bias": "C"}
NORM = {"weight": "C", "bias": "C"}


def shapes(size, layout, classes=1000):
    """layout "v0": the first release's names; "newer": the later ones. {key: shape}."""
    width, depths, states, ratio, gated = size
    widths = [width * 2**i for i in range(len(depths))]
    result = {}

    def add(prefix, names, channels):
        inner, rank = ratio * channels, math.ceil(channels / 16)
        value = {"C": channels, "2C": 2 * channels, "4C": 4 * channels, "Di": inner, "2Di": 2 * inner}
        value |= {"4Di": 4 * inner, "R": rank, "N": states, "R+2N": rank + 2 * states}
        for name, dims in names.items():
            result[f"{prefix}.{name}"] = tuple(value.get(d) or int(d) for d in dims.split())

    half = str(width // 2)
    if layout == "v0":
        add("patch_embed.proj", {"weight": "C 3 4 4", "bias": "C"}, width)
        add("patch_embed.norm", NORM, width)
    elif gated:
        add("patch_embed.0", {"weight": "C 3 4 4", "bias": "C"}, width)
        add("patch_embed.2", NORM, width)
    else:
        add("patch_embed.0", {"weight": f"{half} 3 3 3", "bias": half}, width)
        add("patch_embed.2", {"weight": half, "bias": half}, width)
        add("patch_embed.5", {"weight": f"C {half} 3 3", "bias": "C"}, width)
        add("patch_embed.7", NORM, width)
    for i, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if layout == "v0":
                add(f"{block}.ln_1", NORM, channels)
                add(f"{block}.self_attention", V0_OP, channels)
            else:
                add(f"{block}.norm", NORM, channels)
                add(f"{block}.op", V0_OP if gated else PLAIN_OP, channels)
                if not gated:
                    add(f"{block}.norm2", NORM, channels)
                    add(f"{block}.mlp", MLP, channels)
        if i == len(depths) - 1:
            continue
        down = f"layers.{i}.downsample"
        if layout == "v0":
            add(f"{down}.reduction", {"weight": "2C 4C"}, channels)
            add(f"{down}.norm", {"weight": "4C", "bias": "4C"}, channels)
        elif gated:
            add(f"{down}.1", {"weight": "4C", "bias": "4C"}, channels)
            add(f"{down}.2", {"weight": "2C 4C"}, channels)
        else:
            add(f"{down}.1", {"weight": "2C C 3 3", "bias": "2C"}, channels)
            add(f"{down}.3", {"weight": "2C", "bias": "2C"}, channels)
    last = "" if layout == "v0" else "classifier."
    add(f"{last}norm", NORM, widths[-1])
    if classes:
        result[f"{last}head.weight"], result[f"{last}head.bias"] = (classes, widths[-1]), (classes,)
    return result


def random_state(size, layout, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def value(key, shape):
        x = torch.randn(shape, generator=generator)
        if key.endswith("A_logs"):
            return x
        if x.dim() == 1:
            return x.mul_(0.2).add_(1.0 if key.endswith("weight") or key.endswith("Ds") else 0.0)
        return x * (x[0].numel() ** -0.5)

    return {key: value(key, shape) for key, shape in shapes(size, layout, classes).items()}


def as_convolutions(state):
    """The projections' matrices as 1x1 convolutions, as channel-first models store them."""
    names = ("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")
    return {k: v[:, :, None, None] if k.endswith(names) else v for k, v in state.items()}


def with_dotted_projections(state):
    """`x_proj.weight` and `dt_projs.weight` for the stacked parameters."""
    return {
        k.replace("x_proj_weight", "x_proj.weight").replace("dt_projs_weight", "dt_projs.weight"): v
        for k, v in state.items()
    }


def _norm(x, state, key):
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], state[f"{key}.weight"], state[f"{key}.bias"]).movedim(
        -1, 1
    )


def _matrix(x, weight, bias=None):
    y = torch.einsum("bchw,oc->bohw", x, weight)
    return y if bias is None else y + bias[:, None, None]


def _scan(u, delta, A, B, C, D):
    """u, delta (C, L); A (C, N); B, C (N, L)."""
    h, out = torch.zeros_like(A), []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, None] * A) * h + (delta[:, t] * u[:, t])[:, None] * B[:, t]
        out.append(h @ C[:, t] + D * u[:, t])
    return torch.stack(out, 1)


def ss2d(x, state, key, gated):
    """x (B, C, H, W) through one SS2D."""
    p = {name: state[f"{key}.{name}"] for name in (V0_OP if gated else PLAIN_OP)}
    x = _matrix(x, p["in_proj.weight"])
    z = None
    if gated:
        x, z = x.chunk(2, dim=1)
    x = F.silu(F.conv2d(x, p["conv2d.weight"], p.get("conv2d.bias"), padding=1, groups=x.shape[1]))
    inner, height, width = x.shape[1:]
    rank, states = p["dt_projs_weight"].shape[2], p["A_logs"].shape[1]
    merged = torch.zeros_like(x)
    for b in range(len(x)):
        for k in range(4):
            image = x[b] if k % 2 == 0 else x[b].transpose(1, 2)
            u = image.reshape(inner, -1)
            u = u.flip(1) if k >= 2 else u
            dt, B, C = (p["x_proj_weight"][k] @ u).split([rank, states, states])
            delta = F.softplus(p["dt_projs_weight"][k] @ dt + p["dt_projs_bias"][k][:, None])
            own = slice(k * inner, (k + 1) * inner)
            y = _scan(u, delta, -p["A_logs"][own].exp(), B, C, p["Ds"][own])
            y = y.flip(1) if k >= 2 else y
            merged[b] += (
                y.view(inner, height, width) if k % 2 == 0 else y.view(inner, width, height).transpose(1, 2)
            )
    y = _norm(merged, state, f"{key}.out_norm")
    return _matrix(y if z is None else y * F.silu(z), p["out_proj.weight"])


def forward(state, size, layout, images):
    """Logits of an official state dict (matrices, undotted names), float64; evaluation mode."""
    s = {k: v.double() for k, v in state.items()}
    _, depths, _, _, gated = size
    x = images.double()
    stem = {"v0": ("proj", "norm", None, None)}.get(layout, ("0", "2", "5", "7"))
    conv = [f"patch_embed.{i}" for i in stem]
    if gated:
        x = F.conv2d(x, s[f"{conv[0]}.weight"], s[f"{conv[0]}.bias"], stride=4)
        x = _norm(x, s, conv[1])
    else:
        x = F.conv2d(x, s[f"{conv[0]}.weight"], s[f"{conv[0]}.bias"], stride=2, padding=1)
        x = F.gelu(_norm(x, s, conv[1]))
        x = F.conv2d(x, s[f"{conv[2]}.weight"], s[f"{conv[2]}.bias"], stride=2, padding=1)
        x = _norm(x, s, conv[3])
    norm, op = ("ln_1", "self_attention") if layout == "v0" else ("norm", "op")
    for i, depth in enumerate(depths):
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            x = x + ss2d(_norm(x, s, f"{block}.{norm}"), s, f"{block}.{op}", gated)
            if not gated:
                y = _matrix(
                    _norm(x, s, f"{block}.norm2"), s[f"{block}.mlp.fc1.weight"], s[f"{block}.mlp.fc1.bias"]
                )
                x = x + _matrix(F.gelu(y), s[f"{block}.mlp.fc2.weight"], s[f"{block}.mlp.fc2.bias"])
        if i == len(depths) - 1:
            continue
        down = f"layers.{i}.downsample"
        if gated:
            norm_key, reduction = (
                (f"{down}.norm", f"{down}.reduction") if layout == "v0" else (f"{down}.1", f"{down}.2")
            )
            x = torch.cat([x[:, :, a::2, b::2] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))], 1)
            x = _matrix(_norm(x, s, norm_key), s[f"{reduction}.weight"])
        else:
            x = F.conv2d(x, s[f"{down}.1.weight"], s[f"{down}.1.bias"], stride=2, padding=1)
            x = _norm(x, s, f"{down}.3")
    last = "" if layout == "v0" else "classifier."
    pooled = _norm(x, s, f"{last}norm").mean((2, 3))
    return pooled @ s[f"{last}head.weight"].T + s[f"{last}head.bias"]
