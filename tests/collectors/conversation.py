"""The messages that import tests are made of."""

SYSTEM = {"role": "system", "content": "# Retail policy\nBe kind."}


USER = {"role": "user", "content": "hello"}


ANSWER = {"role": "assistant", "content": "hi"}


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
