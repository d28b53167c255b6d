"""Render the files beside model.py: train.py, generate.py, README.md and the others in `FILES`.

Values of the spec are written as literals in Python and quoted in shell. Generated Python has
ruff's format, without needing ruff.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import llamac
from llamac.emit.python_source import WIDTH, environment
from llamac.ir.types import DTYPES
from llamac.passes.lower import COMPUTE_DTYPE
from llamac.runtime.checkpoint.checkpoint import checkpoint_path
from llamac.runtime.kernels.padding import PADDING
from llamac.spec import Spec
from llamac.spec.launch import Launch, dns_label
from llamac.spec.rules.cuda_graphs import cuda_graph_objections

PACKAGE = Path(llamac.__file__).parent
"""Directory of the package `llamac`."""

FILES = ("train.py", "generate.py", "README.md", "requirements.txt", "ruff.toml")
"""Files beside model.py that are emitted for every spec, each from the template of its name."""


def render_trainer(spec: Spec, has_plan: bool = False) -> dict[str, str]:
    """Return the text of the files beside model.py (`FILES` and launch scripts) by relative path.

    The same spec and llamac version give the same text.

    has_plan: whether plan.json is emitted too; the files mention it then.
    """
    values, templates = _values(spec) | {"has_plan": has_plan}, environment()
    names = (*FILES, *launch_files(spec.launch))
    return {name: templates.get_template(f"{name}.j2").render(values) for name in names}


def launch_files(launch: Launch) -> tuple[str, ...]:
    """Return the relative paths of the launch scripts that are emitted for a spec.

    The Kubernetes manifest is among them if `launch.image` and `launch.volume` are set.

    launch: the spec's [launch].
    """
    names = ("launch/local.sh", "launch/slurm.sbatch", "launch/skypilot.yaml")
    kubernetes = launch.image and launch.volume
    return (*names, "launch/kubernetes.yaml") if kubernetes else names


def runtime_files(*sources: str) -> list[str]:
    """Return the runtime files that sources import, directly or indirectly, sorted.

    Paths are relative to `runtime/` and include packages' `__init__.py` and C++ sources of modules.

    sources: texts of Python modules.
    """
    needed, pending = set(), [module for text in sources for module in _imports(text)]
    while pending:
        module = pending.pop()
        file = f"{module.replace('.', '/')}.py"
        if file not in needed:
            packages = PurePosixPath(file).parents
            needed |= {file, *(str(package / "__init__.py") for package in packages)}
            path = PACKAGE / "runtime" / file
            if path.with_suffix(".cpp").exists():
                needed.add(str(PurePosixPath(file).with_suffix(".cpp")))
            text = path.read_text(encoding="utf-8")
            pending += _imports(text, within=f"runtime.{module}")
    return sorted(needed)


def stream_shape(spec: Spec) -> tuple[int, int, int]:
    """Return the residual stream's shape on one rank: (micro-batch, positions, dim)."""
    parallel, batch = spec.parallel, spec.batch
    sharing = parallel.context * (parallel.tensor if parallel.sequence else 1)
    return batch.micro_batch, batch.sequence_length // sharing, spec.model.dim


def has_whole_model(spec: Spec) -> bool:
    """Return whether whole_model.py, the model without parallelism, is emitted to generate text.

    That is so under tensor, context or pipeline parallelism, whose model.py cannot run on a single
    rank.
    """
    return spec.parallel.tensor * spec.parallel.context * spec.parallel.pipeline > 1


