import pytest
import torch

from appliance.inference import linear


@pytest.mark.parametrize("rows", [1, 2, 33, 300])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("wide", "high"), [(512, 640), (32, 48)])
@pytest.mark.parametrize("biased", [True, False])
def test_every_form_is_the_same_product(rows, keep, wide, high, biased):
    torch.manual_seed(0)
    weight, x = torch.randn(high, wide), torch.randn(rows, wide)
    bias = torch.randn(high) if biased else None
    expected = torch.nn.functional.linear(
        x.double(), weight.double(), None if bias is None else bias.double()
    )
    with torch.inference_mode():
        found = linear.product(weight, bias, keep=keep)(x)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)


def test_large_weights_go_to_onednn_and_small_ones_do_not():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    assert linear.fits_onednn(torch.empty(512, 640))
    assert not linear.fits_onednn(torch.empty(32, 48))
