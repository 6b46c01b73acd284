"""Modal-adaptive integration: against the formula written out, and what padding must not do."""

import pytest
import torch
import torch.nn.functional as F

from aescli.models.fusion import CrossModalFusion, ModalAdaptiveIntegration


def _fusion(dim=8, text_dim=6):
    torch.manual_seed(0)
    return CrossModalFusion(dim, text_dim, heads=3, head_dim=4).double()


def _lengths(lengths, width):
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def test_against_torchs_attention():
    m = _fusion()
    image, text = torch.randn(2, 8).double(), torch.randn(2, 5, 6).double()
    query, keys = F.layer_norm(image, (8,)), F.layer_norm(text, (6,))

    def heads(x, weight):
        return (x @ weight.T).reshape(2, -1, 3, 4).transpose(1, 2)

    a = m.attention
    attended = F.scaled_dot_product_attention(
        heads(query[:, None], a.q.weight), heads(keys, a.k.weight), heads(keys, a.v.weight)
    )
    x = image + attended.transpose(1, 2).reshape(2, 12) @ a.out.weight.T + a.out.bias
    hidden = F.gelu(F.layer_norm(x, (8,)) @ m.ffn[0].weight.T + m.ffn[0].bias)
    expected = x + hidden @ m.ffn[2].weight.T + m.ffn[2].bias
    torch.testing.assert_close(m(image, text, _lengths([5, 5], 5)), expected)


def test_padding_has_no_effect():
    m = _fusion()
    image, text = torch.randn(3, 8).double(), torch.randn(3, 7, 6).double()
    mask = _lengths([7, 3, 1], 7)
    together = m(image, text, mask)
    for i, n in enumerate([7, 3, 1]):
        alone = m(image[i : i + 1], text[i : i + 1, :n], _lengths([n], n))
        torch.testing.assert_close(together[i : i + 1], alone)
    changed = text.masked_fill(~mask[..., None], 1e6)
    torch.testing.assert_close(m(image, changed, mask), together)


def test_a_row_of_padding_keeps_its_image_and_sound_gradients():
    m = _fusion()
    image = torch.randn(2, 8).double().requires_grad_()
    text = torch.randn(2, 4, 6).double().requires_grad_()
    out = m(image, text, _lengths([0, 4], 4))
    assert torch.equal(out[0], image[0])
    assert not torch.allclose(out[1], image[1])
    out.sum().backward()
    torch.testing.assert_close(image.grad[0], torch.ones(8).double())
    assert text.grad[0].abs().sum() == 0
    assert text.grad[1].abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    m = _fusion().to(dtype)
    out = m(torch.randn(2, 8).to(dtype), torch.randn(2, 4, 6).to(dtype), _lengths([0, 2], 4))
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_gradcheck():
    m = _fusion(4, 3)
    mask = _lengths([3, 1, 0], 3)
    inputs = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f, t: m(f, t, mask), inputs)


def test_the_integration_switches_by_what_it_is_given():
    torch.manual_seed(0)
    m = ModalAdaptiveIntegration(8, 6, heads=2, head_dim=4)
    maps, text, mask = torch.randn(3, 8, 2, 5), torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool)
    pooled = maps.flatten(2).mean(2)
    torch.testing.assert_close(m(maps), pooled)
    for_all = m(maps, text, mask)
    torch.testing.assert_close(for_all, m.fusion(pooled, text.repeat(3, 1, 1), mask.repeat(3, 1)))
    assert ModalAdaptiveIntegration(8)(maps).shape == (3, 8)


def test_what_does_not_fit_is_refused():
    m, maps = ModalAdaptiveIntegration(8, 6, heads=2, head_dim=4), torch.randn(3, 8, 2, 2)
    text, mask = torch.randn(2, 4, 6), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="2 texts for 3 images"):
        m(maps, text, mask)
    with pytest.raises(ValueError, match="mask"):
        m(maps, text)
    with pytest.raises(ValueError, match="images only"):
        ModalAdaptiveIntegration(8)(maps, text, mask)
