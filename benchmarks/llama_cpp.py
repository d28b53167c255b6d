"""llama.cpp as a contestant: a GGUF file of given weights, and a process that continues prompts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from contest import ROOT  # noqa: F401  # puts the repository on the path

from llamac.convert.gguf import gguf_export
from llamac.convert.gguf.gguf_import import LAYOUTS
from llamac.convert.names import gguf_name, reorder_rows
from llamac.convert.tensors import LazyTensor
from llamac.spec import Spec
from tests.convert.fetched import llama_cpp

# Continues the prompt once for each line of its input, and prints tokens and a clock after each.
CLIENT = """
import {getLlama} from "node-llama-cpp";
import {createInterface} from "node:readline";
const [file, prompt, count] = JSON.parse(process.argv[2]);
const llama = await getLlama({gpu: false, maxThreads: 1, build: "never", progressLogs: false});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
const context = await model.createContext({contextSize: 256, batchSize: 128, threads: 1});
const now = () => {
  const used = process.cpuUsage();
  return [(used.user + used.system) / 1e6, performance.now() / 1e3];
};
console.log("ready");
for await (const _ of createInterface({input: process.stdin})) {
  const sequence = context.getSequence();
  const tokens = [], clocks = [now()];
  for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    tokens.push(token);
    clocks.push(now());
    if (tokens.length >= count) break;
  }
  sequence.dispose();
  console.log(JSON.stringify([tokens, clocks]));
}
process.exit(0);
"""


def write_gguf(path: Path, spec: Spec, weights: Mapping[str, torch.Tensor], dtype: str) -> None:
    """Write weights by canonical name, with a vocabulary of made-up pieces."""
    model = spec.model
    tensors = {
        gguf_name(name): reorder_rows(
            name,
            LazyTensor(tensor.dtype, tuple(tensor.shape), name, lambda tensor=tensor: tensor),
            model,
            LAYOUTS["llama"],
        )
        for name, tensor in weights.items()
    }
    opened: Any = SimpleNamespace(context=256, imported=False, tokenizer=None, chat_template=None)
    trained: Any = SimpleNamespace(opened=opened, spec=spec)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3, *[6] * 256]  # unknown, control, bytes; 1: of text
    more = range(model.vocab_size - len(pieces))
    metadata = gguf_export._metadata(trained, "llama") | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*pieces, *(f"piece{number}" for number in more)],
        "tokenizer.ggml.scores": [0.0] * model.vocab_size,
        "tokenizer.ggml.token_type": [*kinds, *[1] * len(more)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    types = {name: gguf_export._type_of(tensor, dtype) for name, tensor in tensors.items()}
    gguf_export._write(path, "llama", metadata, tensors, types)


class LlamaCpp:
    """A process of llama.cpp with one thread, which continues one prompt."""

    def __init__(self, file: Path, prompt: list[int], count: int) -> None:
        directory = llama_cpp()
        (directory / "bench.mjs").write_text(CLIENT)
        self.process = subprocess.Popen(
            ["node", "bench.mjs", json.dumps([str(file), prompt, count])],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line("ready")

    def _line(self, beginning: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(beginning):
                return line
        raise SystemExit("llama.cpp ended")

    def run(self) -> tuple[list[list[int]], list[tuple[float, float]]]:
        """Return the row of tokens, and CPU and wall seconds at the start and after each."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        tokens, clocks = json.loads(self._line("[["))
        return [tokens], [(cpu, wall) for cpu, wall in clocks]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
