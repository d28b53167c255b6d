"""Entry point `python -m llamac.plan.score`; the code is `llamac.plan.published.score`."""

from __future__ import annotations

import sys

from llamac.plan.published import score

if __name__ == "__main__":
    sys.exit(score.main())
