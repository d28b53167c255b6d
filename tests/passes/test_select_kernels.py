"""select_kernels: the first kernel without an objection, and a note on every other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamac.ir.graph import ops_in
from llamac.ir.program import Program
from llamac.passes.select_kernels import NoKernelError, SelectKernels
from tests.passes.programs import program


def attention(
    dtype: str = "bf16", head_dim: int = 64, positions: int = 64, window: int = 0
) -> Program:
    """One attention in a program of this many positions."""
    kinds = {
        "q": f"{dtype}[B,S,4,{head_dim}]",
        "kv": f"{dtype}[B,S,2,{head_dim}]",
        "lse": "f32[B,4,S]",
        "rest": f", window={window}" * (window > 0),
    }
    graph = """
        block.forward:
          input %x: {q}
          input %k: {kv}
          input %v: {kv}
          %out: {q}, _: {lse} = attention(%x, %k, %v, scale=0.5, kernel='math'{rest})
          return %out
        """.format(**kinds)
    return replace(program(graph), symbols={"B": 2, "S": positions})


def chosen(result: Program) -> str:
    (node,) = ops_in(result.regions["block"].forward.graph)
    return str(node.kwargs["kernel"])


def note(result: Program, kernel: str) -> str:
    (found,) = [one for one in result.notes if one.startswith(f"attention: {kernel} ")]
    return found.partition(" — ")[2]


def test_on_cuda_in_16_bits_xformers_comes_first() -> None:
    result = SelectKernels("auto", "cuda").apply(attention())
    assert chosen(result) == "xformers"
    assert note(result, "xformers") == "chosen"
    assert note(result, "sdpa") == note(result, "math") == "xformers has priority"


@pytest.mark.parametrize(
    ("device", "size", "words"),
    [
        ("cpu", {}, 'CUDA kernels only, and hardware.device is "cpu"'),
        ("auto", {}, 'CUDA kernels only, and hardware.device is "auto"'),
        ("cuda", {"dtype": "f32"}, "precision.compute gives f32"),
        ("cuda", {"positions": 40}, "unless 32 divides batch.sequence_length (40)"),
        ("cuda", {"window": 8}, "model.sliding_window needs another"),
    ],
    ids=["cpu", "unknown-device", "precision", "positions", "window"],
)
def test_where_xformers_cannot_run_sdpa_does(device: str, size: dict, words: str) -> None:
    result = SelectKernels("auto", device).apply(attention(**size))
    assert chosen(result) == "sdpa"
    assert words in note(result, "xformers")


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("head_dim", [12, 264])
def test_heads_that_no_flash_kernel_takes_are_left_to_math(device: str, head_dim: int) -> None:
    result = SelectKernels("auto", device).apply(attention(head_dim=head_dim))
    assert chosen(result) == "math"
    for kernel in ("xformers", "sdpa"):
        assert f"a multiple of 8 up to 256, and is {head_dim}" in note(result, kernel)


def test_the_cpu_s_flash_kernel_takes_any_head() -> None:
    assert chosen(SelectKernels("auto", "cpu").apply(attention(head_dim=12))) == "sdpa"


def test_on_hopper_cudnn_comes_first_where_sums_may_have_any_order() -> None:
    result = SelectKernels("auto", "cuda", hopper=True, deterministic=False).apply(attention())
    assert chosen(result) == "cudnn"
    assert note(result, "xformers") == note(result, "sdpa") == "cudnn has priority"
    elsewhere = SelectKernels("auto", "cuda", deterministic=False).apply(attention())
    assert note(elsewhere, "cudnn") == "xformers has priority"


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ({}, {}, "kernels.deterministic requires one"),
        ({"device": "cpu"}, {}, 'CUDA kernels only, and hardware.device is "cpu"'),
        ({}, {"dtype": "f32"}, "precision.compute gives f32"),
        ({}, {"head_dim": 256}, "a multiple of 8 up to 128, and is 256"),
        ({}, {"window": 8}, "model.sliding_window needs another"),
    ],
    ids=["order", "cpu", "precision", "heads", "window"],
)
def test_where_cudnn_cannot_run_the_next_best_does(options: dict, size: dict, words: str) -> None:
    given = {"device": "cuda", "hopper": True, **options}
    result = SelectKernels("auto", **given).apply(attention(**size))
    assert chosen(result) != "cudnn"
    assert words in note(result, "cudnn")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_flex_is_never_chosen_and_says_why(device: str) -> None:
    assert "backward is explicit" in note(SelectKernels("auto", device).apply(attention()), "flex")


@pytest.mark.parametrize("kernel", ["math", "sdpa", "xformers"])
def test_the_kernel_the_spec_asks_for_is_used(kernel: str) -> None:
    result = SelectKernels(kernel, "cuda").apply(attention())
    assert chosen(result) == kernel
    for other in {"math", "sdpa", "xformers"} - {kernel}:
        assert f'the spec requests "{kernel}"' in note(result, other)


def test_a_kernel_asked_for_that_cannot_run_is_an_error_of_the_spec() -> None:
    with pytest.raises(NoKernelError) as caught:
        SelectKernels("xformers", "cpu").apply(attention(dtype="f32"))
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith('kernels.attention = "xformers" cannot be used: ')
    assert "CUDA kernels only" in message  # every objection,
    assert "gives f32" in message
    assert 'Set kernels.attention = "auto"' in message  # and the way out


def test_a_program_without_attention_passes_through() -> None:
    given = program(
        """
        block.forward:
          input %x: f32[B,S,8]
          %y: f32[B,S,8] = silu(%x)
          return %y
        """
    )
    assert SelectKernels("xformers", "cpu").apply(given) is given
