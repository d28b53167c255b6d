"""Former names of sections and keys are read, with a note on the current one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.cli import main
from llamac.spec import SpecError, load_spec


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "old.toml"
    path.write_text('extends = "7b"\n\n[activation]\ncheckpoint = "budget"\nbudget = "60GB"\n')
    return path


def test_a_file_is_read_by_its_former_names(spec: Path) -> None:
    loaded = load_spec(spec)
    assert (loaded.recompute.policy, loaded.recompute.budget) == ("budget", 60_000_000_000)
    assert loaded.where("recompute.policy") == "old.toml:4"
    assert loaded == load_spec(
        "7b", ["recompute.policy=budget", "recompute.budget=60GB", "name=old"]
    )
    assert "[activation]" not in loaded.to_toml()


def test_set_takes_former_names_and_a_note_says_the_current_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["llamac", "check", "7b", "--elsewhere", "--set", "activation.checkpoint=full"]
    monkeypatch.setattr("sys.argv", command)
    main()
    said = capsys.readouterr()
    assert "`activation.checkpoint` is now called `recompute.policy`" in said.err
    assert "full" in said.out


def test_a_slip_under_a_former_name_is_told_at_its_place(spec: Path) -> None:
    spec.write_text('extends = "7b"\n\n[activation]\ncheckpiont = "full"\n')
    with pytest.raises(SpecError) as error:
        load_spec(spec)
    assert "old.toml:4:1" in str(error.value)
    assert "`checkpiont` is not a key of [recompute]" in str(error.value)


def test_a_child_unsets_by_a_former_name(spec: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.toml"
    child.write_text(
        'extends = "old.toml"\nunset = ["activation.budget"]\n\n[recompute]\npolicy = "full"\n'
    )
    assert load_spec(child).recompute.budget is None
