"""GitHub: which files are code, and under which licence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from llamac.data.formats.licences.dep5 import spdx
from tests.data.readers import read, write

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this"
APACHE = "                    Apache License\n              Version 2.0, January 2004\n"
BSD = "Redistribution and use in source and binary forms, with or without modification,\n"
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: thing

Files: *
Copyright: 2020 A
License: Expat

Files: lib/*
 vendor/?.go
License: GPL-2+
 The text of the licence.

Files: lib/free/*.go
License: BSD-3-clause

License: Expat
 Not said of any file.
"""


def licensed(path: Path) -> dict[str, str | None]:
    documents, _ = read("github", path)
    return {one.meta["path"]: one.meta.get("licence") for one in documents}


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        write(root / name.replace("__", "/").replace("_", "."), text)
    return root


def test_of_debians_globs_the_last_that_matches_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "thing",
        main_go="package main",
        lib__a_go="package lib",
        lib__free__b_go="package free",
        lib__free__deep__c_go="package deep",
        vendor__d_go="package d",
        vendor__dd_go="package dd",
        debian__rules_sh="true",
    )
    write(root / "debian" / "copyright", COPYRIGHT)
    assert licensed(root) == {
        "debian/rules.sh": "MIT",
        "lib/a.go": "GPL-2-or-later",
        "lib/free/b.go": "BSD-3-Clause",
        "lib/free/deep/c.go": "BSD-3-Clause",
        "main.go": "MIT",
        "vendor/d.go": "GPL-2-or-later",
        "vendor/dd.go": "MIT",
    }


def test_an_installed_packages_globs_are_of_where_its_sources_lie(tmp_path: Path) -> None:
    root = tmp_path / "package"
    for name in ("lib/a.go", "main.go"):
        write(root / "usr/share/gocode/src/thing" / name, "package x")
    write(root / "usr/share/doc/thing-dev/copyright", COPYRIGHT)
    base = "usr/share/gocode/src/thing/"
    expected = {f"{base}lib/a.go": "GPL-2-or-later", f"{base}main.go": "MIT"}
    assert licensed(root) == expected
    with tarfile.open(tmp_path / "package.tar", "w") as archive:
        archive.add(root, arcname=".")
    assert licensed(tmp_path / "package.tar") == expected


def test_the_nearest_licence_file_counts_and_a_files_own_line_most(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", LICENSE=MIT, a_c="int a;", deep__b_c="int b;", deep__COPYING=BSD)
    write(root / "c.c", "// SPDX-License-Identifier: Apache-2.0 OR MIT\nint c;")
    write(root / "d.c", "/* SPDX-License-Identifier: GPL-2.0-only */\nint d;")
    assert licensed(root) == {
        "a.c": "MIT",
        "c.c": "Apache-2.0 OR MIT",
        "d.c": "GPL-2.0-only",
        "deep/b.c": "BSD-2-Clause",
    }
    # A file on its own finds what lies above it.
    assert licensed(root / "a.c") == {"a.c": "MIT"}
    assert licensed(root / "deep" / "b.c") == {"b.c": "BSD-2-Clause"}


def test_licence_files_side_by_side_are_a_choice(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", a_rs="fn a() {}")
    write(root / "LICENSE-MIT", MIT)
    write(root / "LICENSE-APACHE", APACHE)
    assert licensed(root) == {"a.rs": "Apache-2.0 OR MIT"}


def test_a_tree_that_says_nothing_has_no_licence(tmp_path: Path) -> None:
    assert licensed(tree(tmp_path / "r", a_py="a = 1", LICENSE="All rights reserved.")) == {
        "a.py": None
    }


@pytest.mark.parametrize(
    ("debian", "expected"),
    [
        ("Expat", "MIT"),
        ("Apache-2.0 or Expat", "Apache-2.0 OR MIT"),
        ("GPL-2+ with Classpath exception", "GPL-2-or-later with Classpath exception"),
        ("BSD-3-clause and ISC", "BSD-3-Clause AND ISC"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
    ],
)
def test_debians_names_become_those_of_spdx(debian: str, expected: str) -> None:
    assert spdx(debian) == expected


def test_only_code_that_can_be_read_is_given(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", a_py="a = 1", Makefile="all:", data_bin="x", empty_py="")
    write(root / "b.py", b"a\0b")
    write(root / "c.py", b"'caf\xe9'")
    write(root / ".git" / "hook.py", "no")
    (root / "link.py").symlink_to(root / "a.py")
    documents, counts = read("github", root)
    found = {one.meta["path"]: one.meta["language"] for one in documents}
    assert found == {"Makefile": "Makefile", "a.py": "Python"}
    assert counts == {
        "not source code": 1,
        "binary file": 1,
        "invalid UTF-8": 1,
        "empty file": 1,
    }


def test_an_archive_may_name_its_licence_last(tmp_path: Path) -> None:
    path = tmp_path / "r.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("r/a.py", "a = 1"), ("r/LICENSE", MIT)):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    documents, _ = read("github", path)
    assert [(one.meta["licence"], one.line, one.file) for one in documents] == [
        ("MIT", 1, str(path))
    ]
    cut = write(tmp_path / "cut.tar", _tar(path)[:514])
    documents, counts = read("github", cut)
    assert documents == []
    assert counts == {"broken tar": 1}


def test_members_that_claim_zeros_are_left_out(tmp_path: Path) -> None:
    """A sparse member of a few bytes may claim megabytes that are not in the archive."""
    hole, size = 1 << 23, 1 << 24
    member = tarfile.TarInfo("r/a.py")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (hole, 512)  # one piece of data, after a hole
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    plain = tarfile.TarInfo("r/b.py")
    plain.size = 5
    parts = [bytes(header), b"a" * 512, plain.tobuf(), b"b = 1".ljust(512, b"\0"), bytes(1024)]
    documents, counts = read("github", write(tmp_path / "r.tar", b"".join(parts)))
    assert [one.text for one in documents] == ["b = 1"]
    assert counts == {"sparse file": 1}


def _tar(path: Path) -> bytes:
    import gzip

    return gzip.decompress(path.read_bytes())
