"""The tiny base's tokenizer: its words as whole tokens, everything else as bytes.

Byte-level BPE without merges: a known word is one token, any other text is its bytes, so whatever
comes is encoded without loss and decodes exactly.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from adapter_training.tiny.lexicon import Lexicon

START = "<|im_start|>"
END = "<|im_end|>"
PAD = "<|endoftext|>"
_FIXED = {
    *("system", "user", "assistant", "tool", "run", "failed", "gives", "error", "give_up", "ref"),
    *("then", "x", "min", "max", "abs", "(", ")", "),", ",", ":", "."),
    *("=", "+=", "-=", "*=", "//=", "%=", "+", "-", "%"),
}


def build_tokenizer(lexicon: Lexicon) -> Tokenizer:
    """The tokenizer over a lexicon. Ids: special tokens, then 256 bytes, then words."""
    words = {
        *_FIXED,
        lexicon.public_frame,
        *lexicon.departments,
        *lexicon.generic,
        *lexicon.ambiguous,
    }
    words |= {str(number) for number in (1, *lexicon.numbers)}
    special = [PAD, START, END]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = {
        piece
        for word in words
        for text in (word, f" {word}")
        for piece, _ in split.pre_tokenize_str(text)
    }
    vocabulary = [*special, *alphabet, *sorted(pieces - set(alphabet))]
    tokenizer = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    return tokenizer
