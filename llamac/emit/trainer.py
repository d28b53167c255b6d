"""Spec → the files around model.py: train.py, generate.py, README.md and what else is in `FILES`.

Values of the spec enter Python only as literals and shell only quoted; a template that names
something unknown fails. The text is as `ruff format` would leave it, without needing ruff.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import llamac
from llamac.emit.source import WIDTH, environment
from llamac.ir.types import DTYPES
from llamac.passes.lower import COMPUTE_DTYPE
from llamac.runtime.checkpoint.checkpoint import checkpoint_path
from llamac.spec import Spec
from llamac.spec.launch import Launch, dns_label

PACKAGE = Path(llamac.__file__).parent
FILES = ("train.py", "generate.py", "README.md", "requirements.txt", "ruff.toml")


def render_trainer(spec: Spec, planned: bool = False) -> dict[str, str]:
    """The rendered files by relative path. The same spec gives the same text. planned: is there a
    plan.json beside them?"""
    values, templates = _values(spec) | {"planned": planned}, environment()
    names = (*FILES, *launch_files(spec.launch))
    return {name: templates.get_template(f"{name}.j2").render(values) for name in names}


def launch_files(launch: Launch) -> tuple[str, ...]:
    """Return the launchers of a spec: Kubernetes only where the spec names what it needs."""
    names = ("launch/local.sh", "launch/slurm.sbatch", "launch/skypilot.yaml")
    kubernetes = launch.image and launch.volume
    return (*names, "launch/kubernetes.yaml") if kubernetes else names


def runtime_files(*sources: str) -> list[str]:
    """Files of `runtime/` that these Python sources import, directly or not: sorted paths."""
    needed, pending = set(), [module for text in sources for module in _imports(text)]
    while pending:
        module = pending.pop()
        file = f"{module.replace('.', '/')}.py"
        if file not in needed:
            needed |= {file, "__init__.py", str(PurePosixPath(file).parent / "__init__.py")}
            text = (PACKAGE / "runtime" / file).read_text(encoding="utf-8")
            pending += _imports(text, within=f"runtime.{module}")
    return sorted(needed)


def stream_shape(spec: Spec) -> tuple[int, int, int]:
    """Return what passes from layer to layer on one rank: sequences, positions, dim."""
    parallel, batch = spec.parallel, spec.batch
    sharing = parallel.context * (parallel.tensor if parallel.sequence else 1)
    return batch.micro_batch, batch.sequence_length // sharing, spec.model.dim


def has_whole_model(spec: Spec) -> bool:
    """Is there a whole_model.py beside model.py? Text comes from one process, which needs all of
    every weight."""
    return spec.parallel.tensor * spec.parallel.context * spec.parallel.pipeline > 1


def _values(spec: Spec) -> dict[str, Any]:
    """Return the templates' values besides the spec: sections as the runtime takes them."""
    optimizer, schedule, ranks = spec.optimizer, spec.schedule, spec.parallel.ranks
    nodes = spec.launch.nodes(ranks)
    names = ["FLOPS_PER_TOKEN", "INIT", "PARAMETERS", "Model", "compile_regions"]
    names += ["SHARES" if spec.parallel.tensor > 1 else "PACKED"]
    names += ["STAGES"] if spec.parallel.pipeline > 1 else []
    return {
        "spec": spec,
        "ranks": ranks,
        "tensor": spec.parallel.tensor,
        "whole": has_whole_model(spec),
        "degrees": spec.parallel.mesh,
        "pipeline": spec.parallel.pipeline,
        "names": sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)),
        "stream": stream_shape(spec),
        "nodes": nodes,
        "ranks_per_node": ranks // nodes,
        "gpus": spec.hardware.device != "cpu",
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
        "sample": {
            "count": spec.eval.sample_tokens,
            "context": spec.batch.sequence_length,
            "temperature": spec.eval.temperature,
            "top_p": spec.eval.top_p,
            "seed": spec.seed,
        },
    }


def _mixing(spec: Spec) -> dict[str, Any]:
    """Return the arguments of `Mixture` that differ from its defaults."""
    found: dict[str, Any] = {}
    if spec.data.packing != "concatenate":
        found["packing"] = spec.data.packing
    if spec.data.phase:
        found["phases"] = [{"at": p.at, "shares": dict(p.shares)} for p in spec.data.phase]
    return found


def _imports(source: str, within: str = "") -> list[str]:
    """Modules of `runtime` that a source imports, by dotted name below it (`kernels.norm`).

    within: the source's own dotted name, to which its relative imports refer.
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
        if path.is_dir():  # a package: what is imported of it are modules
            names += [f"{inner}.{alias.name}".lstrip(".") for alias in node.names]
        else:
            names.append(inner)
    return names
