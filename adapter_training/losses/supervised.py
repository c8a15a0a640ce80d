"""Cross entropy on the tokens that the model should have said."""

from torch import Tensor


def supervised(logprobs: Tensor, weights: Tensor) -> Tensor:
    """Weighted negative log-likelihood.

    Args:
        logprobs: (tokens,) log-probability of each target token.
        weights: (tokens,) each token's share; 1 / tokens gives the token mean.

    Returns:
        A scalar.
    """
    return -(weights * logprobs).sum()
