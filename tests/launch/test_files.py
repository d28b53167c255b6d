"""What the launch files of a spec ask for, and that no string of a spec gets out of its place."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamac.emit.trainer import render_trainer
from llamac.plan.device.device import device_names
from llamac.spec import Spec, SpecError, load_spec
from llamac.spec.launch import SKYPILOT, dns_label
from llamac.spec.parallel import Parallel

CLUSTER = (
    "launch.image=ghcr.io/someone/torch:2.13",
    "launch.volume=runs",
    "launch.accelerator=H100",
    "launch.grace=4m",
    "launch.max_restarts=7",
    "launch.cpus_per_rank=6",
)


def spec_of(*overrides: str, **degrees: int) -> Spec:
    """tiny with these degrees, whether or not its model could be divided so."""
    spec = load_spec("tiny", [*CLUSTER, *overrides])
    return spec.model_copy(update={"parallel": Parallel.model_construct(None, **degrees)})


def rendered(name: str, *overrides: str, **degrees: int) -> str:
    return render_trainer(spec_of(*overrides, **degrees))[f"launch/{name}"]


def parsed(name: str, *overrides: str, **degrees: int) -> Any:
    return yaml.safe_load(rendered(name, *overrides, **degrees))


def directives(*overrides: str, **degrees: int) -> dict[str, str]:
    """The #SBATCH lines."""
    text = rendered("slurm.sbatch", *overrides, **degrees)
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE)
    assert len(found) == text.count("#SBATCH")
    return dict(found)


