"""The complete spec. Only the compiler receives it; other code receives single sections."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from llamac.spec.batch import Batch
from llamac.spec.checkpoint import Checkpoint
from llamac.spec.data import SLUG, Data
from llamac.spec.eval import Eval
from llamac.spec.finetune import Finetune
from llamac.spec.hardware import Hardware
from llamac.spec.init import InitialWeights
from llamac.spec.kernels import Kernels
from llamac.spec.launch import Launch
from llamac.spec.log import Log
from llamac.spec.model import Model
from llamac.spec.optimizer import Optimizer
from llamac.spec.parallel import Parallel
from llamac.spec.precision import Precision
from llamac.spec.recompute import Recompute
from llamac.spec.rules.between_sections import broken_rules, total_steps
from llamac.spec.schedule import Schedule
from llamac.spec.section import Section, toml_value
from llamac.spec.tokenizer import EOS, TokenizerSection
from llamac.spec.toml.positions import Place
from llamac.spec.toml.toml_document import TomlDocument
from llamac.spec.toml.writer import to_toml
from llamac.spec.validation.errors import OPTION, REPLACED, Location, Path, Problem, printable
from llamac.spec.validation.validate import ExtraRules, validate_document

PADDING = -1
"""Token id of padding, equal to `runtime.kernels.padding.PADDING`."""


class Spec(Section):
    """A validated spec with one model per TOML section and all derived values set."""

    name: str = Field(
        pattern=SLUG, description="Names build/<name> and runs/<name>. Default: the file's stem."
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        default=42, description="Seed of the initial weights, of the data order and of sampling."
    )
    init: InitialWeights = InitialWeights()
    finetune: Finetune = Finetune()
    model: Model
    tokenizer: TokenizerSection = TokenizerSection()
    data: Data
    optimizer: Optimizer
    schedule: Schedule
    batch: Batch
    precision: Precision = Precision()
    recompute: Recompute = Recompute()
    parallel: Parallel = Parallel()
    kernels: Kernels = Kernels()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    eval: Eval = Eval()
    launch: Launch = Launch()
    hardware: Hardware = Hardware()

    _document: TomlDocument | None = PrivateAttr(None)

    @classmethod
    def from_document(cls, document: TomlDocument, extra_rules: ExtraRules | None = None) -> Spec:
        """Return the validated spec of a TOML document. Raises SpecError with all problems.

        extra_rules: further rules to check, as in `load_spec`.
        """
        spec = validate_document(cls, document, extra_rules)
        spec._document = document
        return spec

    @property
    def document(self) -> TomlDocument | None:
        """The TOML document that the spec was read from; None if it was built in code."""
        return self._document

    @property
    def files(self) -> tuple[FilePath, ...]:
        """The files that were read: the spec's own, then those it extends; () if built in code."""
        return self._document.files if self._document else ()

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the run."""
        return total_steps(self.schedule, self.batch)

    @property
    def micro_batches(self) -> int:
        """Micro-batches per data-parallel rank per step."""
        return self.batch.micro_batches(self.parallel.data_ranks)

    @property
    def document_end(self) -> int | None:
        """Id of the token that ends a document, for masking attention between documents.

        `tokenizer.eos`, or 2 by default; with supervised sources, `PADDING`. None unless
        `data.document_mask` is set.
        """
        if not self.data.document_mask:
            return None
        if self.data.supervised:  # EOS may end each answer of a document
            return PADDING
        return self.tokenizer.eos if isinstance(self.tokenizer.eos, int) else EOS

    def where(self, path: str) -> str:
        """Return where a value was set: `65b.toml:14`, a `--set` option, `replace`, or `default`.

        The result is a single printable line. path: dotted key, such as `model.dim`.
        """
        if self._document is None:
            return "default"
        location = self._document.place(_path(path)).key
        if not location.line:
            return "default"
        if location.file in (OPTION, REPLACED):
            return printable(f"{location.file} {location.source}")
        return printable(f"{PurePath(location.file).name}:{location.line}")

    def toml_values(self) -> dict[str, Any]:
        """Return the keys and values that `to_toml` writes, without empty optional sections."""
        keys = super().toml_values()
        optional = ("init", "finetune")
        return {key: value for key, value in keys.items() if key not in optional or value}

    def to_toml(self) -> str:
        """Return the resolved spec, with all values, as TOML; equal specs give equal text."""
        return to_toml(self.toml_values())

    def replace(self, changes: Mapping[str, Any]) -> Spec:
        """Return a validated copy with some values changed.

        Values derived from them are derived again, unless the spec sets them. Raises SpecError if
        the result is invalid.

        changes: new value by dotted key; None removes the key.
        """
        document = copy.deepcopy(self._document) or TomlDocument(self.name, self.toml_values())
        document.data.setdefault("name", self.name)
        for key, value in changes.items():
            path = _path(key)
            if value is None:
                document.drop(path)
            else:
                here = Location(REPLACED, 1, 1, len(key), f"{key} = {value!r}")
                document.put(path, toml_value(value), Place(here, here))
        return Spec.from_document(document)

    def rules(self) -> Iterator[Problem]:
        yield from broken_rules(dict(self))

    def __eq__(self, other: object) -> bool:
        """Return whether all values are equal, regardless of the files that set them."""
        return isinstance(other, Spec) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]


def _path(key: str) -> Path:
    """Return a dotted key as a path; a number is an index into an array."""
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))
