"""`python -m collectors serve | import | tail | curate`."""

import sys

from collectors.command import main

sys.exit(main())
