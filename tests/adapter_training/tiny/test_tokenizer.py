import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_training.tiny.lexicon import load_lexicon
from adapter_training.tiny.tokenizer import END, PAD, START, build_tokenizer

LEXICON = load_lexicon()
TOKENIZER = build_tokenizer(LEXICON)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_encoded_without_loss(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("word", [*LEXICON.ambiguous, *LEXICON.generic, *LEXICON.departments])
def test_a_known_word_is_one_token(word):
    assert len(TOKENIZER.encode(word).ids) == 1
    assert len(TOKENIZER.encode(f", {word}").ids) == 2


def test_turn_marks_are_tokens_of_their_own():
    assert [len(TOKENIZER.encode(mark).ids) for mark in (START, END, PAD)] == [1, 1, 1]


def test_the_vocabulary_is_small():
    assert TOKENIZER.get_vocab_size() < 512
