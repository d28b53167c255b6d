"""datatrove's side of benchmarks/data.py: run by a Python that has it, which needs no llamac.

    python benchmarks/data_peer.py TASK TEXTS FOLDER LID TOKENIZER

Prints a line of JSON: bytes of text, CPU seconds, documents kept.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datatrove.data import Document  # type: ignore[import-not-found]
from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found]
from datatrove.pipeline.filters import (  # type: ignore[import-not-found]
    C4QualityFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
from datatrove.pipeline.tokens import DocumentTokenizer  # type: ignore[import-not-found]
from datatrove.pipeline.writers import JsonlWriter  # type: ignore[import-not-found]
from datatrove.utils import lid as lids  # type: ignore[import-not-found]
from loguru import logger  # type: ignore[import-not-found]

LINES = SentDedupConfig(n_sentences=1, split_sentences=False, only_dedup_in_index=False,
                        min_doc_words=0, min_num_sentences=0)  # fmt: skip
Documents = Callable[[], Iterable[Document]]


def language(lid: str) -> LanguageFilter:
    """With the model file given, which it would download otherwise."""
    lids.cached_asset_path_or_download = lambda *_, **__: lid
    return LanguageFilter(languages=["en"], language_threshold=0.5)


def lines(documents: Documents, folder: Path) -> Iterable[Document]:
    found, twice = f"{folder}/lines", f"{folder}/lines-twice"
    SentenceDedupSignature(found, config=LINES).run(documents())
    SentenceFindDedups(found, twice, config=LINES).run()
    return SentenceDedupFilter(twice, config=LINES).run(documents())


def near(documents: Documents, folder: Path) -> Iterable[Document]:
    config = MinhashConfig()
    signatures, buckets, drop = (f"{folder}/{name}" for name in ("signatures", "buckets", "drop"))
    MinhashDedupSignature(signatures, config=config).run(documents())
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(signatures, buckets, config=config).run(
            rank=bucket, world_size=config.num_buckets
        )
    MinhashDedupCluster(buckets, drop, config=config).run()
    return MinhashDedupFilter(drop).run(documents())


def pipeline(texts: Path, folder: Path, lid: str, tokenizer: str) -> None:
    def run(name: str, *steps: Any) -> None:
        LocalPipelineExecutor(list(steps), logging_dir=f"{folder}/logs/{name}").run()

    config = MinhashConfig()
    kept, unique = f"{folder}/kept", f"{folder}/unique"
    whole = JsonlReader(str(texts.parent), glob_pattern=texts.name)
    run("language", whole, language(lid), JsonlWriter(kept, compression=None))
    run("lines1", JsonlReader(kept), SentenceDedupSignature(f"{folder}/lines", config=LINES))
    run("lines2", SentenceFindDedups(f"{folder}/lines", f"{folder}/twice", config=LINES))
    dropped = SentenceDedupFilter(f"{folder}/twice", config=LINES)
    run("lines3", JsonlReader(kept), dropped, JsonlWriter(unique, compression=None))
    run("near1", JsonlReader(unique), MinhashDedupSignature(f"{folder}/sig", config=config))
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(f"{folder}/sig", f"{folder}/buckets", config=config).run(
            rank=bucket, world_size=config.num_buckets
        )
    run("near3", MinhashDedupCluster(f"{folder}/buckets", f"{folder}/drop", config=config))
    tokens = DocumentTokenizer(
        f"{folder}/tokens", tokenizer_name_or_path=tokenizer, shuffle_documents=False
    )
    run("tokens", JsonlReader(unique), MinhashDedupFilter(f"{folder}/drop"), tokens)


def main() -> None:
    task, texts, folder, lid, tokenizer = sys.argv[1:]
    logger.remove()
    path = Path(texts)
    records = [json.loads(line) for line in path.open(encoding="utf-8")]
    held = [(record["text"], str(number)) for number, record in enumerate(records)]
    size = sum(len(text.encode()) for text, _ in held)

    def documents() -> Iterable[Document]:
        return (Document(text=text, id=name) for text, name in held)

    run: dict[str, Callable[[], Iterable[Document] | None]] = {
        "language": lambda: language(lid).run(documents()),
        "c4": lambda: C4QualityFilter(min_num_sentences=3, min_words_per_line=5).run(documents()),
        "line_dedup": lambda: lines(documents, Path(folder)),
        "near_dedup": lambda: near(documents, Path(folder)),
        "tokenize": lambda: DocumentTokenizer(
            f"{folder}/tokens", tokenizer_name_or_path=tokenizer, shuffle_documents=False
        ).run(documents()),
        "pipeline": lambda: pipeline(path, Path(folder), lid, tokenizer),
    }
    began = time.process_time()
    kept = sum(1 for _ in run[task]() or ())
    print(json.dumps({"bytes": size, "cpu": time.process_time() - began, "kept": kept}))


main()
