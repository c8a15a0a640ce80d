"""vLLM behind the Engine port: its servers on private sockets, started, fed and watched from here.

vLLM lives in an environment or a container of its own; nothing of it is imported.
"""
