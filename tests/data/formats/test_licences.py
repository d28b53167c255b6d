"""Licences: which files speak for a folder, and what they say. The texts are those of packages
that are installed here."""

from __future__ import annotations

import re
import time
from importlib.metadata import files
from pathlib import Path

import pytest

from llamac.data.formats.licences.dep5 import spdx
from llamac.data.formats.licences.licence_detection import Licences, is_licence, licences
from llamac.data.formats.licences.licence_texts import identify_licence, tag_of
from llamac.data.stages.licence import permits


def text_of(package: str, name: str = "LICENSE") -> str:
    found = [file for file in files(package) or () if re.fullmatch(rf"{name}(\.\w+)?", file.name)]
    return Path(str(found[0].locate())).read_text(encoding="utf-8")


MIT, BSD3, BSD2 = text_of("pluggy"), text_of("jinja2"), text_of("packaging", "LICENSE.BSD")
APACHE = text_of("safetensors")
GPL = "GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007\n\n Copyright (C) 2007 FSF, Inc.\n"
AGPL = GPL.replace("GENERAL", "AFFERO GENERAL").replace("29 June", "19 November")


def of(**texts: str) -> str | None:
    """Of a file beside licence files of these names, `_` for `-` and `__` for `.`."""
    said = {name.replace("__", ".").replace("_", "-"): text for name, text in texts.items()}
    return licences(said).licence_of("a.py", "a = 1\n")


# --- Texts -----------------------------------------------------------------------------------


def test_licences_are_told_apart_by_their_texts() -> None:
    assert identify_licence(MIT) == "MIT"
    assert identify_licence(BSD2) == "BSD-2-Clause"
    assert identify_licence(BSD3) == "BSD-3-Clause"
    assert identify_licence(APACHE) == "Apache-2.0"
    assert identify_licence(GPL) == "GPL-3.0"
    assert identify_licence(AGPL) == "AGPL-3.0"
    assert identify_licence("free as in beer") is None
    assert identify_licence("") is None


@pytest.mark.parametrize(
    ("text", "name"), [(MIT, "MIT"), (BSD3, "BSD-3-Clause"), (APACHE, "Apache-2.0")]
)
def test_what_frames_a_licence_does_not_hide_it(text: str, name: str) -> None:
    without_title = re.sub(
        r"\A\W*(?:The MIT License[^\n]*|Apache License\s+Version[^\n]*)\n", "", text
    )
    for framed in (
        text.replace("\n", "\r\n"),
        "\ufeff" + text,
        " ".join(text.split()),
        text.replace("\n", "\n\n"),
        "\n".join(f"# {line}" for line in text.split("\n")),
        without_title,
        "Copyright © 2001-2024, 2026 Ein Mensch <a@b.de>\nAll rights reserved.\n\n" + text,
        "For Thing software\n\n" + text,
        text.upper(),
    ):
        assert identify_licence(framed) == name


def test_a_licence_cut_off_after_its_beginning_is_recognised() -> None:
    assert identify_licence(MIT[: MIT.index("including")]) == "MIT"
    assert identify_licence("MIT License\n\nCopyright (c) 2020 A") == "MIT"
    assert identify_licence("Apache License\n  Version 2.0, January 2004\n") == "Apache-2.0"


RIDERS = [
    '"Commons Clause" License Condition v1.0\n\n{}',
    "{}\n\nNot for commercial use.",
    "{}\n\nAdditional terms: the logo is ours.",
    "Everything but the folder ee/ is under this licence:\n\n{}",
    "Proprietary. All rights reserved. Portions:\n\n{}",
    "{}\n\nNur für nichtkommerzielle Zwecke.",
    "{}\n\n仅限非商业用途",
    "Copyright (c) 2020 A. Commercial use is prohibited.\n\n{}",
]


@pytest.mark.parametrize("rider", RIDERS)
@pytest.mark.parametrize("text", [MIT, BSD3, APACHE], ids=["MIT", "BSD", "Apache"])
def test_a_file_that_says_more_is_of_no_known_licence(text: str, rider: str) -> None:
    assert identify_licence(rider.format(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "Proprietary. Portions are licensed under the Apache License, Version 2.0; all else not.",
        "Some files are under the MIT License.",
        "Files with SPDX-License-Identifier: MIT are MIT, all else is ours.",
        MIT.replace("without restriction", "without restriction, except for profit"),
        MIT.replace("The above", "The Software shall be used for Good, not Evil.\n\nThe above"),
        "MIT License\n\nYou may look at the code.",
    ],
)
def test_a_mention_is_no_licence(text: str) -> None:
    assert identify_licence(text) in (None, "JSON")


