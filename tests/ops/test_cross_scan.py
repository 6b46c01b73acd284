"""Cross-scan and cross-merge against their definition, in both memory layouts, with gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aescli.ops.cross_scan import cross_merge, cross_scan, scan_orders

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def by_definition(x):
    rows = x.flatten(2)
    columns = x.transpose(2, 3).flatten(2)
    return torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], dim=1)


def merged_by_definition(y, height, width):
    out = torch.zeros(y.shape[0], y.shape[2], height, width, dtype=y.dtype)
    for t in range(height * width):
        i, j = divmod(t, width)
        n, m = divmod(t, height)  # along columns: n is the column
        back = height * width - 1 - t
        out[:, :, i, j] += y[:, 0, :, t] + y[:, 2, :, back]
        out[:, :, m, n] += y[:, 1, :, t] + y[:, 3, :, back]
    return out


sizes = {"batch": st.integers(1, 3), "channels": st.integers(1, 5), "height": st.integers(1, 6)} | {
    "width": st.integers(1, 6)
}


@settings(max_examples=60, deadline=None)
@given(**sizes, layout=st.sampled_from(LAYOUTS))
def test_scan_and_merge_are_their_definitions_and_transposes(batch, channels, height, width, layout):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    scanned = cross_scan(x)
    assert torch.equal(scanned, by_definition(x))
    y = torch.randn_like(scanned)  # keeps the layout
    merged = cross_merge(y, height, width)
    torch.testing.assert_close(merged, merged_by_definition(y, height, width))
    torch.testing.assert_close((scanned * y).sum(), (x * merged).sum())
    torch.testing.assert_close(cross_merge(scanned, height, width), 4 * x)


@settings(max_examples=30, deadline=None)
@given(**sizes)
def test_a_map_per_direction_is_read_in_its_own_order(batch, channels, height, width):
    torch.manual_seed(0)
    x = torch.randn(batch, 4, channels, height, width)
    wanted = torch.stack([by_definition(x[:, k])[:, k] for k in range(4)], dim=1)
    assert torch.equal(cross_scan(x), wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    y = cross_scan(x).detach().clone(memory_format=torch.preserve_format).requires_grad_()
    each = torch.randn(2, 4, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cross_scan, (x,))
    assert torch.autograd.gradcheck(lambda y: cross_merge(y, 2, 4), (y,))
    assert torch.autograd.gradcheck(cross_scan, (each,))


def test_channels_last_maps_give_time_first_sequences_and_back():
    x = torch.randn(2, 8, 3, 5).contiguous(memory_format=torch.channels_last)
    scanned = cross_scan(x)
    assert scanned.permute(3, 0, 1, 2).is_contiguous()
    assert cross_merge(scanned, 3, 5).is_contiguous(memory_format=torch.channels_last)
    assert cross_scan(x.contiguous()).is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_types_pass_through(layout):
    x = torch.randn(1, 4, 3, 2).to(torch.bfloat16).contiguous(memory_format=layout)
    scanned = cross_scan(x)
    assert torch.equal(scanned, by_definition(x))
    assert cross_merge(scanned, 3, 2).dtype == torch.bfloat16


def test_orders_visit_every_position_once():
    orders = scan_orders(3, 4)
    assert orders[1].tolist()[:4] == [0, 4, 8, 1]
    assert torch.equal(orders.sort(dim=1).values, torch.arange(12).expand(4, 12))


def test_wrong_shapes_are_refused():
    for call, message in (
        (lambda: cross_scan(torch.zeros(2, 3, 4)), "4 or 5 dimensions"),
        (lambda: cross_scan(torch.zeros(2, 3, 1, 4, 4)), "3 maps"),
        (lambda: cross_scan(torch.zeros(2, 0, 4, 4)), "none of them 0"),
        (lambda: cross_merge(torch.zeros(2, 4, 3, 12), 3, 5), r"\(B, 4, C, 15\)"),
        (lambda: cross_merge(torch.zeros(2, 3, 3, 12), 3, 4), r"\(B, 4, C, 12\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
