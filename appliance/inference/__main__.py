"""``python -m appliance.inference``."""

import sys

from appliance.inference.command import main

sys.exit(main())
