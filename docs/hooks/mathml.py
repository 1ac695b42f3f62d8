"""MkDocs hook: turn the formulas that `pymdownx.arithmatex` marks into MathML, which browsers draw without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
LIMITS = re.compile(r"\\(sum|prod|min|max)\s*(?=[_^])")
UNSUPPORTED = re.compile(r"<m[io][^>]*>(\\[A-Za-z]+|&)</m[io]>")
SPACE = '<mspace width="0.17em"/>'
FUNCTION = re.compile(r"(</m(?:i|n|sub|sup)>)?(<mi>(?:exp|log|ln|min|max)</mi>)(<mo)?")


def on_page_content(content: str, page: Any, **kwargs: Any) -> str:
    """Replace every formula of a page; an unsupported LaTeX command is an error that names the page."""

    def mathml(match: re.Match[str]) -> str:
        block = match[1] == "div"
        formula = html.unescape(match[2]).strip()
        if block:  # the converter sets limits beside the sign, as in a line of text
            formula = LIMITS.sub(r"\\\1\\limits", formula)
        markup = convert(formula, display="block" if block else "inline")
        if unsupported := UNSUPPORTED.search(markup):
            raise PluginError(f"{page.file.src_uri}: {unsupported[1]} is not supported, in the formula {formula}")
        markup = FUNCTION.sub(spaced, markup)
        return f'<div class="formula">{markup}</div>' if block else markup

    def spaced(match: re.Match[str]) -> str:
        before, name, operator = match.groups("")
        return f"{before}{before and SPACE}{name}{operator or SPACE}"

    return FORMULA.sub(mathml, content)
