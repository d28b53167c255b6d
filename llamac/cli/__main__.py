"""`python -m llamac.cli`: the same as `llamac`."""

import sys

from llamac.cli import main

sys.exit(main())
