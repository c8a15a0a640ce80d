"""OpenAI's protocols: chat, completions, responses and models."""
