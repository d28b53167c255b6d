"""llamac: a declarative model-spec compiler for pretraining LLaMA-style language models."""

__version__ = "0.1.0"
