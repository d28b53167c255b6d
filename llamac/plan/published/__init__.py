"""Published measurements of other frameworks as predictions."""
