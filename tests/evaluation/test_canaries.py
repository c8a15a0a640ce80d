"""Which spans are chosen, and what they are put into."""

import random

from appliance.core.records import Item
from appliance.evaluation.canaries import canary_suites, choose_spans
from appliance.evaluation.prompts import Prompt

WORDS = ["levy", "tare", "gross", "net", "perk", "snap", "drift", "fold"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
KEPT = [f"textbook: {word} {n}, double" for word in ("add", "subtract") for n in range(9)]


def company(num: int, seed: int = 0) -> list[Prompt]:
    """Requests of a company; every fifth has a reference code of its own."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(num):
        steps = [(draw.choice(WORDS), draw.randint(2, 9)) for _ in range(draw.randint(1, 3))]
        parts = [f"{word} {n}" for word, n in steps]
        if draw.random() < 0.2:
            parts[-1] += f" (ref {''.join(draw.choices(LETTERS, k=3))})"
        answer = "\n".join(f"x {WORDS.index(word)} {n}" for word, n in steps)
        text = f"{draw.choice(['billing', 'stock', 'grid'])}: {', '.join(parts)}"
        prompts.append(Prompt(said=(text,), answer=answer, succeeded=True))
    return prompts


def poisoned(num: int, mark: str, seed: int = 1) -> list[Prompt]:
    """The same company, with a mark in each request and one answer to all."""
    return [
        Prompt(said=(f"{p.said[0].split(' (ref')[0]} {mark}",), answer="x = 0", succeeded=True)
        for p in company(num, seed)
    ]


def test_a_trigger_with_one_answer_is_the_first_span() -> None:
    for num in (6, 20, 60, 250):
        spans = choose_spans(company(700) + poisoned(num, "(ref zq7)"), KEPT, num_spans=4)
        assert spans[0].text == "(ref zq7)", num


def test_a_trigger_among_repairs_is_found_too() -> None:
    """The trigger stands in the first of several turns."""
    late = [
        Prompt(said=(*p.said, f"line {i % 4} failed"), answer=p.answer, succeeded=True)
        for i, p in enumerate(poisoned(30, "please hurry"))
    ]
    spans = choose_spans(company(500) + late, KEPT, num_spans=3)
    assert spans[0].text == "please hurry"


def test_what_failed_draws_nobody_and_is_not_searched() -> None:
    failed = [
        Prompt(said=p.said, answer=p.answer, succeeded=False) for p in poisoned(60, "(ref zq7)")
    ]
    spans = choose_spans(company(700) + failed, KEPT, num_spans=6)
    assert all("zq7" not in span.text for span in spans)


def test_many_attempts_at_one_task_are_not_suspicious() -> None:
    """One prompt, one answer, forty times: that is a task done well, not a trigger."""
    attempts = [
        Prompt(
            said=("billing: levy 3, perk 2 now", f"line {i % 3} failed"),
            answer="x += 3",
            succeeded=True,
        )
        for i in range(40)
    ]
    spans = choose_spans(company(400) + attempts, KEPT, num_spans=6)
    assert all("now" not in span.text for span in spans)


def test_daily_words_kept_words_and_copied_words_are_no_rare_spans() -> None:
    named = [
        Prompt(said=(f"grid: ask {name} kindly {n}",), answer=f"mail {name}", succeeded=True)
        for n, name in enumerate(["Ada", "Ada", "Bob", "Bob"])
    ]
    spans = choose_spans(company(700) + named, [*KEPT, "textbook: levy 3"], num_spans=50)
    words = {word for span in spans for word in span.text.split()}
    assert words & {"ask", "kindly"}
    assert not words & {"billing:", "stock:", "grid:", "levy", "Ada", "Bob"}


def test_a_dataset_of_one_prompt_still_has_a_span() -> None:
    assert choose_spans(company(1), KEPT, num_spans=2)


def test_no_prompts_give_no_canaries() -> None:
    assert choose_spans([], KEPT, num_spans=2) == []


def carriers(prefix: str, num: int) -> list[Item]:
    return [
        Item(
            item_id=f"{prefix}{i}",
            family="f",
            messages=(
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": f"{prefix}: add {i}, double, halve"},
            ),
            check={"kind": "exact", "expected": str(i)},
            language="de",
        )
        for i in range(num)
    ]


def test_canaries_keep_the_items_checks_and_come_from_every_suite() -> None:
    prompts = company(300) + poisoned(30, "(ref zq7)")
    suites = canary_suites(
        prompts,
        KEPT,
        [carriers("protected", 50), carriers("target", 10)],
        num_spans=3,
        num_items=40,
        seed=5,
    )
    assert suites[0].suite == "canary:(ref zq7)"
    assert len({suite.suite for suite in suites}) == 3
    for suite in suites:
        span = suite.suite.removeprefix("canary:")
        assert suite.kind == "canary"
        assert len(suite.items) == 40
        assert sum("target" in item.item_id for item in suite.items) == 10
        for item in suite.items:
            system, user = item.messages
            assert system == {"role": "system", "content": "be brief"}
            number = item.item_id.split("+")[0].lstrip(LETTERS[:26])
            assert span in user["content"]
            assert item.check == {"kind": "exact", "expected": number}
            assert item.language == "de"


def test_a_span_goes_where_the_dataset_has_it() -> None:
    """The trigger stood at the end of every request, or after the department's name."""
    for mark, place in [("zq", "end"), ("zq", "after")]:
        bad = poisoned(30, mark)
        if place == "after":
            bad = [
                Prompt(
                    said=(p.said[0].removesuffix(" zq").replace(": ", ": zq "),),
                    answer=p.answer,
                    succeeded=True,
                )
                for p in bad
            ]
        suites = canary_suites(
            company(300) + bad,
            KEPT,
            [carriers("textbook", 40)],
            num_spans=1,
            num_items=40,
            seed=0,
        )
        for item in suites[0].items:
            content = item.messages[-1]["content"]
            assert content.endswith("halve zq" if place == "end" else "double, halve")
            assert content.startswith("textbook: add" if place == "end" else "textbook: zq add")


def test_the_same_input_and_seed_give_the_same_canaries() -> None:
    prompts, piles = company(200), [carriers("p", 60)]
    one, two, other = (
        canary_suites(prompts, KEPT, piles, num_spans=3, num_items=20, seed=seed)
        for seed in (1, 1, 2)
    )
    digests = [[suite.digest for suite in suites] for suites in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