def test_a_tag_may_stand_for_a_text() -> None:
    assert identify_licence("SPDX-License-Identifier: MIT OR Apache-2.0\n") == "MIT OR Apache-2.0"
    assert identify_licence(f"SPDX-License-Identifier: MIT\n\n{MIT}") == "MIT"
    assert identify_licence(f"SPDX-License-Identifier: MIT\n\n{APACHE}") == "MIT AND Apache-2.0"


def test_several_licences_in_one_file_apply_together() -> None:
    both = identify_licence(f"{MIT}\n\n{APACHE}")
    assert both == "MIT AND Apache-2.0"


# --- Which files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("LICENSE", "LICENCE", "license.txt", "License.md", "LICENSE.rst", "COPYING", "UNLICENSE"),
        *("LICENSE-MIT", "LICENSE-APACHE-2.0.txt", "LICENSE.APACHE2", "MIT-LICENSE.txt"),
        *("COPYING.LESSER", "COPYING3", "LICENSE_1_0.txt", "LICENSES", "LIZENZ.txt", "LICENSE-BSD"),
    ],
)
def test_a_licence_file_is_told_by_its_whole_name(name: str) -> None:
    assert is_licence(f"a/{name}")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "license.py",
            "license_texts.py",
            "licenses.go",
            "LICENSE-THIRD-PARTY.txt",
            "License.php",
        ),
        *(
            "LICENSE.docs",
            "license-checker.js",
            "copying.c",
            "License.php",
            "LICENSED",
            "unlicensed.txt",
        ),
    ],
)
def test_other_names_that_begin_like_it_are_none(name: str) -> None:
    assert not is_licence(f"a/{name}")


def test_files_side_by_side_apply_together_unless_they_are_a_choice() -> None:
    assert of(LICENSE=MIT) == "MIT"
    assert of(LICENSE=MIT, COPYING=GPL) == "GPL-3.0 AND MIT"
    assert of(LICENSE_MIT=MIT, LICENSE_APACHE=APACHE) == "Apache-2.0 OR MIT"
    assert of(LICENSE_MIT=MIT, LICENSE_GPL=GPL) == "GPL-3.0 AND MIT"
    assert of(LICENSE=GPL, LICENSE_MIT=MIT) == "GPL-3.0 AND MIT"
    assert of(LICENSE="Ours alone.", LICENSE_MIT=MIT) is None
    choice = "Under *either* of the licenses in LICENSE.APACHE or LICENSE.BSD."
    expected = "Apache-2.0 OR BSD-2-Clause"
    assert of(LICENSE=choice, LICENSE__APACHE=APACHE, LICENSE__BSD=BSD2) == expected
    both = choice.replace("*either*", "both")
    assert of(LICENSE=both, LICENSE__APACHE=APACHE, LICENSE__BSD=BSD2) is None


def test_a_manifest_may_say_that_one_may_choose() -> None:
    two = {"LICENSE_MIT": MIT, "COPYING": GPL}
    assert of(**two, Cargo__toml='[package]\nlicense = "MIT/GPL-3.0"') == "MIT OR GPL-3.0"
    assert (
        of(**two, package__json='{"license": "(MIT OR GPL-3.0-only)"}') == "(MIT OR GPL-3.0-only)"
    )
    assert of(**two, composer__json='{"license": ["MIT", "GPL-3.0+"]}') == "MIT OR GPL-3.0+"
    together = "GPL-3.0 AND MIT"
    assert of(**two, package__json='{"license": "MIT"}') == together
    assert of(**two, package__json='{"license": "MIT OR ISC"}') == together
    assert of(**two, package__json="[" * 100_000) == together
    assert licences({"package.json": '{"license": "MIT"}'}).licence_of("a.js", "") is None


