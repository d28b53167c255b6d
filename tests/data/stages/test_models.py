"""Stages that are trained: the language model and the classifier of pages."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from llamac.cli.data import app
from llamac.data.classifier import address_of, classifier_metrics, train_models
from llamac.data.document import Rejected
from llamac.data.stages import StageError, build, facts, quality
from llamac.data.stages.common import arrays, hash_table, ngram_model
from llamac.data.stages.common.words import mix_bits
from llamac.data.stages.perplexity import value_of_rank
from llamac.spec.data import Data, Source
from llamac.spec.stages import Length, Perplexity, Quality
from tests.data.stages.judged import filtered, reasons, surveyed

NOUNS = ["cat", "dog", "bird", "cow", "hen", "fox"]
VERBS = ["sees", "hears", "likes", "fears", "follows"]


def prose(seed: int, sentences: int = 30) -> str:
    draw = random.Random(seed)
    return " ".join(
        f"The {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)}."
        for _ in range(sentences)
    )


def salad(seed: int, words: int = 150) -> str:
    return " ".join(random.Random(seed).choices(NOUNS + VERBS + ["the"], k=words))


# --- The table -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_a_table_gives_each_key_its_values_and_no_other(count: int) -> None:
    keys = mix_bits(np.arange(1, count + 1, dtype=np.uint64))
    values = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    slots, stored = hash_table.build(keys, values)
    assert (stored[hash_table.find(slots, keys)] == values).all()
    assert (
        hash_table.find(slots, mix_bits(np.arange(count + 1, 2 * count + 9, dtype=np.uint64))) < 0
    ).all()


# --- The language model --------------------------------------------------------------------


def test_probabilities_after_a_word_sum_to_one() -> None:
    model = ngram_model.train([prose(seed) for seed in range(5)], 2, 10_000)
    words = ngram_model.model_words(prose(0))
    vocabulary = np.unique(ngram_model.model_words(" ".join(prose(seed) for seed in range(5))))
    for context in np.unique(words[:-1])[:5]:
        pairs = np.stack([np.full_like(vocabulary, context), vocabulary], 1)
        total = sum(_probability(model, pair) for pair in pairs)
        assert total == pytest.approx(1, abs=1e-5)


def _probability(model: ngram_model.Model, pair: np.ndarray) -> float:
    """p(second | first), by the definition of back-off."""
    single = hash_table.find(model["slots1"], mix_bits(pair))
    both = hash_table.find(model["slots2"], ngram_model.ngrams(pair, 2))[0]
    if both >= 0:
        return math.exp(model["values2"][both, 0])
    return math.exp(model["values1"][single[0], 1] + model["values1"][single[1], 0])


def test_perplexity_tells_sentences_from_their_words() -> None:
    model = ngram_model.train([prose(seed) for seed in range(40)], 3, 100_000)
    ordered = [ngram_model.perplexity(model, prose(seed)) for seed in range(100, 120)]
    mingled = [ngram_model.perplexity(model, salad(seed)) for seed in range(20)]
    assert max(ordered) < 5  # half of the words are `the`, the others one of 5 or 6
    assert min(mingled) > 2 * max(ordered)
    assert ngram_model.perplexity(model, "!?") == math.inf


def test_a_text_of_unknown_words_is_not_a_likely_one() -> None:
    rare = " ".join(f"rare{number}" for number in map(chr, range(0x4E00, 0x4E60)))
    model = ngram_model.train([f"{rare} {prose(1)}"], 3, 100_000)
    unknown = " ".join(f"new{letter}" for letter in "abcdefghijkl")
    assert ngram_model.perplexity(model, unknown) > 50 > ngram_model.perplexity(model, prose(2))


def test_head_and_middle_are_kept_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    arrays.save(path, ngram_model.train([prose(seed) for seed in range(40)], 3, 100_000))
    half = [f"{prose(seed, 15)} {salad(seed, 75)}" for seed in range(3)]
    texts = [salad(0), prose(100), half[0], half[1], prose(101), salad(1), half[2], salad(2), ""]
    texts.append(prose(102))
    stage = Perplexity(model=str(path), head=0.3, middle=0.3)
    judged = surveyed(stage, tmp_path / "survey", texts[:4], texts[4:])
    tail = "tail by perplexity"
    assert reasons(judged[0] + judged[1]) == [
        *(tail, "kept", "kept", "kept"),
        *("kept", tail, "kept", tail, tail, "kept"),
    ]
    only = Perplexity(model=str(path), head=0.3, middle=0.3, keep=("middle",))
    assert reasons(surveyed(only, tmp_path / "only", texts)[0]).count("kept") == 3


def test_ranks_are_those_of_a_sort() -> None:
    draw = np.random.default_rng(0)
    scores = np.r_[draw.lognormal(5, 2, 500), np.inf, 7.0, 7.0].astype(np.float32)
    parts = np.split(scores, [100, 100, 350])
    for rank in (0, 1, 250, 501, 502):
        assert value_of_rank(parts, rank) == np.sort(scores)[rank]


# --- The classifier ------------------------------------------------------------------------


def pages(count: int, seed: int = 0) -> tuple[list[quality.Features], list[bool]]:
    """Pages of which the cited ones use some of their words more often; neither always."""
    draw = random.Random(seed)
    found, labels = [], []
    for number in range(count):
        cited = number % 2 == 0
        words = draw.choices(range(60 if cited else 80), k=30) + draw.choices(range(20, 200), k=30)
        found.append(quality.features(" ".join(f"w{word}" for word in words), 2**14))
        labels.append(cited)
    return found, labels


@pytest.mark.slow
def test_the_classifier_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model", reason="the oracle of the classifier")
    sparse = pytest.importorskip("scipy.sparse", reason="the oracle of the classifier")
    found, labels = pages(300)
    ends = np.cumsum([len(page) for page in found])
    values = np.repeat([1 / len(page) ** 0.5 for page in found], [len(page) for page in found])
    matrix = sparse.csr_matrix((values, np.concatenate(found), np.r_[0, ends]), (300, 2**14))
    oracle = sklearn.LogisticRegression(C=1 / quality.PENALTY, tol=1e-8, max_iter=1000)
    expected = oracle.fit(matrix, labels).predict_proba(matrix)[:, 1]
    model = quality.train(found, labels, 2**14)
    assert [model.probability(page) for page in found] == pytest.approx(expected, abs=0.01)


def test_precision_recall_and_auc() -> None:
    scores, truth = np.array([0.9, 0.8, 0.4, 0.3]), np.array([True, False, True, False])
    assert classifier_metrics(scores, truth, 0.5) == {"precision": 0.5, "recall": 0.5, "auc": 0.75}
    assert classifier_metrics(scores[:0], truth[:0], 0.5) == dict.fromkeys(
        ("precision", "recall", "auc")
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://www.Example.org/a/", "http://example.org/a#section"),
        ("http://example.org:80/", "example.org"),
    ],
)
def test_addresses_that_are_the_same(one: str, other: str) -> None:
    assert address_of(one) == address_of(other)
    assert address_of("http://example.org/A") != address_of("http://example.org/a")


def crawl(folder: Path, cited: int = 60, others: int = 200) -> tuple[Path, Path]:
    """A dump that cites pages of prose, and a crawl in which most pages are something else."""
    links = "".join(f"<ref>[http://site.org/{n} title]</ref>" for n in range(cited))
    page = f"<page><title>T</title><ns>0</ns><id>1</id><revision><id>2</id><text>{prose(1)} "
    dump = folder / "enwiki-pages-articles.xml"
    dump.write_text(
        '<mediawiki xml:lang="en">'
        + page.replace("<text>", '<text xml:space="preserve">')
        + links.replace("<", "&lt;")
        + "</text></revision></page></mediawiki>"
    )
    found = [{"url": f"https://site.org/{n}/", "text": prose(n)} for n in range(cited)]
    found += [{"url": f"http://shop.org/{n}", "text": salad(n, 200)} for n in range(others)]
    found.append({"url": "http://site.org/0", "text": "short"})
    random.Random(0).shuffle(found)
    path = folder / "crawl.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return dump, path


def spec(folder: Path, dump: Path, crawl: Path, **quality_keys: object) -> Data:
    stages = (
        Length(min_chars=20),
        Perplexity(model=str(folder / "models/lm")),
        Quality(model=str(folder / "models/quality"), buckets=2**14, **quality_keys),  # type: ignore[arg-type]
    )
    return Data(
        source=(
            Source(name="wiki", kind="wikipedia", share=1, paths=(str(dump),)),
            Source(name="cc", kind="commoncrawl", share=1, paths=(str(crawl),), stage=stages),
        )
    )


def test_models_are_trained_from_a_dump_and_a_crawl(tmp_path: Path) -> None:
    data = spec(tmp_path, *crawl(tmp_path))
    reports = train_models(data, log=lambda _: None)
    report = reports[str(tmp_path / "models/quality")]
    assert (report["pages_cited"], report["pages_not_cited"]) == (60, 200)
    assert report["trained_on"] + report["held_out"] == 120
    assert report["auc"] == 1
    written = json.loads((tmp_path / "models/quality.json").read_text())
    assert written == report
    stage = data.source[1].stage[2]
    kept, rejected = filtered(stage, prose(500), salad(500))
    assert kept == prose(500)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "unlike pages that are cited"
    assert len(facts(stage)["sha256"]) == 64


def test_the_command_trains_and_says_what_it_reached(tmp_path: Path) -> None:
    dump, found = crawl(tmp_path)
    sources = f"""
