"""Evaluation of a trained model on the paper's tasks, by lm-evaluation-harness."""