def _values(spec: Spec) -> dict[str, Any]:
    """Return the template variables besides the spec: settings as the runtime expects them."""
    optimizer, schedule, ranks = spec.optimizer, spec.schedule, spec.parallel.ranks
    nodes = spec.launch.nodes(ranks)
    names = ["FLOPS_PER_TOKEN", "INIT", "PARAMETERS", "Model", "compile_regions"]
    names += ["SHARDING" if spec.parallel.tensor > 1 else "PACKED"]
    names += ["STAGES"] if spec.parallel.pipeline > 1 else []
    sections = spec.kernels, spec.hardware, spec.parallel, spec.finetune
    graphs = not list(cuda_graph_objections(*sections))
    batch, reader, step = "tokens, labels", "mesh", "accumulate(model, tokens, labels, mesh)"
    if spec.finetune.is_dpo:
        batch, reader = "batch", "preferences"
        step = "preferences.accumulate(batch, MICRO_BATCH)"
    elif spec.parallel.pipeline > 1:
        step = "model.step(tokens, labels)"
    elif graphs:
        step = "accumulate(run_micro_batch, tokens, labels, MICRO_BATCH)"
    return {
        "spec": spec,
        "ranks": ranks,
        "tensor": spec.parallel.tensor,
        "whole": has_whole_model(spec),
        "degrees": spec.parallel.mesh,
        "pipeline": spec.parallel.pipeline,
        "graphs": graphs,
        "batch": batch,
        "reader": reader,
        "step": step,
        "names": sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)),
        "stream": stream_shape(spec),
        "nodes": nodes,
        "ranks_per_node": ranks // nodes,
        "gpus": spec.hardware.device != "cpu",
        "exact": spec.kernels.deterministic or spec.hardware.device == "cpu",
        "fixed_order": spec.kernels.deterministic and spec.hardware.device != "cpu",
        "accelerator": spec.launch.accelerator_for(spec.hardware.gpu),
        "label": dns_label(spec.name),
        "last_checkpoint": checkpoint_path(Path(), spec.total_steps).name,
        "version": llamac.__version__,
        "width": WIDTH,
        "spec_sha256": hashlib.sha256(spec.to_toml().encode()).hexdigest(),
        "dtype": str(DTYPES[COMPUTE_DTYPE[spec.precision.compute]]),
        "algorithm": type(optimizer).__name__,
        "optimizer": optimizer.hyperparameters,
        "schedule": {
            "kind": schedule.kind,
            "peak": optimizer.lr,
            "warmup_steps": schedule.warmup_steps,
            "min_ratio": schedule.min_lr_ratio,
            **({"decay": schedule.decay} if schedule.decay else {}),
        },
        "mixing": _mixing(spec),
        "trackers": {k: v for k, v in spec.log.model_dump(exclude={"every"}).items() if v},
        "padded": spec.data.packing == "best_fit",
        "questions": {
            "path": spec.eval.questions,
            "tasks": list(spec.eval.tasks),
            "count": spec.eval.task_questions,
        },
        "prefers": spec.finetune.is_dpo,
        "preference": {
            "beta": spec.finetune.beta,
            "label_smoothing": spec.finetune.label_smoothing,
            **({"reduce_each": True} if spec.parallel.reduces_each else {}),
        },
        "sample": {
            "max_new_tokens": spec.eval.sample_tokens,
            "context": spec.batch.sequence_length,
            "temperature": spec.eval.temperature,
            "top_p": spec.eval.top_p,
            "seed": spec.seed,
        },
    }


def _mixing(spec: Spec) -> dict[str, Any]:
    """Return the arguments of `Mixture` that differ from its defaults, by name."""
    found: dict[str, Any] = {}
    if spec.data.packing == "best_fit":
        found["packing"] = spec.data.packing
    if spec.document_end == PADDING:
        found["padding_input"] = PADDING
    if spec.data.phase:
        found["phases"] = [{"at": p.at, "shares": dict(p.shares)} for p in spec.data.phase]
    return found


@functools.lru_cache(256)  # the runtime has about a hundred modules
def _imports(source: str, within: str = "") -> tuple[str, ...]:
    """Return the modules of `runtime` that a source imports, as names below it (`kernels.norm`).

    within: the source's own dotted name, for relative imports.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = within.split(".")[: -node.level] if node.level else []
        module = ".".join([*base, *filter(None, [node.module])])
        if module.partition(".")[0] != "runtime":
            continue
        path = PACKAGE / module.replace(".", "/")
        inner = module.removeprefix("runtime").lstrip(".")
        if path.is_dir():  # a package, from which modules are imported
            names += [f"{inner}.{alias.name}".lstrip(".") for alias in node.names]
        else:
            names.append(inner)
    return tuple(names)
