"""The book: `make book` builds it from docs/ and the executed notebooks of results/notebooks/ into .build/book.

The source folder is the whole repository, so that a relative link from a page to a notebook, a table or a figure is the
same in the book and in the files. Nothing is executed but docs/claims.md, and nothing is loaded from another host.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

import book_notebooks  # noqa: E402  (docs/ is not a package)

project = "MIRegNet"
author = "the MIRegNet study contributors"
copyright = author

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]  # the last: MathJax as files of the book
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "results/notebooks/*.ipynb",
    "data_manifests/*.md",
    "mine_reg/shipped_weights/README.md",
]
exclude_patterns = [".*", "data", "scratch", "*.egg-info", "results/curves", "data_manifests/ct"]

html_theme = "sphinx_book_theme"
html_title = "MIRegNet, reproduced"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search field is in the sidebar
}

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown as they were executed; docs/claims.md asks for its own execution
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # the default loads them from another host


FRONT_DOOR = """<!doctype html><meta charset="utf-8"><title>MIRegNet, reproduced</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">To the book</a>
"""


def setup(app):
    """Register what this book adds to Sphinx: notebooks that say what made them, and a front door."""
    app.connect("source-read", _prepare)
    app.connect("build-finished", _write_front_door)


def _prepare(app, docname, content):
    if docname.startswith("results/notebooks/"):
        content[0] = book_notebooks.tidy(content[0], docname.rpartition("/")[2], ROOT)
    content[0] = book_notebooks.link_files(content[0], docname, app.env.found_docs, ROOT)


def _write_front_door(app, error):
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(FRONT_DOOR, encoding="utf-8")
