"""Random valid specs, as plain TOML data."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from llamac.spec.model import BIASED
from tests.options import options

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"""', "'''", "{{ x }}", "\\", "\x7f\x1b[31m", "a\nb\r\n", "#", "\u2028", '"; import os; "']
)
path_text = any_text.filter(lambda text: text != "" and "\0" not in text)
slugs = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
fractions = st.floats(0.0009765625, 0.5, width=32)


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    head_dim = 2 * draw(st.integers(1, 16))
    heads = kv_heads * group
    model: dict[str, Any] = {
        "dim": heads * head_dim,
        "n_layers": draw(st.integers(1, 100)),
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "vocab_size": draw(st.integers(320, 10**5)),
    }
    if draw(st.booleans()):
        model |= {"dim": draw(st.integers(1, 500)), "head_dim": head_dim}
    rope = {
        "rope_theta": st.floats(1, 1e6),
        "rope_layout": st.sampled_from(options("rope_layout")),
        "rope_scaling": st.sampled_from(
            [{"kind": "linear", "factor": 2.0}, {"kind": "llama3", "factor": 8.0}]
        ),
    }
    some = {
        "activation": st.sampled_from(options("activation")),
        "norm": st.sampled_from(options("norm")),
        "norm_position": st.sampled_from(options("norm_position")),
        "multiple_of": st.integers(1, 512),
        "ffn_dim": st.integers(1, 10**5),
        "bias": st.sampled_from([*BIASED]),
        "qk_norm": st.booleans(),
        "sliding_window": st.integers(1, 10**6),
        "tied_embeddings": st.booleans(),
    }
    if draw(st.booleans()):
        model["position"] = "learned"
    else:
        some |= rope
    return model | draw(st.fixed_dictionaries({}, optional=some))


@st.composite
def sources(draw: st.DrawFn, name: str) -> dict[str, Any]:
    source: dict[str, Any] = {"name": name, "share": draw(st.floats(0.1, 100))}
    if draw(st.booleans()):
        return source | {"kind": draw(st.sampled_from(["python-docs", "python-source"]))}
    paths = draw(st.lists(path_text, min_size=1, max_size=3))
    more = {"text_field": path_text, "max_bytes": st.sampled_from([1, "60GB", "1.5MiB"])}
    return (
        source | {"kind": "files", "paths": paths} | draw(st.fixed_dictionaries({}, optional=more))
    )


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    length, micro, steps = draw(st.tuples(*[st.integers(1, 5000)] * 3))
    amount = (
        {"sequences": micro * steps} if draw(st.booleans()) else {"tokens": length * micro * steps}
    )
    return {"sequence_length": length, "micro_batch": micro, **amount}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(slugs, min_size=1, max_size=3, unique_by=str.lower))
    steps = {"steps": draw(st.integers(2, 10**6))}
    required = {
        "model": draw(models()),
        "data": {"source": [draw(sources(name)) for name in names]},
        "optimizer": {
            "lr": draw(st.floats(1e-9, 1)),
            "betas": draw(st.lists(fractions, min_size=2, max_size=2)),
        },
        "schedule": {"warmup_steps": draw(st.integers(0, 1)), **steps},
        "batch": draw(batches()),
    }
    optional = {
        "name": slugs,
        "seed": st.integers(0, 2**32 - 1),
        "tokenizer": st.fixed_dictionaries(
            {}, optional={"path": path_text, "train_bytes": st.just("1GB")}
        ),
        "eval": st.fixed_dictionaries({}, optional={"prompt": any_text, "top_p": fractions}),
        "launch": st.fixed_dictionaries(
            {},
            optional={
                "environment": st.dictionaries(
                    st.from_regex("[A-Z_]{1,8}", fullmatch=True), path_text
                ),
                "threads": st.integers(1, 64),
            },
        ),
        "log": st.fixed_dictionaries({}, optional={"tensorboard": st.booleans()}),
        "hardware": st.fixed_dictionaries({}, optional={"peak_tflops": st.floats(0.1, 1e4)}),
    }
    return required | draw(st.fixed_dictionaries({}, optional=optional))
