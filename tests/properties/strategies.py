"""Random valid specs of every feature, small enough to run."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from llamac.passes.pass_list import OPTIONAL
from llamac.spec import Spec
from llamac.spec.model import BIASED, GATED
from llamac.spec.precision import Precision
from tests.options import options

SCALINGS = st.none() | st.one_of(
    st.fixed_dictionaries({"kind": st.just("linear"), "factor": st.floats(1, 8)}),
    st.fixed_dictionaries(
        {
            "kind": st.just("llama3"),
            "factor": st.floats(1, 16),
            "low_freq_factor": st.floats(0.5, 1.5),
            "high_freq_factor": st.floats(2, 8),
            "original_context": st.integers(1, 256),
        }
    ),
)


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    rope = draw(st.booleans())
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    # One feature alone is its own mean and root mean square: norms leave gradients of rounding.
    head_dim = draw(st.integers(1 if heads > 1 else 2, 5)) * (2 if rope else 1)
    model: dict[str, Any] = {
        "dim": heads * head_dim,
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "vocab_size": draw(st.integers(2, 41)),
        "ffn_dim": draw(st.integers(1, 37)),
        "activation": draw(st.sampled_from(options("activation"))),
        "norm": draw(st.sampled_from(options("norm"))),
        "norm_position": draw(st.sampled_from(options("norm_position"))),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6, 0.1])),
        "bias": draw(st.sampled_from([*BIASED])),
        "qk_norm": draw(st.booleans()),
        "sliding_window": draw(st.none() | st.integers(1, 21)),
        "tied_embeddings": draw(st.booleans()),
    }
    if draw(st.booleans()):
        model |= {"dim": draw(st.integers(2, 29)), "head_dim": head_dim}
    if not rope:
        return model | {"position": "learned"}
    model["rope_theta"] = draw(st.sampled_from([1.0, 100.0, 10000.0, 5e5]))
    model["rope_layout"] = draw(st.sampled_from(options("rope_layout")))
    model["rope_scaling"] = draw(SCALINGS)
    return model


@st.composite
def finetunes(draw: st.DrawFn, activation: str) -> dict[str, Any]:
    """Adapters of any linears that the model has, or nothing."""
    if draw(st.booleans()):
        return {}
    linears = ["wq", "wk", "wv", "wo", "w1", "w2", *(["w3"] if activation in GATED else [])]
    targets = draw(st.lists(st.sampled_from(linears), min_size=1, unique=True))
    rank, alpha = draw(st.integers(1, 5)), draw(st.sampled_from([0.5, 3.0, 16.0]))
    lora = {"method": "lora", "rank": rank, "alpha": alpha, "targets": targets}
    return {"init": {"from": "base"}, "finetune": lora}


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    sequences = draw(st.integers(1, 3))
    model = draw(models())
    masked = model["vocab_size"] > 2 and draw(st.booleans())
    device, attention = draw(  # sdpa is refused where CUDA could be and the heads do not fit it
        st.sampled_from([("auto", "auto"), ("auto", "math"), ("cpu", "auto"), ("cpu", "sdpa")])
    )
    return Spec.model_validate(
        {
            "name": "random",
            **draw(finetunes(model["activation"])),
            "model": model,
            "tokenizer": {"path": "given.model", "eos": 2},  # which lets the vocabulary be tiny
            "data": {
                "source": [{"name": "docs", "kind": "python-docs", "share": 1.0}],
                "document_mask": masked,
            },
            "optimizer": {"lr": 1e-3},
            "schedule": {"steps": 10, "warmup_steps": 1},
            "batch": {
                "sequence_length": draw(st.integers(1, 19)),
                "sequences": sequences,
                "micro_batch": sequences,
            },
            "precision": {"compute": draw(st.sampled_from(options("compute", Precision)))},
            "recompute": {"policy": draw(st.sampled_from(["none", "selective", "full"]))},
            "kernels": {
                "attention": attention,
                "loss_chunk": draw(st.integers(1, 23)),
            },
            "hardware": {"device": device},
        }
    )


disabled = st.sets(st.sampled_from(OPTIONAL))
