"""Sphinx: the site that `make docs` builds from these pages and the docstrings."""

import inspect
import re
from importlib import metadata

from amaranth.lib import wiring


project = "Nearbit"
author = "The Nearbit authors"
copyright = author # noqa: A001, the name that Sphinx reads
release = metadata.version("nearbit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.doctest",
              "sphinx.ext.intersphinx", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
templates_path = ["_templates"]
exclude_patterns = ["README.md", "_templates"] # the first is included by index.md
html_theme = "furo"
html_title = "Nearbit"
html_static_path: list[str] = []

myst_heading_anchors = 3
# Files outside this folder are shown where the repository is.
REPOSITORY = "https://github.com/nearbit/nearbit/blob/main/"

autosummary_generate = True
autodoc_typehints = "none" # docstrings say shapes, dtypes and ranges
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
# What a package re-exports is described where it is defined.
autodoc_default_options = {"ignore-module-all": True}
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False # shapes are no names to look up
napoleon_custom_sections = [("Members", "params_style")]
# As in Amaranth's own documents, :py: is code.
rst_prolog = """
.. role:: py(code)
   :language: python
"""


def point_at_repository(app, name, source):
    """Links that leave this folder lead to the repository."""
    source[0] = re.sub(r"\]\(\.\./(?:\.\./)?(?!docs/)", f"]({REPOSITORY}", source[0])


def show_parameters(app, what, name, obj, options, signature, return_annotation):
    """Amaranth's metaclass hides the parameters of a component."""
    if what == "class" and issubclass(obj, wiring.Component):
        found = inspect.signature(obj.__init__)
        return str(found.replace(parameters=list(found.parameters.values())[1:])), None
    return None


def setup(app):
    """Connect both."""
    app.connect("source-read", point_at_repository)
    app.connect("autodoc-process-signature", show_parameters)
