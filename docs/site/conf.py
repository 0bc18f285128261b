"""Settings of the site, which `make docs` builds from what `gather.py` has gathered."""

project = "lenshpc"
html_title = "lenshpc"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
myst_heading_anchors = 4  # headings are named as GitHub names them
html_theme = "furo"  # it fetches nothing: pages open from the disk
html_copy_source = False
html_show_copyright = html_show_sphinx = False
smartquotes = False  # `--set` has two dashes
default_role = "code"
autodoc_typehints = "description"