@pytest.mark.parametrize("degrees", [{}, {"tensor": 8}, {"tensor": 8, "data_shard": 4}])
@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch"])
def test_scripts_are_bash(name: str, degrees: dict[str, int], tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_text(rendered(name, 'launch.environment.A="it\'s $(x)"', **degrees))
    subprocess.run(["bash", "-n", script], check=True)


def test_slurm_gets_a_task_for_each_node_of_the_mesh() -> None:
    asked = directives(
        "launch.time_limit=24h", "launch.partition=gpu,big", "launch.account=me", tensor=8,
        pipeline=4, data_shard=8,
    )  # fmt: skip
    assert asked == {
        "job-name": "tiny",
        "nodes": "32",
        "ntasks-per-node": "1",
        "cpus-per-task": "48",
        "gpus-per-node": "8",
        "partition": "gpu,big",
        "account": "me",
        "time": "1440",
        "signal": "B:TERM@240",
        "requeue": "",
        "open-mode": "append",
        "output": "slurm-%j.log",
    }


def test_slurm_is_asked_for_no_more_than_the_spec_says() -> None:
    asked = directives("hardware.device=cpu", tensor=2)
    assert not asked.keys() & {"gpus-per-node", "time", "partition", "account", "array"}
    assert asked["cpus-per-task"] == "12"


def test_one_rank_is_plain_python_and_several_are_torchrun() -> None:
    assert "torch.distributed.run" not in rendered("local.sh")
    text = rendered("local.sh", tensor=2, data_replicate=3)
    assert "--nnodes=1 --nproc-per-node=6 --max-restarts=7" in text
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240" in text
    assert "--nnodes=3 --nproc-per-node=4" in rendered(
        "local.sh", "launch.gpus_per_node=4", tensor=2, data_replicate=6
    )


def test_kubernetes_gets_a_pod_for_each_node() -> None:
    jobset = parsed("kubernetes.yaml", 'name="My.Run_1"', tensor=8, data_shard=2)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"] == {"name": "my-run-1"}
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 7}
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert {key: job[key] for key in job if key != "template"} == {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimit": 0,
    }
    pod = job["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 240)
    (container,) = pod["containers"]
    assert container["image"] == "ghcr.io/someone/torch:2.13"
    assert container["workingDir"] == "/runs/My.Run_1"
    # JobSet names pods <jobset>-<job>-<replica>-<pod>, under a service named as the jobset.
    head = f"my-run-1-{replicated['name']}-0-0.my-run-1:29500"
    assert container["env"] == [{"name": "RENDEZVOUS", "value": head}]
    assert container["resources"] == {"requests": {"cpu": 48}, "limits": {"nvidia.com/gpu": 8}}
    assert pod["volumes"][0] == {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"runs": "/runs", "shared-memory": "/dev/shm"}


@pytest.mark.parametrize(
    ("trainer", "signal", "code"),
    [
        ("sleep 0.1; mkdir -p checkpoints/step-00000250", False, 0),
        ("exit 3", False, 3),
        ("trap 'exit 0' TERM; touch up; while :; do sleep 0.05; done", True, 75),
        ("trap 'mkdir -p checkpoints/step-00000250; exit 0' TERM; touch up; "
         "while :; do sleep 0.05; done", True, 0),
    ],
)  # fmt: skip
def test_a_pod_succeeds_only_with_a_finished_run(
    trainer: str, signal: bool, code: int, tmp_path: Path
) -> None:
    pod = parsed("kubernetes.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "local.sh").write_text(f"[[ $NODE_RANK == 4 ]] || exit 9\n{trainer}\n")
    process = subprocess.Popen(
        pod["spec"]["containers"][0]["command"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "JOB_COMPLETION_INDEX": "4"},
    )
    while signal and not (tmp_path / "up").exists():
        assert process.poll() is None
    if signal:
        process.terminate()
    assert process.wait(20) == code


def test_skypilot_gets_the_nodes_and_starts_from_the_first() -> None:
    task = parsed("skypilot.yaml", tensor=8, data_shard=2)
    assert (task["name"], task["workdir"], task["num_nodes"]) == ("tiny", ".", 2)
    assert task["resources"] == {
        "cpus": "48+",
        "accelerators": "H100:8",
        "image_id": "docker:ghcr.io/someone/torch:2.13",
    }
    assert task["volumes"] == {"/runs": "runs"}
    assert task["run"].splitlines()[-1] == "bash launch/local.sh --run /runs/tiny"
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_without_a_volume_a_run_stays_on_its_cluster_s_disk() -> None:
    task = yaml.safe_load(render_trainer(load_spec("tiny"))["launch/skypilot.yaml"])
    assert "volumes" not in task
    assert task["run"].splitlines()[-1] == "bash launch/local.sh"
    assert task["resources"] == {"cpus": "4+"}


def test_skypilot_looks_for_the_gpu_that_the_spec_is_for() -> None:
    def resources(*changes: str) -> dict[str, str]:
        files = render_trainer(load_spec("65b", changes))
        return yaml.safe_load(files["launch/skypilot.yaml"])["resources"]

    assert resources()["accelerators"] == "A100-80GB:8"
    assert resources("hardware.gpu=h200")["accelerators"] == "H200:8"
    assert resources("launch.accelerator=H100-MEGA")["accelerators"] == "H100-MEGA:8"


def test_skypilot_has_a_name_for_every_gpu_that_it_offers() -> None:
    """All but parts of one cloud, and the export forms A800 and H800."""
    elsewhere = {"cpu", "a800", "h800", "h100-96gb-500w", "h100-efa", "mi250x"}
    assert set(device_names()) - elsewhere <= set(SKYPILOT)


@pytest.mark.parametrize("key", ["image", "volume", "accelerator", "partition", "account"])
@pytest.mark.parametrize(
    "text", ["a b", "a\n#SBATCH --wrap=x", 'a"b', "a: b", "$(x)", "-x", "a'", "{a}", "a\n", "é", ""]
)
def test_what_no_name_holds_is_refused(key: str, text: str) -> None:
    with pytest.raises(SpecError, match=key):
        load_spec("tiny").replace({f"launch.{key}": text})


HOSTILE = ["no", "1e3", "0x10", "null", "y", "12-3"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_that_yaml_would_take_for_something_else_stay_strings(text: str) -> None:
    changed = ("image", "volume", "accelerator")
    spec = load_spec("tiny").replace({f"launch.{key}": text for key in changed} | {"name": text})
    made = render_trainer(spec)
    sky = yaml.safe_load(made["launch/skypilot.yaml"])
    jobset = yaml.safe_load(made["launch/kubernetes.yaml"])
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == text
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == text
    assert jobset["metadata"]["name"] == sky["name"] == dns_label(text)
    assert sky["resources"]["accelerators"] == f"{text}:1"
    assert sky["volumes"] == {"/runs": text}


@pytest.mark.parametrize(
    ("name", "label"),
    [("65b", "run-65b"), ("A.b_c", "a-b-c"), ("x" * 64, "x" * 40), ("0-", "run-0")],
)
def test_labels_are_what_dns_takes(name: str, label: str) -> None:
    assert dns_label(name) == label
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", label)
