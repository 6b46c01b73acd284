import importlib.util

import pytest
import torch
from torch import nn

from aescli.ops.selective_scan import selective_scan


class Scan(nn.Module):
    def __init__(self, dim: int, states: int) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.rand(dim, states))
        self.D = nn.Parameter(torch.rand(dim))

    def forward(self, u, delta, B, C):
        return selective_scan(u, delta, -self.A_log.exp(), B, C, self.D, delta_softplus=True)


def inputs(batch, length):
    random = torch.Generator().manual_seed(batch)
    shapes = ((batch, 6, length), (batch, 6, length), (batch, 2, 3, length), (batch, 2, 3, length))
    return tuple(torch.randn(*s, generator=random) for s in shapes)


@pytest.mark.parametrize("strict", [False, True])
def test_export_is_one_loop_that_takes_any_batch(strict):
    model = Scan(6, 3).eval()
    sizes = {}
    for length in (7, 300):
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(
            model, inputs(2, length), dynamic_shapes=({0: batch},) * 4, strict=strict
        )
        targets = [str(node.target) for node in program.graph.nodes]
        assert targets.count("scan") == 1, targets
        sizes[length] = len(targets)
        for batch in (2, 5):
            x = inputs(batch, length)
            torch.testing.assert_close(program.module()(*x), model(*x), rtol=1e-5, atol=1e-6)
    assert sizes[7] == sizes[300]


@pytest.mark.slow
def test_onnx_gets_one_scan_node(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    import numpy as np
    import onnxruntime

    model, x = Scan(6, 3).eval(), inputs(2, 50)
    path = tmp_path / "scan.onnx"
    program = torch.onnx.export(model, x, dynamo=True, external_data=False)
    program.save(str(path))
    assert [node.op_type for node in program.model.graph].count("Scan") == 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (got,) = session.run(None, {n: v.numpy() for n, v in zip(names, x, strict=True)})
    np.testing.assert_allclose(got, model(*x).detach().numpy(), rtol=1e-5, atol=1e-5)
