"""Text that stays text: names of patients, regions and files, wherever we write or show them.

A name is whatever its user typed, or a stranger put into a manifest. In a table, a figure, a document or on a terminal
it must be read, never run: as a formula, as markup, as a link or as a code that moves the cursor.
"""

from __future__ import annotations

import re

_FORMULA = tuple("=+-@|%\t\r")
"""What a spreadsheet takes for the beginning of a formula or a call (OWASP, "CSV injection"), ``|`` and ``%``."""
_MARKDOWN = re.compile(r"([\\`*\[\]~|#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LINK = re.compile(r"(?i)\b(www)\.|(:)(?=//)|(@)(?=\w)|\b(javascript|data|mailto|vbscript)(:)")
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": "~",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "−": "$-$",
}


def printable(text: str) -> str:
    r"""Text of one line for a terminal or a message.

    What would move a cursor, turn the line's direction or be no character is written as its escape.

    Example:
        >>> printable("p07 \x1b[2J\u202e")
        'p07 \\x1b[2J\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or (c.isspace() and c >= "\xa0" and c not in "\u2028\u2029") else _escaped(c) for c in text
    )


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def in_csv(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula: an apostrophe stands before what could be one.

    Example:
        >>> in_csv("=HYPERLINK(...)"), in_csv("p07")
        ("'=HYPERLINK(...)", 'p07')
    """
    shown = printable(text)
    return f"'{shown}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else shown


def in_markdown(text: str) -> str:
    """Text in a Markdown document: no markup of it or of HTML, no link, no cell of a table.

    Example:
        >>> in_markdown("<b>[x](javascript:y)|")
        '&lt;b&gt;\\\\[x\\\\](javascript&#58;y)\\\\|'
    """
    shown = "".join(_HTML.get(letter, letter) for letter in printable(text))
    return _LINK.sub(_unlinked, _MARKDOWN.sub(r"\\\1", shown))


def _unlinked(found: re.Match[str]) -> str:
    if found[1]:
        return f"{found[1]}&#46;"
    return "&#64;" if found[3] else f"{found[4] or ''}&#58;"


def in_latex(text: str) -> str:
    """Text in a LaTeX document; arrows and the minus sign are set as such.

    Example:
        >>> in_latex("50 % & $x$")
        '50 \\\\% \\\\& \\\\$x\\\\$'
    """
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def in_figure(text: str) -> str:
    r"""Text of a figure, line by line: what stands between dollar signs is no formula of matplotlib's.

    Example:
        >>> in_figure("$\\frac$")
        '\\$\\frac\\$'
    """
    return printable_lines(text).replace("$", r"\$")
