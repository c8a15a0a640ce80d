"""The gateway is killed while the alias moves: afterwards it serves the old version or the new."""

import random
import signal
import threading
import time
from contextlib import suppress

import openai

from appliance.core import audit
from appliance.core.digests import Digest
from tests.serving.asking import wait_until
from tests.serving.conftest import Appliance, GatewayProcess
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.rolling import entries, visit

KILLS = 8


def test_killed_at_any_moment_it_serves_what_the_journal_says(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    moments, reach_s = random.Random(5), 0.05
    outcomes = set()
    for number in range(KILLS):
        old, new = entries(gateway)[-1], adapters[number % len(adapters)]

        def release(new: Digest = new) -> None:
            with suppress(OSError, RuntimeError):
                gateway.release(appliance, new)

        releasing = threading.Thread(target=release)
        releasing.start()
        time.sleep(moments.uniform(0.0, reach_s))
        gateway.stop(signal.SIGKILL)
        releasing.join()
        gateway.start()
        now = entries(gateway)[-1]
        assert (now.adapter, now.generation) in {
            (old.adapter, old.generation),
            (new, old.generation + 1),
        }
        asking = client.with_options(base_url=f"{gateway.url}/v1", max_retries=5)
        assert {visit(asking).adapter for _ in range(5)} == {now.adapter or "base"}
        wanted = {adapter for adapter in (now.adapter, now.previous) if adapter}
        wait_until(lambda wanted=wanted: set(engine.holders) == wanted)
        outcomes.add(now.generation - old.generation)
        # Around the moment of the move, however fast this machine is.
        reach_s *= 2 if now.generation == old.generation else 0.5
    assert outcomes == {0, 1}, "every kill came too early, or every one too late"
    with appliance.database.read() as connection:
        assert audit.verify(connection) > 0
