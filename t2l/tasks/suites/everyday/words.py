"""Inputs that are single words: countries, animals, elements, nouns, verbs, adjectives and compounds."""

from __future__ import annotations

from collections.abc import Callable

from t2l.tasks.suites.everyday.tables import SHARED, Item, table

VOWELS = "aeiou"


def spelling(word: str) -> dict[str, str]:
    """Answers of the functions about letters. Capitals stay as they are; y is no vowel."""
    return {
        "first_letter": word[0],
        "last_letter": word[-1],
        "second_letter": word[1],
        "letter_count": str(len(word)),
        "vowel_count": str(sum(letter in VOWELS for letter in word.lower())),
        "first_two": word[:2],
        "reversed": word[::-1],
        "upper_case": word.upper(),
        "hyphenated": "-".join(word),
        "no_vowels": "".join(letter for letter in word if letter.lower() not in VOWELS),
        "sorted_letters": "".join(sorted(word)),
        "without_first_letter": word[1:],
    }


def plural(word: str, exceptions: dict[str, str]) -> str:
    """The plural by rule, or as listed."""
    if word in exceptions:
        return exceptions[word]
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def third_person(verb: str) -> str:
    """The form after he or she; it is made like a plural, but for -o, which no verb here ends in."""
    return plural(verb, {})


def with_ending(verb: str, ending: str, doubled: bool) -> str:
    """A verb with -ing or -ed.

    Args:
        doubled: whether the last consonant is written twice.
    """
    if doubled:
        return verb + verb[-1] + ending
    if verb.endswith("y") and verb[-2] not in VOWELS and ending == "ed":
        return verb[:-1] + "ied"
    if verb.endswith("e"):
        return verb[:-1] + ending
    return verb + ending


def article(word: str) -> str:
    """The word with its indefinite article."""
    has_vowel = word[0] in VOWELS and word not in table(f"kinds/{SHARED}")["an_exceptions"]
    return f"{'an' if has_vowel else 'a'} {word}"


def _rows(kind: str) -> list[tuple[str, dict[str, str]]]:
    """Words with their facts, from a table with named columns."""
    found = table(f"kinds/{kind}")
    columns = found["columns"].split()
    return [(word, dict(zip(columns, row.split(", "), strict=True))) for word, row in found["rows"].items()]


def countries() -> list[Item]:
    """Countries, of one word each."""
    return [Item(word, facts | spelling(word)) for word, facts in _rows("country")]


def animals() -> list[Item]:
    """Animals."""
    exceptions = table("kinds/animal")["plural_exceptions"]
    return [
        Item(word, facts | spelling(word) | {"plural": plural(word, exceptions), "article": article(word)})
        for word, facts in _rows("animal")
    ]


NOBLE_GASES = (2, 10, 18, 36, 54, 86)
"""atomic numbers at which a period of the periodic table ends"""


def elements() -> list[Item]:
    """Chemical elements; those that are called differently in England and America, and metalloids, are left out."""
    found = []
    for word, facts in _rows("element"):
        period = 1 + sum(int(facts["atomic_number"]) > last for last in NOBLE_GASES)
        more = {"period": str(period), "symbol_length": str(len(facts["symbol"]))}
        found.append(Item(word, facts | more | spelling(word)))
    return found


def categories() -> dict[str, list[str]]:
    """Nouns by category."""
    return {category: words.split() for category, words in table("kinds/noun")["categories"].items()}


def nouns() -> list[Item]:
    """Nouns for everyday things."""
    exceptions = table("kinds/noun")["plural_exceptions"]
    return [
        Item(
            word,
            {
                "category": category,
                "edible": "yes" if category in ("fruit", "vegetable") else "no",
                "two_of": f"two {plural(word, exceptions)}",
                "possessive": f"{word}'s",
                "where_question": f"Where is the {word}?",
                "plural": plural(word, exceptions),
                "article": article(word),
                **spelling(word),
            },
        )
        for category, words in categories().items()
        for word in words
    ]


def _verb(forms: list[str], doubled: bool) -> Item:
    """A verb from [verb, doer] if it is regular, from [verb, past, participle, doer] if not."""
    word, doer = forms[0], forms[-1]
    past, participle = forms[1:3] if len(forms) == 4 else [with_ending(word, "ed", doubled)] * 2
    answers = {
        "past": past,
        "gerund": with_ending(word, "ing", doubled),
        "third_person": third_person(word),
        "doer": doer,
        "future": f"will {word}",
        "perfect": f"has {participle}",
        "negative_command": f"do not {word}",
        "can_question": f"Can you {word}?",
        "regularity": "irregular" if len(forms) == 4 else "regular",
    }
    return Item(word, answers | spelling(word))


def verbs() -> list[Item]:
    """Verbs with one past tense and one noun for who does it."""
    found = table("kinds/verb")
    doubled = found["doubled"].split()
    rows = [row.split("/") for row in f"{found['regular']} {found['irregular']}".split()]
    return [_verb(forms, forms[0] in doubled) for forms in rows]


def degree(adjective: str, ending: str, is_short: bool) -> str:
    """The comparative ("er") or the superlative ("est") of an adjective.

    Args:
        is_short: whether it takes the ending itself, rather than more or most before it.
    """
    if not is_short:
        return f"{'more' if ending == 'er' else 'most'} {adjective}"
    if adjective.endswith("y"):
        return adjective[:-1] + "i" + ending
    if adjective.endswith("e"):
        return adjective + ending[1:]
    has_short_vowel = (
        len(adjective) < 5 and adjective[-1] in "dn" and adjective[-2] in "ai" and adjective[-3] not in VOWELS
    )
    return adjective + (adjective[-1] if has_short_vowel else "") + ending


def adverb(adjective: str) -> str:
    """The adverb in -ly."""
    if adjective.endswith("ic"):
        return adjective + "ally"
    if adjective.endswith("le"):
        return adjective[:-1] + "y"
    return (adjective[:-1] + "i" if adjective.endswith("y") else adjective) + "ly"


def adjectives() -> list[Item]:
    """Adjectives of quality with one opposite."""
    found = table("kinds/adjective")
    short = found["short"].split()
    rows = [row.split("/") for row in found["rows"].split()]
    return [
        Item(
            word,
            {
                "antonym": antonym,
                "comparative": degree(word, "er", word in short),
                "superlative": degree(word, "est", word in short),
                "adverb": adverb(word),
                "very": f"very {word}",
                "negated": f"not {word}",
                "how_question": f"How {word} is it?",
                **spelling(word),
            },
        )
        for word, antonym in rows
    ]


def compounds() -> list[Item]:
    """Words made of two words."""
    return [
        Item(
            one + two,
            {
                "first_part": one,
                "second_part": two,
                "split_parts": f"{one} {two}",
                "swapped_parts": two + one,
                "plus_parts": f"{one}+{two}",
                **spelling(one + two),
            },
        )
        for one, two in (row.split("|") for row in table("kinds/compound")["rows"].split())
    ]


WORDS: dict[str, Callable[[], list[Item]]] = {
    "country": countries,
    "animal": animals,
    "element": elements,
    "noun": nouns,
    "verb": verbs,
    "adjective": adjectives,
    "compound": compounds,
}
"""what makes every input of a kind of single words"""
