"""Dataset → adapter, and the making of bases. A process of its own that may be killed at any time.

What is not here: deciding what may be trained on (collectors, policies) and whether the result is
any good (evaluation).
"""

import os

# No process of ours asks a hub for anything; said here, before transformers can be imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
