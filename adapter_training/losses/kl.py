"""KL(adapter || base) over the whole vocabulary: how far the model has moved, at each token."""

from torch import Tensor


def kl(logits: Tensor, base_logits: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the divergence from the base.

    Args:
        logits: (tokens, vocabulary) of the model being trained.
        base_logits: (tokens, vocabulary) of the base at the same positions; no gradient.
        weights: (tokens,) each token's share.

    Returns:
        A scalar, at least 0 but for rounding.
    """
    logprobs = logits.log_softmax(-1)
    base_logprobs = base_logits.detach().log_softmax(-1)
    return (weights * (logprobs.exp() * (logprobs - base_logprobs)).sum(-1)).sum()
