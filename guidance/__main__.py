"""`python -m guidance`, the same as `guidance`."""

import sys

from guidance.cli import main

sys.exit(main())
