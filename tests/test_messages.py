"""What holds for every sentence that users see; ``python -m tests.messages`` lists them."""

import re

from tests.messages import messages

# words that a reader would have to translate, and what STYLE puts in their place
UNCLEAR = re.compile(
    r"\b(told|tells?|anew|sees? to|whatever|whole of|thereof|herein|utili[sz]e|simply|just)\b", re.I
)


def test_no_sentence_uses_an_unclear_word():
    assert [found for found in messages() if UNCLEAR.search(found[1])] == []


def test_no_message_of_the_package_is_a_sentence_with_a_full_stop():
    ends = [found for found in messages() if ".py:" in found[0] and re.search(r"[^.]\.$", found[1])]
    assert ends == []


def test_the_list_has_the_messages_of_every_package():
    places = {place.split("/")[1] for place, _ in messages() if place.startswith("bcq_exp/")}
    assert {"algorithm", "analysis", "cli", "config", "data", "engine", "paper"} <= places
    assert {"selection", "sweep", "training"} <= places


def test_the_list_has_the_texts_of_the_report_page():
    texts = {text for place, text in messages() if "/page/" in place}
    assert {"Learning curves", "Two groups are needed."} <= texts
