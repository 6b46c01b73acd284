import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_oracle import gradients, problem, relative_error, scan

from aescli.ops import selective_scan as module
from aescli.ops.scans import vectorised
from aescli.ops.selective_scan import available, choose_backend, selective_scan

NUMBA = pytest.mark.skipif(not available("numba", "cpu"), reason="numba is not installed (extra fast-cpu)")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ON_CPU = ["reference", "torch", pytest.param("numba", marks=NUMBA)]
NAMES = ["y", "last", "du", "ddt", "dA", "dB", "dC"]

# batch, groups, channels per group, length, states
SHAPES = [(2, 1, 5, 9, 16), (3, 2, 40, 130, 3), (1, 4, 3, 300, 1), (2, 3, 1, 1, 4)]


def run(arrays, backend, dtype=torch.float32, device="cpu"):
    """The bare scan by the public function, with the gradients of a fixed random linear function of it."""
    tensors = [torch.tensor(x, dtype=dtype, device=device, requires_grad=True) for x in arrays]
    y, last = selective_scan(*tensors, return_last_state=True, backend=backend)
    weights = [np.random.default_rng(1).standard_normal(x.shape) for x in (y, last)]
    outer = [torch.tensor(w, dtype=dtype, device=device) for w in weights]
    grads = torch.autograd.grad((y * outer[0]).sum() + (last * outer[1]).sum(), tensors)
    return [x.detach().cpu().double().numpy() for x in (y, last, *grads)], weights


def oracle(arrays, weights):
    return [*scan(*arrays), *gradients(*arrays, *weights)]


def assert_accurate(arrays, backend, bound=1e-5, **where):
    arrays = [x.astype(np.float32).astype(np.float64) for x in arrays]  # the same numbers for both
    got, weights = run(arrays, backend, **where)
    errors = {n: relative_error(g, w) for n, g, w in zip(NAMES, got, oracle(arrays, weights), strict=True)}
    assert max(errors.values()) <= bound, errors


def test_the_oracle_gradient_is_the_derivative_of_the_oracle_scan():
    arrays = problem(3, 2, 2, 2, 6, 3, high=3.0)
    random = np.random.default_rng(4)
    weights = [random.standard_normal((2, 4, 6)), random.standard_normal((2, 4, 3))]

    def loss(*inputs):
        return sum((x * w).sum() for x, w in zip(scan(*inputs), weights, strict=True))

    for i, grad in enumerate(gradients(*arrays, *weights)):
        direction = random.standard_normal(arrays[i].shape) * 1e-6
        ahead, behind = ([*arrays[:i], arrays[i] + s * direction, *arrays[i + 1 :]] for s in (1, -1))
        assert (loss(*ahead) - loss(*behind)) / 2 == pytest.approx((grad * direction).sum(), rel=1e-6)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("low", "high"), [(1e-4, 50.0), (1e-4, 1e-3), (10.0, 50.0)])
def test_float32_matches_the_float64_oracle(backend, shape, low, high):
    assert_accurate(problem(0, *shape, low, high), backend)


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=NUMBA)])
@pytest.mark.parametrize("shape", [(1, 1, 6, 3136, 1), (2, 2, 2, 3136, 4)])
def test_long_sequences_stay_accurate(backend, shape):
    assert_accurate(problem(5, *shape), backend)


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=NUMBA)])
@pytest.mark.parametrize("blocked_below", [0, 1000])
@pytest.mark.parametrize("exponent", [1e-4, 1e-3, 1.0, 50.0])
def test_a_constant_step_size_adds_no_bias(backend, blocked_below, exponent, monkeypatch):
    """exp(-1e-4) in float32 is wrong by the same 2e-8 at each of 3,136 steps, unless it is kept as a rate."""
    monkeypatch.setattr(vectorised, "BLOCKED_BELOW", blocked_below)
    random = np.random.default_rng(0)
    u = random.random((1, 3, 3136))
    dt, A = np.full_like(u, exponent), np.full((3, 1), -1.0)
    B, C = random.random((2, 1, 1, 1, 3136))
    assert_accurate([u, dt, A, B, C], backend)


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("backend", ["torch", "triton", "mamba_ssm"])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 4, 48, 3136, 1), (2, 1, 64, 196, 16)])
def test_gpu_backends_match_the_oracle(backend, shape):
    if not available(backend, "cuda"):
        pytest.skip(f"{backend} does not import here")
    if backend == "mamba_ssm":
        arrays = problem(0, *shape)
        got = selective_scan(
            *(torch.tensor(x, dtype=torch.float32, device="cuda") for x in arrays), backend=backend
        )
        assert relative_error(got.cpu().double().numpy(), scan(*arrays)[0]) <= 1e-5
    else:
        assert_accurate(problem(0, *shape), backend, device="cuda")


