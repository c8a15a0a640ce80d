"""The tiny base: made on the spot, from a public lexicon, before any company is known."""
