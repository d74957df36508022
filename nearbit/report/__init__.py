"""Reports: how hardware compares with golden model and exact attention, as a table and a page.

==================================  ==============================================================
:mod:`nearbit.report.comparison`    the figures of each head, and the table
:mod:`nearbit.report.page`          the page in HTML
:mod:`nearbit.report.explain`       which tokens an answer comes from
:mod:`nearbit.report.figures`       plots
==================================  ==============================================================
"""

from nearbit.report.comparison import (
    HeadPart,
    Mismatch,
    Part,
    Report,
    compare,
    first_mismatch,
    show,
    show_proof,
)


__all__ = ["HeadPart", "Mismatch", "Part", "Report", "compare", "first_mismatch", "show",
           "show_proof"]
