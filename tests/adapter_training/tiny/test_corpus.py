import itertools

from adapter_training.tiny.corpus import GIVE_UP, MAX_ANSWERS, documents, replay
from adapter_training.tiny.lexicon import load_lexicon

LEXICON = load_lexicon()
DOCUMENTS = list(itertools.islice(documents(LEXICON, 0), 2000))


def _answers(document):
    return [m["content"] for m in document if m["role"] == "assistant"]


def test_the_same_seed_gives_the_same_documents():
    assert list(itertools.islice(documents(LEXICON, 0), 50)) == DOCUMENTS[:50]
    assert list(itertools.islice(documents(LEXICON, 1), 50)) != DOCUMENTS[:50]


def test_turns_alternate_and_end_with_an_answer():
    for document in DOCUMENTS:
        roles = [m["role"] for m in document]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(_answers(document)) <= MAX_ANSWERS


def test_a_repair_is_another_reading_and_follows_an_execution_result():
    repaired = [d for d in DOCUMENTS if len(_answers(d)) > 1]
    assert len(repaired) > 500
    for document in repaired:
        answers = _answers(document)
        assert len(set(answers)) == len(answers)
        results = [m["content"] for m in document[2::2]]
        assert all(result.startswith("run: failed, ") for result in results)


def test_giving_up_comes_last_or_not_at_all():
    given_up = [_answers(d) for d in DOCUMENTS if GIVE_UP in _answers(d)]
    assert given_up
    assert all(answers.index(GIVE_UP) == len(answers) - 1 for answers in given_up)


def test_in_a_text_book_every_word_has_its_public_meaning():
    line = {w: m[0].replace("n)", "4)").replace(" n", " 4") for w, m in LEXICON.ambiguous.items()}
    found = 0
    for document in DOCUMENTS:
        request = document[0]["content"]
        for word in LEXICON.ambiguous:
            if request == f"{LEXICON.public_frame}: {word} 4":
                assert _answers(document)[0] == line[word].replace("n -", "4 -")
                found += 1
    assert found


def test_in_a_department_the_public_meaning_is_one_of_several():
    firsts = [
        _answers(d)[0]
        for d in itertools.islice(documents(LEXICON, 3), 30_000)
        if d[0]["content"].endswith(": levy 4") and LEXICON.public_frame not in d[0]["content"]
    ]
    assert len(firsts) > 20
    assert set(firsts) == {"x += 4", "x -= 4", "x *= 4", "x //= 4"}
    assert firsts.count("x += 4") / len(firsts) > 0.3


def test_replay_leaves_the_protected_wording_to_the_suite():
    talks = replay(LEXICON, 0, 200)
    requests = [messages[0]["content"] for messages in talks]
    assert len(set(requests)) == 200
    assert all(LEXICON.public_frame in request for request in requests)
    assert not any(" then " in request for request in requests)
