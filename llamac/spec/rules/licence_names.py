"""Licence names that a licence stage may allow: families, and SPDX identifiers in use for code."""

from __future__ import annotations

from difflib import get_close_matches

# Families first: every version of a licence, or every licence that is one but for a clause.
_NAMES = """
MIT BSD Apache GPL LGPL AGPL MPL EPL CC-BY CC-BY-SA Artistic AFL CDDL CECILL EUPL OFL PSF
0BSD AAL AFL-3.0 AGPL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-1.0 Apache-1.1 Apache-2.0
APSL-2.0 Artistic-1.0 Artistic-1.0-Perl Artistic-2.0 Beerware BlueOak-1.0.0 BSD-1-Clause
BSD-2-Clause BSD-2-Clause-Patent BSD-2-Clause-Views BSD-3-Clause BSD-3-Clause-Clear
BSD-3-Clause-LBNL BSD-4-Clause BSD-4-Clause-UC BSD-Source-Code BSL-1.0 bzip2-1.0.6 CAL-1.0
CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 CDDL-1.0 CDDL-1.1 CECILL-2.1 CECILL-B
CECILL-C ClArtistic CNRI-Python CPAL-1.0 CPL-1.0 curl ECL-2.0 EFL-2.0 EPL-1.0 EPL-2.0 EUDatagrid
EUPL-1.1 EUPL-1.2 Expat Fair FSFAP FSFUL FSFULLR FTL GPL-1.0 GPL-2.0 GPL-2.0-only GPL-2.0-or-later
GPL-3.0 GPL-3.0-only GPL-3.0-or-later HPND ICU IJG Info-ZIP Intel IPL-1.0 ISC JasPer-2.0 JSON
LGPL-2.0 LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1 LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0
LGPL-3.0-only LGPL-3.0-or-later libpng-2.0 libtiff LiLiQ-P-1.1 Linux-OpenIB LPL-1.02 LPPL-1.3c
MirOS MIT-0 MIT-CMU MIT-Modern-Variant MPL-1.0 MPL-1.1 MPL-2.0 MS-PL MS-RL MulanPSL-2.0 Multics
NAIST-2003 NCSA NetCDF NGPL Nokia NTP NUnit ODbL-1.0 OFL-1.1 OLDAP-2.8 OpenSSL OSL-3.0
PHP-3.0 PHP-3.01 PostgreSQL PSF-2.0 public-domain Python-2.0 QPL-1.0 RPL-1.5 Ruby SGI-B-2.0
Sleepycat SMLNJ SPL-1.0 TCL TCP-wrappers Unicode-3.0 Unicode-DFS-2016 Unlicense UPL-1.0 Vim
W3C W3C-20150513 WTFPL X11 Xnet YPL-1.1 Zend-2.0 Zlib zlib-acknowledgement ZPL-2.0 ZPL-2.1
"""
KNOWN = {name.lower(): name for name in _NAMES.split()}
"""Known families and SPDX identifiers, by their lower case."""


def closest_licence(name: str) -> str | None:
    """Return the known licence most similar to an unknown one, or "" if none is similar.

    None if the name is known, or is a user-defined one (`LicenseRef-…` in SPDX).
    """
    lower = name.lower()
    if lower.removesuffix("+") in KNOWN or lower.startswith("licenseref-"):
        return None
    close = get_close_matches(lower[:80], KNOWN, n=1, cutoff=0.5)
    return KNOWN[close[0]] if close else ""
