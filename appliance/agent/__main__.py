"""``python -m appliance.agent``."""

import sys

from appliance.agent.command import main

sys.exit(main())
