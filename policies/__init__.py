"""The law book: pure rules. No I/O, no clock; bytes and times come in as arguments."""
