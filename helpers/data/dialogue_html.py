"""Dialogues as HTML for notebooks: always escaped, and with masked words unless the reader wants to see the text."""

import html
import re

from helpers.data.transcripts import Turn, parse


def mask(text: str) -> str:
    """Replace the letters of words of four letters or more by dots, all but the first: the shape of a text stays."""

    def masked(word: re.Match) -> str:
        return word[1] + "·" * len(word[2])

    return re.sub(r"\b(\w)(\w{3,})", masked, text)


def show(*transcripts: str, titles: tuple[str, ...] = (), reveal: bool = False):
    """Show transcripts in columns of a notebook's output, HTML-escaped.

    titles: one for each transcript, or fewer. reveal: False masks the words, see `mask`: HH-RLHF's dialogues are
    offensive in places. Returns an IPython HTML object. Raises DataError for a text that is no transcript.
    """
    from IPython.display import HTML

    cards = []
    for number, transcript in enumerate(transcripts):
        title = f"<b>{html.escape(titles[number])}</b>" if number < len(titles) else ""
        turns = "".join(_turn_html(turn, reveal) for turn in parse(transcript))
        cards.append(f'<div style="flex:1;min-width:16em;text-align:left">{title}{turns}</div>')
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1.5em">{"".join(cards)}</div>')


def fold(title: str, shown):
    """What `show` returned, folded behind a title on which the reader clicks."""
    from IPython.display import HTML

    return HTML(f"<details><summary>{html.escape(title)}</summary>{shown.data}</details>")


def _turn_html(turn: Turn, reveal: bool) -> str:
    """One turn: the speaker's name in colour, the text below it."""
    text = turn.text.strip() if reveal else mask(turn.text.strip())
    colour = "#0072B2" if turn.role == "Assistant" else "#7a7a7a"
    body = html.escape(text).replace("\n", "<br>") or "<i>(empty)</i>"
    return (
        f'<p style="margin:.4em 0;padding-left:.6em;border-left:3px solid {colour}">'
        f'<span style="color:{colour}">{turn.role}</span><br>{body}</p>'
    )
