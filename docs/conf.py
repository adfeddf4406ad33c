"""Sphinx configuration. `make docs` fails on every warning, e.g. a dead link or reference."""

import re
from pathlib import Path

from sphinx.errors import ExtensionError

import bcq_exp

README = Path(__file__).parents[1] / "README.md"
REPOSITORY = re.search(r"git\+(https://\S+?)['\s]", README.read_text())[1]  # stands there alone

project = "bcq_exp"
version = release = bcq_exp.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
html_show_copyright = False

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!bcq_exp\b).*")]  # other projects' names: no network is used
autodoc_typehints = "none"
autodoc_member_order = "bysource"


def link_repository(app, docname, source):
    """Point links to files outside docs/ at the repository; a link to no file is an error."""

    def linked(found):
        image, text, path, anchor = found.groups()
        if not (Path(app.srcdir) / path).is_file():
            raise ExtensionError(f"docs/{docname}.md links to {path}, which does not exist")
        if image:
            return found.group()
        return f"[{text}]({REPOSITORY}/blob/main/{path.removeprefix('../')}{anchor})"

    source[0] = re.sub(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]+)([^)\s]*)\)", linked, source[0])


def setup(app):
    app.connect("source-read", link_repository)
