"""Anthropic's protocol: messages, the count of their tokens, and models in its shape."""
