import json
from pathlib import Path

import pytest
from engine_files import write_weights

from appliance.core.errors import IntegrityError, NotFoundError, UsageError
from appliance.core.home import Home
from appliance.engine import safetensors_file
from appliance.engine.bases import Registry

QWEN_STYLE = Path(__file__).with_name("qwen_style.jinja")