# A random walk over the structure: odd sizes, single elements, group counts, and the tiny tiles that force
# several chunks, several parts of the batch and the blocked recurrence on small problems.
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (4, 3, 5, 90, 5))),
    backend=st.sampled_from(["torch", "numba"] if available("numba", "cpu") else ["torch"]),
    tiles=st.tuples(st.sampled_from([1, 40, 4000]), st.sampled_from([1, 30]), st.sampled_from([0, 1000])),
    seed=st.integers(0, 2**16),
)
def test_any_shape_matches_the_oracle(shape, backend, tiles, seed):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("CHUNK_ELEMENTS", "ROW_ELEMENTS", "BLOCKED_BELOW"), tiles, strict=True):
            patch.setattr(vectorised, name, value)
        assert_accurate(problem(seed, *shape), backend)


@pytest.mark.parametrize("length", [64, 65, 100, 143])
def test_blocked_and_stepwise_recurrence_agree(length, monkeypatch):
    a, b, start = torch.rand(length, 7).double(), torch.randn(length, 7).double(), torch.randn(7).double()
    results = []
    for below in (0, 1000):
        monkeypatch.setattr(vectorised, "BLOCKED_BELOW", below)
        results.append(vectorised.linear_recurrence_(a, b.clone(), start))
        results.append(vectorised.linear_recurrence_(a - 1, b.clone(), start, rates=True))
        results.append(vectorised._reverse_recurrence_(a, b.clone()))
        results.append(vectorised._reverse_recurrence_(a - 1, b.clone(), rates=True))
    for one in (1, 4, 5):
        torch.testing.assert_close(results[one], results[0])
    for one in (3, 6, 7):
        torch.testing.assert_close(results[one], results[2])


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("blocked", [False, True])
def test_gradcheck_in_float64(backend, blocked, monkeypatch):
    length = 66 if blocked else 11  # the blocked recurrence begins at 64 steps
    monkeypatch.setattr(vectorised, "CHUNK_ELEMENTS", 10**6 if blocked else 1)
    monkeypatch.setattr(vectorised, "ROW_ELEMENTS", 1)
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    A = (-torch.rand(4, 2, generator=random, dtype=torch.float64) - 0.1).requires_grad_()
    inputs = (normal(2, 4, length), normal(2, 4, length), A, normal(2, 2, 2, length), normal(2, 2, 2, length))
    inputs += (normal(4), normal(2, 4, length), normal(4))

    def function(*tensors):
        return selective_scan(*tensors, delta_softplus=True, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("softplus", [False, True])
def test_bias_softplus_skip_and_gate_mean_what_mamba_ssm_means(backend, softplus):
    random = np.random.default_rng(2)
    u, dt, A, B, C = problem(1, 2, 2, 3, 12, 4, low=1e-2, high=2.0)
    delta = random.standard_normal(dt.shape) if softplus else dt
    D, bias, z = random.standard_normal(6), random.random(6), random.standard_normal(u.shape)
    wanted, _ = scan(u, delta, A, B, C, D, z, bias, softplus)
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (u, delta, A, B, C, D, z, bias)]
    got = selective_scan(*tensors, softplus, backend=backend)
    assert relative_error(got.double().numpy(), wanted) <= 1e-5


def test_one_group_may_leave_out_its_dimension():
    u, dt, A, B, C = (torch.tensor(x) for x in problem(1, 2, 1, 3, 8, 2))
    torch.testing.assert_close(selective_scan(u, dt, A, B[:, 0], C[:, 0]), selective_scan(u, dt, A, B, C))


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=NUMBA)])
def test_memory_layout_does_not_matter(backend):
    """The models pass views whose fastest axis is the channel, sliced and transposed."""
    arrays = [torch.tensor(x, dtype=torch.float32) for x in problem(6, 2, 2, 9, 150, 3)]
    wanted = selective_scan(*arrays, backend=backend)
    u, dt, A, B, C = arrays
    u = u.transpose(1, 2).contiguous().transpose(1, 2)
    dt = torch.stack([dt, dt], dim=-1)[..., 0]
    B, C = (x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0) for x in (B, C))
    torch.testing.assert_close(selective_scan(u, dt, A, B, C, backend=backend), wanted)


