"""What a dataset's prompts said, read back from the ids."""

import numpy as np

from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Example
from appliance.engine.bases import Base
from appliance.engine.template import Template
from appliance.evaluation.prompts import dataset_prompts


def test_in_a_conversation_what_was_said_between_the_answers_counts(
    home: Home, base: Base, template: Template
) -> None:
    """One row holds a whole imported conversation; a trigger may stand in any of its turns."""
    said = [
        ("system", "be kind"),
        ("user", "book it"),
        ("assistant", "which day?"),
        ("user", "friday zorb"),
        ("tool", "booked 17"),
        ("assistant", "done"),
    ]
    messages = [{"role": role, "content": text} for role, text in said]
    spans = template.spans(messages)
    store = ObjectStore(home.objects)

    def array(values: list[int], dtype: str, wire: str) -> ArrayRef:
        digest = store.put(np.asarray(values, wire).tobytes())
        return ArrayRef(digest_of_bytes=digest, dtype=dtype, count=len(values))  # type: ignore[arg-type]

    example = Example(
        trajectory_id="t",
        version=1,
        node=0,
        kind="success",
        tier="silver",
        family="f",
        task="t",
        reward=1.0,
        ids=array(spans.ids, "int32", "<i4"),
        mask=array(spans.mask, "uint8", "u1"),
        logprobs=None,
        adapter=None,
    )
    dataset = Dataset(
        base=base.digest,
        template=template.digest,
        recipe=base.digest,
        label="internal",
        trajectories=(("t", 1),),
        examples=(example,),
        exclusions=(),
        counts={},
    )
    (prompt,) = dataset_prompts(dataset, template, store)
    spoken = "\n".join(prompt.said)
    assert all(text in spoken for text in ("be kind", "book it", "friday zorb", "booked 17"))
    assert "which day" not in spoken
    assert "done" not in spoken
