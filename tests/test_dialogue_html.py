"""Dialogues as a notebook shows them: escaped, and masked until the reader asks to see them."""

from helpers.data import dialogue_html


def test_shown_text_is_escaped_and_masked_until_asked_for():
    shown = dialogue_html.show("\n\nHuman: <script>alert(1)</script> dreadful\n\nAssistant: fine")
    assert "<script>" not in shown.data and "dreadful" not in shown.data
    revealed = dialogue_html.show("\n\nHuman: <b>dreadful</b>\n\nAssistant: fine", reveal=True).data
    assert "dreadful" in revealed and "<b>dreadful" not in revealed
