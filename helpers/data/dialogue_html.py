"""Dialogues as HTML for notebooks: always escaped, and masked until the reader asks for the text."""

import html
import re

from helpers.data.transcripts import Turn, parse


def mask(text: str) -> str:
    """Hide words of four letters or more behind dots, keeping first letters: enough to see the shape of a text."""
    return re.sub(r"\b(\w)(\w{3,})", lambda found: found[1] + "·" * len(found[2]), text)


def show(*transcripts: str, titles: tuple[str, ...] = (), reveal: bool = False):
    """Show transcripts side by side in a notebook, HTML-escaped, and masked until ``reveal=True`` is asked for.

    Real HH-RLHF dialogues are offensive in places; masking is the default for every source.
    """
    from IPython.display import HTML

    cards = []
    for number, transcript in enumerate(transcripts):
        title = f"<b>{html.escape(titles[number])}</b>" if number < len(titles) else ""
        turns = "".join(_turn_html(turn, reveal) for turn in parse(transcript))
        cards.append(f'<div style="flex:1;min-width:16em;text-align:left">{title}{turns}</div>')
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1.5em">{"".join(cards)}</div>')


def fold(title: str, shown):
    """What `show` returned, behind a line that opens it."""
    from IPython.display import HTML

    return HTML(f"<details><summary>{html.escape(title)}</summary>{shown.data}</details>")


def _turn_html(turn: Turn, reveal: bool) -> str:
    text = turn.text.strip() if reveal else mask(turn.text.strip())
    colour = "#0072B2" if turn.role == "Assistant" else "#7a7a7a"
    body = html.escape(text).replace("\n", "<br>") or "<i>(empty)</i>"
    return (
        f'<p style="margin:.4em 0;padding-left:.6em;border-left:3px solid {colour}">'
        f'<span style="color:{colour}">{turn.role}</span><br>{body}</p>'
    )
