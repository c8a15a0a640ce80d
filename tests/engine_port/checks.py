"""What a completion must be, whoever made it."""

from appliance.core.digests import Digest
from appliance.engine.client import Choice, Engine
from appliance.engine.wire import Generate

PROMPT = [1, 70, 80, 90, 100, 110, 120, 130]
TOLERANCE = 1e-3
"""Of one logprob, in nats, between decoding and scoring; a wrong version is off by 0.1 and more."""


def ask(adapter: Digest | None, seed: int = 7, num: int = 48, **more: object) -> Generate:
    """A request at temperature 1, whose logprobs can be scored again; nothing ends it early."""
    return Generate(
        prompt_ids=more.pop("prompt_ids", PROMPT),  # type: ignore[arg-type]
        adapter=adapter,
        max_tokens=num,
        seed=seed,
        **more,  # type: ignore[arg-type]
    )


def gaps(client: Engine, request: Generate, choice: Choice, version: Digest | None) -> list[float]:
    """Of each token: how far its logprob is from what `version` says when asked afterwards."""
    row = [*request.prompt_ids, *choice.ids]
    scored = client.score(version, [row])[0][len(request.prompt_ids) - 1 :]
    return [abs(a - b) for a, b in zip(choice.logprobs, scored, strict=True)]


def require_one_version(client: Engine, request: Generate, choice: Choice) -> None:
    """Every token of the completion is from the version that was asked for, and from no other."""
    found = gaps(client, request, choice, request.adapter)
    mixed = [at for at, gap in enumerate(found) if gap > TOLERANCE]
    assert not mixed, (
        f"tokens {mixed[:10]} of {len(found)} are of another version: off by {max(found):.3g}"
    )
