"""`python -m adapter_training`."""

import sys

from adapter_training.command import main

sys.exit(main())