def test_the_nearest_folder_speaks_even_where_it_is_not_understood() -> None:
    found = licences({"LICENSE": MIT, "ee/LICENSE": "All rights reserved.", "lib/COPYING": GPL})
    assert found.licence_of("src/a.py", "") == "MIT"
    assert found.licence_of("ee/deep/a.py", "") is None
    assert found.licence_of("lib/a.py", "") == "GPL-3.0"
    inner = licences({"LICENSE": GPL, "third_party/x/LICENSE": MIT})
    assert inner.licence_of("third_party/x/a.c", "") == "MIT"
    assert inner.licence_of("third_party/b.c", "") == "GPL-3.0"


# --- A file's own head -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *(
            "// {}",
            "# {}",
            " * {}",
            "/* {} */",
            "<!-- {} -->",
            "-- {}",
            "; {}",
            "% {}",
            '" {}',
            ".. {}",
        ),
        *("{{/* {} */}}", "{# {} #}", "(* {} *)", "dnl {}", "//! {}\r", "{}"),
    ],
)
def test_a_files_own_tag_is_read_in_any_languages_comments(line: str) -> None:
    text = f"#!/bin/x\n{line.replace('{}', 'SPDX-License-Identifier: MIT OR ISC')}\ncode\n"
    assert tag_of(text) == "MIT OR ISC"


def test_a_tag_in_a_string_or_sentence_is_none() -> None:
    assert tag_of('HEAD = "SPDX-License-Identifier: MIT"\n') is None
    assert tag_of('"SPDX-License-Identifier: MIT\\n"\n') is None
    assert tag_of("# Write SPDX-License-Identifier: MIT at the top.\n") is None
    assert tag_of("\n" * 6000 + "# SPDX-License-Identifier: MIT\n") is None
    two = "# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: GPL-2.0 OR ISC\n"
    assert tag_of(two) == "MIT AND (GPL-2.0 OR ISC)"


def test_a_copyleft_notice_in_a_file_counts_against_its_folder() -> None:
    notice = " * under the terms of the GNU General Public\n * License as the FSF has it.\n"
    expression = licences({"LICENSE": MIT}).licence_of("a.c", f"/*\n{notice} */\n")
    assert expression == "MIT AND LicenseRef-copyleft-notice"
    assert not permits(expression, ("mit", "gpl"))
    assert licences({"LICENSE": GPL}).licence_of("a.c", notice) == "GPL-3.0"


# --- Names and speed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("debian", "expected"),
    [
        ("Expat-like", "Expat-like"),
        ("Expat  and/or\tBSD-3-clause", "MIT OR BSD-3-Clause"),
        ("(GPL-2+ or Apache-2.0), and Expat", "(GPL-2-or-later OR Apache-2.0) AND MIT"),
        ("Expat" + " " * 100_000 + "x", "MIT x"),
    ],
)
@pytest.mark.timeout(60)
def test_debians_names_are_whole_names(debian: str, expected: str) -> None:
    start = time.perf_counter()
    assert spdx(debian) == expected
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "identifier",
    [
        *(
            "MIT-like",
            "Expat-style",
            "BSD-Protection",
            "BSD-Protection~Google",
            "BSD-3-Clause-No-Nuclear-License",
            "BSD-like",
        ),
        *("BSD-like", "Apache-with-riders", "MIT WITH Commons-Clause", "X11-but-not-really"),
    ],
)
def test_a_prefix_is_not_the_licence(identifier: str) -> None:
    assert not permits(identifier, ("mit", "bsd", "apache", "expat", "x11"))


def test_versions_are_of_their_family() -> None:
    for one in ("GPL-2.0", "GPL-2+", "GPL-3.0-or-later", "gpl"):
        assert permits(one, ("gpl",))
        assert not permits(one, ("lgpl", "mit"))
    assert permits("GPL-2.0-only", ("gpl-2.0",))
    assert permits("GPL-2+", ("gpl-2.0",))
    assert not permits("GPL-3.0-only", ("gpl-2.0",))


@pytest.mark.parametrize(
    "unit", [" ", "#", "(c)", "copyright ", "SPDX-License-Identifier: ", "MIT "]
)
@pytest.mark.timeout(60)
def test_long_files_take_no_longer_than_they_are(unit: str) -> None:
    text = "# SPDX-License-Identifier:" + unit * (200_000 // len(unit))
    start = time.perf_counter()
    identify_licence(text)
    tag_of(text)
    Licences("", (), {"": {"LICENSE": MIT}}).licence_of("a.py", text)
    assert time.perf_counter() - start < 5
