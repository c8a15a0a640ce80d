"""``python -m appliance.evaluation``."""

import sys

from appliance.evaluation.command import main

sys.exit(main())
