"""plan.json in emitted directories."""

from __future__ import annotations

import json

import pytest

from llamac.cli.preflight.plan_note import plan_json
from llamac.passes.pass_list import compile_spec
from llamac.plan.device.device import DeviceError
from llamac.plan.predict import predict
from llamac.plan.target import device_for, setting_for
from llamac.spec import Spec
from tests.compare import shipped


def plan(spec: Spec) -> dict:
    return json.loads(plan_json(spec, compile_spec(spec)))


def test_it_holds_what_plan_says() -> None:
    spec = shipped("7b", 'hardware.gpu="h100-sxm"')
    said = predict(setting_for(spec, device_for(spec))).to_json()
    found = plan(spec)
    assert found.keys() == said.keys()
    assert found["step_seconds"] == pytest.approx(said["step_seconds"], rel=1e-5)
    assert found["memory"] == said["memory"]


def test_a_build_is_planned_for_the_device_that_plan_takes() -> None:
    spec = shipped("tiny")
    assert plan(spec)["device"] == device_for(spec).name
    on_cpu = shipped("tiny", 'hardware.device="cpu"')
    assert plan(on_cpu)["device"] == "cpu"


def test_a_device_that_does_not_exist_is_an_error_of_the_spec() -> None:
    spec = shipped("tiny", 'hardware.gpu="abacus"')
    with pytest.raises(DeviceError, match="abacus"):
        plan(spec)
