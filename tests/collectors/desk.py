"""A home whose turns and feedback are written by hand, and curated."""

from pathlib import Path
from typing import Any

import numpy as np

from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Example, Feedback, Target, decode
from appliance.core.settings import Settings
from appliance.engine.bases import Base
from appliance.engine.template import Template
from appliance.ingest import Ingest
from collectors.collector import Collector
from collectors.curation.run import Made, Order, curate

USER = {"role": "user", "content": "q"}


class Desk:
    """Sends turns and feedback, curates, and reads the dataset back."""

    def __init__(
        self, home: Home, base: Base, ingest: Ingest, collector: Collector, make: Any, root: Path
    ) -> None:
        self.home, self.base, self.make = home, base, make
        self.ingest, self.collector = ingest, collector
        self.store = ObjectStore(home.objects)
        self.template = Template.load(base.path)
        self.recipe = root / "recipe.toml"
        self.count = 0

    def gold(
        self, name: str, answer: list[int], *, session: str, prompt: Any = None, **other: Any
    ) -> None:
        prompt = self.template.encode([USER]) if prompt is None else prompt
        fields = {"base": self.base.digest, "messages": (USER,), **other}
        self.ingest.turn(*self.make.gold(name, prompt, answer, session=session, **fields))

    def say(self, target: Target, outcome: str = "unknown", **other: Any) -> None:
        self.count += 1
        fields = {"kind": "outcome", "source": "code", "actor": "key-1", "at": float(self.count)}
        self.ingest.feedback(
            Feedback(
                feedback_id=f"f{self.count}",
                target=target,
                outcome=outcome,
                **{**fields, **other},
            )
        )

    def curate(self, recipe: str = "", **order: Any) -> tuple[Made, Dataset]:
        self.recipe.write_text(recipe)
        self.collector.flush(0.0)
        made = curate(
            self.home, Settings(), Order(recipe=self.recipe, base=self.base.digest, **order)
        )
        return made, decode(self.store.get(made.dataset), Dataset)

    def array(self, ref: ArrayRef | None) -> list[Any]:
        assert ref is not None
        kinds = {"int32": "<i4", "uint8": "u1", "float32": "<f4"}
        return np.frombuffer(self.store.get(ref.digest_of_bytes), kinds[ref.dtype]).tolist()

    def trained(self, example: Example) -> list[int]:
        pairs = zip(self.array(example.ids), self.array(example.mask), strict=True)
        return [token for token, on in pairs if on]
