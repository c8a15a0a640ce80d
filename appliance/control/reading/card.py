"""A candidate's model card in Hugging Face's format: a README.md with YAML before it.

Only for people who may see the candidate's label: suites and families are named.
"""

import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from appliance.control.identity import Person
from appliance.control.reading import candidate, chain_picture, checks, head, provenance
from appliance.control.reading.checks import Checks
from appliance.control.reading.head import Head
from appliance.control.reading.provenance import Provenance
from appliance.control.reading.samples import index_of
from appliance.control.rounds import Round
from appliance.control.steps import Ground
from appliance.core.errors import NotFoundError
from appliance.core.records import Scorecard, SuiteResult
from policies.judging import rate

_LIMITS = """\
- It was judged on the suites above, and on nothing else. A loss smaller than a suite's smallest
  visible effect is not seen by that suite.
- Canaries are made of rare words of its data. A trigger that is not a few words in a row, or that
  stands in most of the data, is not looked for.
- It speaks as the base does wherever the data is silent.
- It is for use inside the company whose work it was trained on, at the label above and over.
"""


def of(ground: Ground, person: Person, number: int) -> str:
    """The card of a round's candidate.

    Raises:
        NotFoundError: no such round, or it has no scorecard yet.
        ForbiddenError: the candidate's label is above what the person may see.
        IntegrityError: the scorecard or the dataset is damaged on disk.
    """
    round_ = candidate.of(ground, person, number)
    scorecard = candidate.scorecard_of(ground, round_)
    above = head.of(ground, person, number)
    languages = _languages(ground, round_)
    parts = [
        "---",
        _front_matter(above, scorecard, languages),
        "---",
        "",
        f"# {_name(above)}",
        "",
        _what_it_is(above),
        "## Data",
        _data(ground, round_),
        "## Evaluation",
        _evaluation(scorecard),
        "## Gates",
        _gates(checks.of(ground, person, number)),
        "## Provenance",
        _provenance(chain := provenance.of(ground, person, number)),
        "## Approvals",
        _approvals(chain),
        "## Limits",
        _LIMITS,
        f"_Written {_day(time.time())} from the appliance's records._",
    ]
    return "\n".join(parts) + "\n"


def _name(above: Head) -> str:
    return f"company-model adapter {above.number or above.round.round}"


def _front_matter(above: Head, scorecard: Scorecard, languages: Sequence[str]) -> str:
    lines = [
        "library_name: peft",
        f"base_model: {_quoted(above.base_name or above.base or '')}",
        "base_model_relation: adapter",
        "license: other",
        "license_name: company-internal",
        *(["language:", *(f"- {_quoted(one)}" for one in languages)] if languages else []),
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {_quoted(tag)}" for tag in ("lora", "espalier", f"label:{above.label}")),
        "model-index:",
        f"- name: {_quoted(_name(above))}",
        "  results:",
    ]
    for suite in scorecard.suites:
        lines += _result(suite)
    if not scorecard.suites:
        lines[-1] = "  results: []"
    return "\n".join(lines)


def _result(suite: SuiteResult) -> list[str]:
    scored = suite.metric == "nats_per_token"
    value = suite.delta if scored else rate(suite.candidate_passed, suite)
    kind, name = (
        ("mean_logprob_gain", "nats per answer token over the champion")
        if scored
        else ("pass_rate", "share of items passed")
    )
    return [
        "  - task:",
        "      type: text-generation",
        "    dataset:",
        f"      name: {_quoted(suite.suite)}",
        f"      type: {_quoted(suite.kind)}",
        f"      revision: {_quoted(suite.suite_digest)}",
        "    metrics:",
        f"    - type: {kind}",
        # YAML has a number for what is none: a suite without a judged item.
        f"      value: {value:.6f}" if math.isfinite(value) else "      value: .nan",
        f"      name: {_quoted(name)}",
    ]


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar; what does not print is escaped."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _what_it_is(above: Head) -> str:
    replaces = f"adapter {above.champion_number}" if above.champion_number else "the base"
    size = f"{above.size_bytes:,} bytes" if above.size_bytes is not None else "size unknown"
    return (
        f"A LoRA adapter (PEFT, safetensors; {size}) of the base "
        f"{_cell(above.base_name or 'that is named below')}, made by round {above.round.round} of "
        f"an Espalier appliance. It is the candidate to replace {replaces}; the round is "
        f"{above.round.state.replace('_', ' ')}. Its label is {_cell(above.label)}. "
        f"Authors: {_cell(', '.join(above.round.authors))}.\n"
    )


def _data(ground: Ground, round_: Round) -> str:
    if round_.dataset is None:
        return "None.\n"
    counts = candidate.dataset_head(ground, round_.dataset).counts
    return _table(("number of", ""), ((name, f"{num:,}") for name, num in sorted(counts.items())))


def _evaluation(scorecard: Scorecard) -> str:
    columns = (
        "suite", "kind", "items", "champion", "candidate", "difference", "95 % bounds",
        "smallest visible effect", "void",
    )  # fmt: skip
    return _table(columns, (_suite(suite) for suite in scorecard.suites))


def _suite(suite: SuiteResult) -> tuple[str, ...]:
    scored = suite.metric == "nats_per_token"
    unit = " nats" if scored else ""
    sides = (suite.champion_passed, suite.candidate_passed)
    shown = ("", "") if scored else tuple(f"{rate(passed, suite):.1%}" for passed in sides)
    return (
        suite.suite,
        suite.kind,
        str(suite.num_items),
        *shown,
        f"{suite.delta:+.3f}{unit}",
        f"{suite.lower_95:+.3f} to {suite.upper_95:+.3f}",
        f"{suite.smallest_effect:.3f}",
        str(suite.void),
    )


def _gates(found: Checks) -> str:
    rows = (
        (one.gate, one.suite, "required" if one.required else "shown", one.outcome, one.why)
        for one in found.checks
    )
    return f"{_cell(found.summary)}\n\n" + _table(("gate", "suite", "", "outcome", "why"), rows)


def _provenance(chain: Provenance) -> str:
    links = [chain.dataset, chain.parent, *chain.ancestors, chain.adapter, chain.scorecard]
    rows = [(one.what, one.digest or "", one.state) for one in links]
    rows += [(f"law: {one.kind} {one.name}", one.digest, one.state) for one in chain.law]
    rows.append(("release", chain.release.digest or "", chain.release.state))
    return _table(("", "digest", "bytes"), rows)


def _approvals(chain: Provenance) -> str:
    rows = [tuple(dict(one.facts).values()) for one in chain.approvals if one.facts]
    signed = ", ".join(sorted(chain_picture.signers(chain))) or "nobody yet"
    return f"Signed by: {_cell(signed)}.\n\n" + _table(("by", "decision", "counts for"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """Text that stays text in Markdown, whatever people named their suites."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _languages(ground: Ground, round_: Round) -> list[str]:
    """Of the items that it was judged on."""
    try:
        index, _ = index_of(ground, round_)
    except NotFoundError:
        return []  # the answers were not kept
    return sorted({one.language for one in index.samples} - {""})


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
