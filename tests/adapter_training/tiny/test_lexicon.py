import pytest

from adapter_training.tiny.lexicon import line_of, load_lexicon, trace
from appliance.core.errors import RecordError

LEXICON = load_lexicon()
CASES = (-13, 7, 18, 41, 56)


def test_a_dozen_words_or_more_have_several_meanings():
    assert len(LEXICON.ambiguous) >= 12
    assert all(len(meanings) >= 3 for meanings in LEXICON.ambiguous.values())


@pytest.mark.parametrize("word", sorted(LEXICON.ambiguous))
def test_the_meanings_of_a_word_give_different_results(word):
    results = {
        tuple(trace((line_of(meaning, 5),), x)[0] for x in CASES)
        for meaning in LEXICON.ambiguous[word]
    }
    assert len(results) == len(LEXICON.ambiguous[word])


@pytest.mark.parametrize(
    ("meaning", "number", "line"),
    [
        ("x += n", 4, "x += 4"),
        ("x = min(x, n)", 9, "x = min(x, 9)"),
        ("x = n - x", 2, "x = 2 - x"),
        ("x -= x % n", 3, "x -= x % 3"),
        ("x = -x", None, "x = -x"),
    ],
)
def test_the_number_stands_where_n_stood(meaning, number, line):
    assert line_of(meaning, number) == line


def test_a_word_with_one_meaning_is_not_ambiguous(tmp_path):
    path = tmp_path / "lexicon.toml"
    path.write_text(
        'schema = "lexicon/1"\npublic_frame = "book"\npublic_share = 0.5\ndepartments = ["a"]\n'
        'numbers = [2]\n[generic]\nadd = "x += n"\n[ambiguous]\nlevy = ["x += n"]\n'
    )
    with pytest.raises(RecordError, match="levy"):
        load_lexicon(path)
