"""Requests drawn from an OpenAPI description, good ones and wrong ones."""

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode


def send_drawn(
    description: dict[str, Any], send: Callable[[Any], None], *, max_examples: int
) -> int:
    """Call `send` with up to so many cases of each operation and each mode.

    Returns:
        How many operations there are.
    """
    hurried = settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    found = [one.ok() for one in schemathesis.openapi.from_dict(description).get_all_operations()]
    for operation in found:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                cases = operation.as_strategy(generation_mode=mode)
                hurried(given(case=cases)(send))()
            except Unsatisfiable:
                continue  # an address without parameters has no wrong ones
    return len(found)
