"""Supervised data as tokens: answers alone have a loss, and what cannot be learned is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamac.runtime.checkpoint.load_run import read_chat_settings
from llamac.runtime.data import answer_tokens
from llamac.runtime.data.answer_tokens import AnswerEncoder, chat_settings
from llamac.runtime.data.mixture import Mixture
from llamac.runtime.data.packing import pack
from llamac.runtime.data.sources.conversations import MalformedRecord, parse_conversation
from llamac.runtime.data.token_shards import PreparedDataMismatch, prepare, token_counts
from llamac.runtime.errors import SourceError
from llamac.runtime.kernels.padding import PADDING, toggle_loss
from llamac.runtime.tokenizers.chat_template import ChatTemplate, ChatTemplateError
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import TokenizerError
from tests.chats import (
    CHATML,
    LLAMA2,
    PLAIN,
    SPECIAL,
    TEMPLATES,
    of_transformers,
    sums,
    write_lines,
    write_model_files,
)
from tests.runtime.data.test_token_shards import tokens, tree

CONTEXT, VOCAB = 128, 344
IM_END, EOS = SPECIAL.index("<|im_end|>"), SPECIAL.index("</s>")


def encoder(directory: Path, template: str, context: int = CONTEXT) -> AnswerEncoder:
    path = write_model_files(directory, template)
    model = load_tokenizer_file(path)
    return AnswerEncoder(model, chat_settings({"path": str(path)}, model), context)


def split(stored: np.ndarray) -> tuple[list[int], list[int]]:
    """Ids, and labels as transformers has them: -100 where there is no loss."""
    ids = np.where(stored < 0, toggle_loss(stored), stored)
    return ids.tolist(), np.where(stored < 0, -100, stored).tolist()


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_labels_are_those_of_transformers(tmp_path: Path, template: str) -> None:
    ours = encoder(tmp_path, template)
    for chat in sums(6):
        theirs = of_transformers().apply_chat_template(
            chat, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        labels = [
            i if mask else -100
            for i, mask in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)
        ]
        found, found_labels = split(ours.encode(parse_conversation({"messages": chat})))
        length = max(n for n, label in enumerate(labels, 1) if label != -100)  # of what is learned
        eos = [EOS] if template is PLAIN else []  # the template ends no answer itself
        assert found == theirs["input_ids"][:length] + eos
        assert found_labels == labels[:length] + eos


def test_a_prompt_is_read_and_its_completion_with_eos_learned(tmp_path: Path) -> None:
    path = write_model_files(tmp_path)
    model = load_tokenizer_file(path)
    (tmp_path / "import.json").write_text(json.dumps({"begin": [2], "bos": 2}))
    chat = chat_settings({"path": str(path)}, model)
    assert (chat.begin, chat.bos) == ((2,), "<s>")
    stored = AnswerEncoder(model, chat, CONTEXT).encode(
        parse_conversation({"prompt": "one and two:", "completion": " three"})
    )
    answer = model.encode(" three").tolist()
    ids, labels = split(stored)
    assert ids == [2, *model.encode("one and two: three").tolist(), model.eos]
    assert labels == [-100] * (len(ids) - len(answer) - 1) + [*answer, model.eos]


def test_alpacas_prompts_need_no_template_of_the_tokenizer(tmp_path: Path) -> None:
    path = write_model_files(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    model = load_tokenizer_file(path)
    record = parse_conversation({"instruction": "Add.", "input": "1, 2", "output": "3"})
    with pytest.raises(SourceError, match=r"set tokenizer\.chat_template to a Jinja file"):
        AnswerEncoder(model, chat_settings({"path": str(path)}, model), CONTEXT).encode(record)
    chat = chat_settings({"path": str(path), "chat_template": "alpaca"}, model)
    ids, labels = split(AnswerEncoder(model, chat, 999).encode(record))
    text = of_transformers().decode(ids)
    assert text.startswith("Below is an instruction that describes a task. Write a response")
    assert text.endswith("\n\n### Instruction:\nAdd.\n\n1, 2\n\n### Response:\n3</s>")
    learned = [label for label in labels if label != -100]
    assert learned == [*model.encode("3").tolist(), EOS] == labels[-len(learned) :]
    two = {"messages": sums(2)[1]}
    learned = split(AnswerEncoder(model, chat, 999).encode(parse_conversation(two)))[1]
    assert learned.count(EOS) == 2  # each answer ends


def test_the_template_is_the_spec_s_or_lies_beside_the_tokenizer(tmp_path: Path) -> None:
    path = write_model_files(tmp_path, CHATML)
    model = load_tokenizer_file(path)
    (tmp_path / "mine.jinja").write_text("mine")
    config = {"bos_token": {"content": "<s>"}, "chat_template": "configured"}

    def found(**tokenizer: str) -> str | None:
        return chat_settings({"path": str(path), **tokenizer}, model).template

    assert found(chat_template=str(tmp_path / "mine.jinja")) == "mine"
    assert found() == (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert found() == "configured"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert found() == "d"
    (tmp_path / "tokenizer_config.json").write_text("[]")
    assert found() is None
    with pytest.raises(SourceError, match=r"none\.jinja: No such file"):
        found(chat_template=str(tmp_path / "none.jinja"))


def test_what_does_not_fit_or_has_no_answer_is_refused(tmp_path: Path) -> None:
    record = parse_conversation({"messages": sums(1)[0]})
    length = len(encoder(tmp_path, CHATML).encode(record))
    assert len(encoder(tmp_path, CHATML, length).encode(record)) == length
    with pytest.raises(MalformedRecord, match="longer than the context"):
        encoder(tmp_path, CHATML, length - 1).encode(record)
    without = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(MalformedRecord, match="leaves out the answer"):
        encoder(tmp_path, without).encode(record)
    with pytest.raises(MalformedRecord, match="refuses it"):
        encoder(tmp_path, "{{ raise_exception('no') }}").encode(record)
    with pytest.raises(ChatTemplateError, match=r"chat_template\.jinja: .*cannot be used"):
        encoder(tmp_path, "{% for %}")


def arguments(directory: Path, records: list[Any], **changes: Any) -> dict[str, Any]:
    lines = write_lines(directory / "chats.jsonl", records)
    source = {"name": "chats", "kind": "supervised", "share": 1.0, "paths": (str(lines),)}
    return {
        "sources": [source],
        "tokenizer": {"path": str(write_model_files(directory)), "eos": None},
        "vocab_size": VOCAB,
        "validation": 0.2,
        "shard_tokens": 500,
        "seed": 1,
        "context": CONTEXT,
    } | changes


BAD = [
    {"messages": [{"role": "user", "content": "q"}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a " * 99}]},
]


def test_prepared_data_holds_every_conversation_and_counts_the_rest(tmp_path: Path) -> None:
    chats, said = sums(40), list[str]()
    asked = arguments(tmp_path, [*({"messages": chat} for chat in chats), *BAD])
    manifest = prepare(tmp_path / "data", **asked, progress=lambda text, _: said.append(text))
    assert manifest["dtype"] == "<i4"
    found = []
    for part in ("train", "validation"):
        stream = tokens(tmp_path / "data", manifest, 0, part)
        documents = np.split(stream, np.flatnonzero(stream == PADDING) + 1)[:-1]
        found += [document[:-1].tolist() for document in documents]
    ours = encoder(tmp_path, CHATML)
    wanted = [ours.encode(parse_conversation({"messages": chat})).tolist() for chat in chats]
    assert sorted(found) == sorted(wanted)
    (source,) = manifest["sources"]
    assert source["skipped"] == {"longer than the context": 1, "no answer to learn": 1}
    lines = tmp_path / "chats.jsonl"
    assert source["skipped_examples"][0] == f"{lines}:41: no answer to learn"
    assert source["skipped_examples"][1].startswith(f"{lines}:42 (")
    assert any("skipped 1 × longer than the context" in line for line in said)
    assert any(f"{lines}:41" in line for line in said)
    train = tokens(tmp_path / "data", manifest, 0, "train")
    assert source["train"]["targets"] == (train >= 0).sum()
    assert f"({source['train']['targets']:,} of answers)" in token_counts(manifest)
    assert read_chat_settings(tmp_path / "data") == {
        "template_sha256": manifest["inputs"]["tokenizer.chat_template"]["template_sha256"],
        "bos": "<s>",
        "begin": [EOS],
        "end": [IM_END],
    }
    before = tree(tmp_path / "data")
    assert prepare(tmp_path / "data", **asked) == manifest
    assert tree(tmp_path / "data") == before


def test_a_template_of_other_text_is_another_preparation(tmp_path: Path) -> None:
    records = [{"messages": chat} for chat in sums(20)]
    asked = arguments(tmp_path, records)
    prepare(tmp_path / "data", **asked)
    with pytest.raises(PreparedDataMismatch, match=r"batch\.sequence_length: 128 before, 200 now"):
        prepare(tmp_path / "data", **arguments(tmp_path, records, context=200))
    write_model_files(tmp_path, LLAMA2)
    with pytest.raises(PreparedDataMismatch, match=r"tokenizer\.chat_template"):
        prepare(tmp_path / "data", **asked)
    for name in ("tokenizer.json", "chat_template.jinja", "chats.jsonl"):
        (tmp_path / name).unlink()  # prepared data needs none of them
    prepare(tmp_path / "data", **asked)


def test_questions_of_unknown_pieces_are_refused(tmp_path: Path) -> None:
    """Though nothing of them has a loss: the model would read [UNK]."""
    vocabulary = {"[UNK]": 0, "</s>": 1, "a": 2}
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocabulary}
    special = [{"id": i, "content": c, "special": True} for i, c in ((0, "[UNK]"), (1, "</s>"))]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    described = {"version": "1.0", "added_tokens": [one | flags for one in special], "model": model}
    described["pre_tokenizer"] = {"type": "Whitespace"}
    records = [{"prompt": f"b c {n}", "completion": "a a a"} for n in range(20)]
    asked = arguments(tmp_path, records)
    Path(asked["tokenizer"]["path"]).write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match="no pieces for"):
        prepare(tmp_path / "data", **asked)


def test_a_source_of_malformed_records_alone_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no document to train on .*no answer to learn"):
        prepare(tmp_path / "data", **arguments(tmp_path, BAD))
    assert not (tmp_path / "data/manifest.json").exists()


def test_text_beside_conversations_is_learned_but_for_its_first_token(tmp_path: Path) -> None:
    asked = arguments(tmp_path, [{"messages": chat} for chat in sums(20)])
    texts = write_lines(tmp_path / "texts.jsonl", [{"text": f"The sum of {n}"} for n in range(60)])
    asked["sources"] += [{"name": "t", "kind": "files", "share": 1.0, "paths": (str(texts),)}]
    manifest = prepare(tmp_path / "data", **asked)
    pack(tmp_path / "data", manifest, CONTEXT)
    mixture = Mixture(tmp_path / "data", "train", CONTEXT, 1, "best_fit")
    source, _, _ = mixture.locate(0, 8)
    rows = mixture.sequences(0, 8)[source == 1]
    firsts = np.roll(rows == PADDING, 1, axis=1) & (rows != PADDING)
    firsts[:, 0] = True
    eos = load_tokenizer_file(asked["tokenizer"]["path"]).eos
    assert (rows[firsts] < PADDING).all()
    assert (rows[~firsts & (rows != PADDING)] >= 0).all()
    assert set(rows[:, :-1][rows[:, 1:] == PADDING].tolist()) == {eos, PADDING}


def test_preparing_makes_the_encoder_once(tmp_path: Path, monkeypatch) -> None:
    """A template is compiled, and the vocabulary searched for its special tokens, only once."""
    path = write_model_files(tmp_path / "model")
    chats = write_lines(tmp_path / "a.jsonl", [{"messages": chat} for chat in sums(6)])
    source = {"name": "chats", "kind": "supervised", "share": 1.0, "paths": [str(chats)]}
    made = []
    monkeypatch.setattr(
        answer_tokens, "ChatTemplate", lambda *given: made.append(given) or ChatTemplate(*given)
    )
    prepare(
        tmp_path / "data",
        sources=[source, source | {"name": "again"}],
        tokenizer={"path": str(path)},
        vocab_size=VOCAB,
        validation=0.0,
        shard_tokens=1 << 20,
        seed=0,
        context=CONTEXT,
    )
    assert len(made) == 1
