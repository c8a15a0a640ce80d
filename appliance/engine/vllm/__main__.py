"""``python -m appliance.engine.vllm serve``."""

import sys

from appliance.engine.vllm.command import main

sys.exit(main())
