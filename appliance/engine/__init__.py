"""The engine port: its clients and wire, the registry of bases, tokenizer and chat template.

No torch here: the gateway, evaluation and curation import this room, and none of them needs it.
"""
