import json
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed (Linux only)")


def test_interpreted_kernels_match_the_oracle():
    program = Path(__file__).with_name("triton_parity.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert max(result["chunks"]) > 1, "no shape was long enough to carry a state between chunks"
    assert len(result["worst"]) == 7
    assert max(result["worst"].values()) <= 1e-5, result["worst"]


@pytest.mark.parametrize("states", [1, 16])
def test_kernels_compile_for_a_gpu_that_is_not_here(states, tmp_path, monkeypatch):
    """Down to machine code for sm_80: what the interpreter accepts the compiler may still refuse."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from aescli.ops.scans import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = kernels.tile_shape(192, states, 3136)
    for kernel, constants in (
        (kernels._forward_kernel, {**tile, "KEEP": True}),
        (kernels._backward_kernel, tile),
    ):
        signature = {
            name: "constexpr" if name in constants else "*fp32" if name.endswith("_ptr") else "i32"
            for name in kernel.arg_names
        }
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": kernels.WARPS})
        assert ".visible .entry" in built.asm["ptx"]
        assert len(built.asm["cubin"]) > 1000
