"""Outcome policy gradient for logged answers, with truncated importance weights.

REINFORCE where each token's gradient is weighted by min(pi / mu, cap): mu is the policy that
wrote the answer, pi the one being trained. The weight corrects for staleness and is not itself
differentiated; the cap bounds the variance. TRL calls this form CISPO (arXiv 2506.13585).
"""

import torch
from torch import Tensor


def outcome_pg(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, cap: float) -> Tensor:
    """Minus the weighted log-likelihood of what was said, good answers up and bad ones down.

    Args:
        logprobs: (tokens,) log-probability of each sampled token now.
        behaviour: (tokens,) its log-probability when it was sampled.
        advantages: (tokens,) the answer's advantage times the token's share.
        cap: the largest importance weight.

    Returns:
        A scalar.
    """
    # In log space first: exp of a large difference would overflow before the cap could bind.
    limit = torch.log(torch.as_tensor(cap, dtype=logprobs.dtype))
    importance = torch.exp(torch.minimum(logprobs.detach() - behaviour, limit))
    return -(importance * advantages * logprobs).sum()
