"""Judging a trained model on the paper's tasks, with lm-evaluation-harness as the engine."""
