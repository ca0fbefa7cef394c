"""Why the products are our own: a library's matrix product rounds differently at other row counts.

It picks its algorithm by the shape, so the same row gives logits that differ in their last bits when other rows stand
beside it. So it is where torch computes for want of compiled kernels: tokens are equal there wherever the two likeliest
logits are further apart than such a rounding.
"""

import torch

from kernels.ops.linear import TorchLinear

SHAPES = [(32, 160), (64, 96), (256, 1024), (512, 256), (768, 768)]
ROWS = [2, 3, 4, 8, 16, 17, 64]


def products(in_features, out_features):
    """The first row's product alone, and among each number of rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator) * in_features**-0.5
    x = torch.randn(max(ROWS), in_features, generator=generator)
    linear = TorchLinear()
    handle = linear.pack(weight, None)
    return linear(x[:1], handle)[0], [linear(x[:rows], handle)[0] for rows in ROWS]


def test_a_librarys_product_of_one_row_depends_on_how_many_rows_there_are():
    """If this fails the library has become batch-invariant, and the exception can go from the documentation."""
    differing = 0
    for shape in SHAPES:
        alone, among = products(*shape)
        differing += sum(not torch.equal(alone, each) for each in among)
    print(f"bits differ in {differing} of {len(SHAPES) * len(ROWS)} cases")
    assert differing > 0


def test_the_difference_is_one_of_rounding_and_the_likeliest_token_stays():
    for shape in SHAPES:
        alone, among = products(*shape)
        first, second = alone.topk(2).values
        assert first - second > 1e-4  # So that rounding cannot excuse another winner.
        for each in among:
            torch.testing.assert_close(each, alone, atol=1e-5, rtol=1e-5)
            assert each.argmax() == alone.argmax()