extends = "tiny"
[[data.source]]
name = "wiki"
kind = "wikipedia"
share = 1
paths = ["{dump}"]
[[data.source]]
name = "web"
kind = "commoncrawl"
share = 1
paths = ["{found}"]
[[data.source.stage]]
stage = "quality"
model = "{tmp_path}/quality"
buckets = 16_384
"""
    (tmp_path / "mix.toml").write_text(sources)
    done = CliRunner().invoke(app, ["classifier", str(tmp_path / "mix.toml")])
    assert done.exit_code == 0, done.output
    assert "60 pages are cited, 200 are not; trained on" in done.stdout
    assert "precision 1.00, recall 1.00, ROC area 1.00" in done.stdout


def test_training_again_gives_the_same_bytes(tmp_path: Path) -> None:
    data = spec(tmp_path, *crawl(tmp_path))
    written = []
    for _ in range(2):
        train_models(data, log=lambda _: None)
        written.append([path.read_bytes() for path in sorted((tmp_path / "models").iterdir())])
    assert written[0] == written[1]


def test_a_crawl_that_is_not_cited_is_an_error(tmp_path: Path) -> None:
    data = spec(tmp_path, *crawl(tmp_path, cited=3))
    with pytest.raises(StageError, match="3 pages of the crawl are cited and 200 are not"):
        train_models(data, log=lambda _: None)
    assert not (tmp_path / "models/quality").exists()


@pytest.mark.parametrize("stage", [Perplexity(model="none"), Quality(model="none")])
def test_a_model_that_is_not_there_says_how_to_have_it(stage: Perplexity | Quality) -> None:
    with pytest.raises(StageError, match=r"cannot read none: .*`llamac data classifier SPEC`"):
        build(stage)


def test_a_model_of_other_buckets_is_refused(tmp_path: Path) -> None:
    quality.save(quality.QualityModel(np.zeros(1024, np.float32), 0.0), tmp_path / "model")
    with pytest.raises(StageError, match="1024 buckets, not 2048"):
        build(Quality(model=str(tmp_path / "model"), buckets=2048))
