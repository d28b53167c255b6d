"""What fills a sequence that documents do not."""

from __future__ import annotations

PADDING = -1
"""As a label, one without a loss; as an input, whatever token."""
