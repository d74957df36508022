"""Code mappings: which bits stand for a query and for a key.

======================================  ====================================================
:class:`Mapping`                        floats to codes, of any kind; to and from a file
:func:`import_published`                a layer of a published HashAttention checkpoint
:func:`heavy_budget`                    how many keys HashAttention selects by distance
======================================  ====================================================
"""

from nearbit_model.mapping.files import MappingError
from nearbit_model.mapping.mapping import KINDS, Mapping
from nearbit_model.mapping.published import heavy_budget, import_published


__all__ = ["KINDS", "Mapping", "MappingError", "heavy_budget", "import_published"]