@NUMBA
def test_numba_gives_the_same_with_one_thread_and_with_three():
    arrays = problem(7, 3, 2, 40, 20, 3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = run(arrays, "numba")
        torch.set_num_threads(3)
        three, _ = run(arrays, "numba")
    finally:
        torch.set_num_threads(before)
    for name, a, b in zip(NAMES, one, three, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max(), err_msg=name)


@pytest.mark.parametrize("backend", ON_CPU)
def test_autocast_leaves_the_scan_in_float32(backend):
    tensors = [torch.tensor(x, dtype=torch.float32) for x in problem(8, 2, 1, 6, 40, 4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = selective_scan(*tensors, return_last_state=True, backend=backend)
    plain, plain_last = selective_scan(*tensors, return_last_state=True, backend=backend)
    assert y.dtype == last.dtype == torch.float32
    assert torch.equal(y, plain)
    assert torch.equal(last, plain_last)


@pytest.mark.parametrize("backend", ON_CPU)
def test_half_inputs_are_computed_in_float32_and_rounded_once(backend):
    u, dt, A, B, C = (torch.tensor(x, dtype=torch.float32) for x in problem(9, 2, 1, 6, 40, 4))
    u, dt, B, C = (x.bfloat16() for x in (u, dt, B, C))
    y, last = selective_scan(u, dt, A, B, C, return_last_state=True, backend=backend)
    wanted, wanted_last = scan(*(x.double().numpy() for x in (u, dt, A, B, C)))
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert relative_error(last.double().numpy(), wanted_last) <= 1e-5
    assert relative_error(y.double().numpy(), wanted) <= 2**-8


def test_float64_stays_float64():
    arrays = problem(10, 2, 2, 3, 80, 4)
    y, last = selective_scan(*map(torch.tensor, arrays), return_last_state=True)
    wanted, wanted_last = scan(*arrays)
    assert y.dtype == last.dtype == torch.float64
    assert relative_error(y.numpy(), wanted) <= 1e-13
    assert relative_error(last.numpy(), wanted_last) <= 1e-13


def test_compiled_callers_keep_the_scan_out_of_their_graph():
    tensors = [torch.tensor(x, dtype=torch.float32) for x in problem(11, 1, 1, 4, 500, 2)]
    graphs = []

    def collect(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda *t: selective_scan(*t) * 2, backend=collect)
    torch.testing.assert_close(compiled(*tensors), selective_scan(*tensors) * 2)
    assert sum(len(g.graph.nodes) for g in graphs) < 100  # not 500 steps of it


# --- which backend ----------------------------------------------------------------------------------------


def meta(batch, dim, length, states, dtype=torch.float32):
    """Tensors of a shape with no memory behind them."""

    def one(*shape):
        return torch.empty(1, dtype=dtype).expand(*shape)

    u = one(batch, dim, length)
    return u, u, one(dim, states), one(batch, 1, states, length), one(batch, 1, states, length)


def test_auto_takes_torch_for_small_and_for_precise_scans():
    assert choose_backend(*meta(8, 512, 49, 16)) == "torch"
    assert choose_backend(*meta(8, 768, 3136, 16, torch.float64)) == "torch"


def test_auto_takes_numba_for_large_scans_if_it_is_there(monkeypatch):
    large = meta(8, 768, 3136, 16)
    monkeypatch.setattr(module, "available", lambda name, device: name == "numba")
    assert choose_backend(*large) == "numba"
    monkeypatch.setattr(module, "available", lambda name, device: False)
    assert choose_backend(*large) == "torch"


@pytest.mark.gpu
@CUDA
def test_auto_on_a_gpu(monkeypatch):
    tensors = [
        torch.ones(s, device="cuda") for s in ((1, 2, 8), (1, 2, 8), (2, 1), (1, 1, 1, 8), (1, 1, 1, 8))
    ]
    monkeypatch.setattr(module, "available", lambda name, device: True)
    assert choose_backend(*tensors) == "mamba_ssm"
    assert choose_backend(*tensors, return_last_state=True) == "triton"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert choose_backend(*tensors) == "torch"


@pytest.fixture
def fake_mamba_ssm(monkeypatch):
    """mamba_ssm's own reference semantics in the place of its CUDA kernel; yields the calls it received."""
    calls = []

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        calls.append([u, delta, A, B, C, D, z, delta_bias])
        arrays = [None if x is None else x.detach().double().numpy() for x in calls[-1]]
        y, last = scan(*arrays, delta_softplus)
        y, last = torch.tensor(y, dtype=u.dtype), torch.tensor(last, dtype=torch.float32)
        return (y, last) if return_last_state else y

    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_fn = selective_scan_fn
    monkeypatch.delitem(sys.modules, "aescli.ops.scans.external", raising=False)
    monkeypatch.setattr(module, "_why_not", lambda backend, device: None)
    yield calls
    sys.modules.pop("aescli.ops.scans.external", None)


def test_mamba_ssm_receives_every_argument_in_the_types_it_accepts(fake_mamba_ssm):
    u, dt, A, B, C = (torch.tensor(x, dtype=torch.float32) for x in problem(1, 2, 2, 3, 12, 4))
    D, bias, z = torch.randn(6), torch.rand(6), torch.randn(2, 6, 12)
    wanted = selective_scan(u, dt, A, B, C, D, z, bias, True, True, backend="torch")
    got = selective_scan(u, dt, A, B, C, D, z, bias, True, True, backend="mamba_ssm")
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # under autocast only some inputs are half: everything goes to float32, the result to u's type
    mixed = selective_scan(u.bfloat16(), dt, A, B, C, D.bfloat16(), z, bias.bfloat16(), backend="mamba_ssm")
    assert mixed.dtype == torch.bfloat16
    assert {x.dtype for x in fake_mamba_ssm[-1]} == {torch.float32}
    # all half: passed as it is, with float32 for A, D and the bias
    halves = [x.bfloat16() for x in (u, dt, B, C, z)]
    selective_scan(halves[0], halves[1], A, halves[2], halves[3], D, halves[4], bias, backend="mamba_ssm")
    assert [x.dtype for x in fake_mamba_ssm[-1]] == [
        torch.bfloat16 if i in (0, 1, 3, 4, 6) else torch.float32 for i in range(8)
    ]


# --- what is refused --------------------------------------------------------------------------------------


def test_an_unknown_or_missing_backend_is_named():
    tensors = [torch.tensor(x) for x in problem(1, 1, 1, 2, 3, 1)]
    with pytest.raises(ValueError, match=r"unknown backend 'cuda'.*reference, torch"):
        selective_scan(*tensors, backend="cuda")
    with pytest.raises(ValueError, match=r"'mamba_ssm' is not available: it (does not import|runs on CUDA)"):
        selective_scan(*tensors, backend="mamba_ssm")


@NUMBA
def test_numba_refuses_float64():
    with pytest.raises(ValueError, match="float32"):
        selective_scan(*(torch.tensor(x) for x in problem(1, 1, 1, 2, 3, 1)), backend="numba")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": (2, 6)}, r"u must be \(batch, D, L\)"),
        ({"delta": (2, 6, 4)}, r"delta must be \(2, 6, 5\), got \(2, 6, 4\)"),
        ({"A": (5, 3)}, r"A must be \(D=6, N\)"),
        ({"B": (2, 4, 3, 5), "C": (2, 4, 3, 5)}, "D=6 is not divisible by the 4 groups"),
        ({"C": (2, 1, 3, 5)}, r"C must be \(2, 2, 3, 5\)"),
        ({"B": (2, 2, 4, 5)}, r"B must be \(2, 2, 3, 5\)"),
        ({"D": (3,)}, r"D must be \(6,\)"),
        ({"z": (2, 6, 1)}, r"z must be \(2, 6, 5\)"),
        ({"delta_bias": (6, 1)}, r"delta_bias must be \(6,\)"),
        ({"u": (2, 6, 0), "delta": (2, 6, 0), "B": (2, 2, 3, 0), "C": (2, 2, 3, 0)}, "empty input"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    shapes = {"u": (2, 6, 5), "delta": (2, 6, 5), "A": (6, 3), "B": (2, 2, 3, 5), "C": (2, 2, 3, 5)} | change
    with pytest.raises(ValueError, match=message):
        selective_scan(**{name: torch.ones(shape) for name, shape in shapes.items()})
