"""The three matmuls of a linear layer by MKL and by oneDNN: `python benchmarks/matmuls.py`.

Prints GFLOP/s of one thread, from the least processor time of several calls, for the shapes of
bench-14m.toml and of a layer twice as wide. `llamac/runtime/kernels/linear.py` chooses by these.
A weaker machine is imitated, as far as its libraries go, by

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from llamac.spec.model import Model

Product = Callable[[], Tensor]
TOKENS = 4096
WIDTHS = (384, 768)


def gflops(run: Product, flops: float, calls: int) -> float:
    """Return GFLOP/s of the fastest call, by processor time, after one to warm up."""
    run()
    fastest = float("inf")
    for _ in range(calls):
        start = time.process_time()
        run()
        fastest = min(fastest, time.process_time() - start)
    return flops / fastest / 1e9


def onednn(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K], b [N, K] → a @ b.T."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def shapes(dim: int) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of a LLaMA block's packed linears, and of its head."""
    model = Model(dim=dim, n_layers=1, n_heads=dim // 64, vocab_size=4096)
    ffn = model.ffn_dim
    return {
        "wqkv": (dim, 3 * dim),
        "wo": (dim, dim),
        "w13": (dim, 2 * ffn),
        "w2": (ffn, dim),
        "head": (dim, model.vocab_size),
    }


def pairs(x: Tensor, weight: Tensor, d_y: Tensor) -> dict[str, tuple[Product, Product]]:
    """Each product of the layer by MKL and by oneDNN."""
    return {
        "y": (lambda: x @ weight.T, lambda: onednn(x, weight)),
        "d_x": (lambda: d_y @ weight, lambda: onednn(d_y, weight.T)),
        "d_w": (lambda: d_y.T @ x, lambda: onednn(d_y.T, x.T)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=12, help="of which the fastest counts")
    calls = parser.parse_args().calls
    torch.set_num_threads(1)
    print(f"{torch.backends.cpu.get_cpu_capability()}; GFLOP/s of MKL / oneDNN")
    for dim in WIDTHS:
        for name, (inputs, outputs) in shapes(dim).items():
            x, weight = torch.randn(TOKENS, inputs), torch.randn(outputs, inputs)
            d_y = torch.randn(TOKENS, outputs)
            flops = 2 * TOKENS * inputs * outputs
            rates = {
                product: tuple(gflops(run, flops, calls) for run in runs)
                for product, runs in pairs(x, weight, d_y).items()
            }
            text = "  ".join(f"{one} {mkl:4.0f} /{dnn:4.0f}" for one, (mkl, dnn) in rates.items())
            print(f"dim {dim} {name:5} {text}")


if __name__ == "__main__":
    main()
