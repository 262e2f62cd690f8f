"""Inputs of several words: names, sentences, short sentences, phrases of five languages, messages and lists."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from t2l.tasks.suites.everyday.tables import Item, table
from t2l.tasks.suites.everyday.words import categories

FIRST_NAMES = (
    "Maria Ahmed Chloe Viktor Yuki Pedro Ingrid Omar Nadia Felix Amara Leon Sofia Rajiv Elena Tomas Aisha Bruno Hanna "
    "Diego Freya Samuel Leila Oscar Priya Marco Greta Hassan Julia Boris Alice Henry Clara Peter Emma David Laura Simon"
).split()
LAST_NAMES = (
    "Lopez Schmidt Okafor Tanaka Novak Rossi Dubois Silva Jensen Kowalski Murphy Larsen Haddad Patel Nguyen Romero "
    "Fischer Bianchi Moreau Andersen Petrov Walsh Costa Weber Sato Khan Dupont Garcia Olsen Marino Carter Bennett "
    "Foster Hughes Palmer Turner Brooks Collins"
).split()
LONGEST_SAYING, LONGEST_LIST = 38, 38
"""characters of the longest short sentence and list"""


def _distinct(count: int, make: Callable[[], Item]) -> list[Item]:
    """As many items of different texts."""
    found: dict[str, Item] = {}
    while len(found) < count:
        item = make()
        found.setdefault(item.text, item)
    return list(found.values())


def names(rng: random.Random, count: int) -> list[Item]:
    """A first and a last name."""
    pool = [(first, last) for first in FIRST_NAMES for last in LAST_NAMES]
    return [_name(first, last) for first, last in rng.sample(pool, min(count, len(pool)))]


def _name(first: str, last: str) -> Item:
    answers = {
        "first_name": first,
        "last_name": last,
        "initials": f"{first[0]}.{last[0]}.",
        "last_first": f"{last}, {first}",
        "swapped_name": f"{last} {first}",
        "email": f"{first}.{last}@example.com".lower(),
        "username": f"{first[0]}{last}".lower(),
        "short_first": f"{first[0]}. {last}",
        "short_last": f"{first} {last[0]}.",
        "hashtag": f"#{first}{last}",
        "dear": f"Dear {first},",
    }
    return Item(f"{first} {last}", answers)


def sentences(rng: random.Random, count: int) -> list[Item]:
    """Sentences whose parts are drawn independently of one another."""
    return _distinct(count, lambda: _sentence(rng, table("kinds/sentence")))


def _sentence(rng: random.Random, words: dict[str, Any]) -> Item:
    manners, feeling = rng.choice(list(words["openers"])), rng.choice(list(words["feelings"]))
    topic, tense, mood = (
        rng.choice(list(words["topics"])),
        rng.choice(["past", "future"]),
        rng.choice(["statement", "question"]),
    )
    opener, how = rng.choice(words["openers"][manners]), rng.choice(words["feelings"][feeling].split())
    person, place, day, amount = (rng.choice(words[k].split()) for k in ("people", "places", "days", "counts"))
    now, past, things = rng.choice(words["topics"][topic].split()).split("/")
    if mood == "question":
        core = f"{'did' if tense == 'past' else 'will'} {person} {how} {now}"
    else:
        core = f"{person} {how} {past}" if tense == "past" else f"{person} will {how} {now}"
    text = f"{opener} {core} {amount} {things} in {place} on {day}{'?' if mood == 'question' else '.'}"
    answers = {
        "person": person,
        "place": place,
        "weekday": day,
        "amount_word": amount,
        "things": things,
        "sentiment": feeling,
        "tense": tense,
        "mood": mood,
        "politeness": manners,
        "topic": topic,
        "day_type": "weekend" if day in ("Saturday", "Sunday") else "weekday",
    }
    return Item(text, answers)


def _has_one_longest(words: list[str]) -> bool:
    lengths = sorted(map(len, words))
    return lengths[-1] > lengths[-2]


def sayings(rng: random.Random, count: int) -> list[Item]:
    """Short sentences in small letters, without punctuation, with one longest word."""
    return _distinct(count, lambda: _saying(rng, table("kinds/saying")))


def _saying(rng: random.Random, parts: dict[str, Any]) -> Item:
    while True:
        opener, adjective, subject, verb, thing = (
            rng.choice(parts[key].split()) for key in ("openers", "adjectives", "subjects", "verbs", "objects")
        )
        middle = [adjective] if rng.random() < 0.6 else []
        end = rng.choice(parts["ends"]).split() if rng.random() < 0.6 else []
        words = [opener, *middle, subject, verb, thing, *end]
        text = " ".join(words)
        if _has_one_longest(words) and len(text) <= LONGEST_SAYING:
            break
    answers = {
        "first_word": words[0],
        "last_word": words[-1],
        "second_word": words[1],
        "word_count": str(len(words)),
        "acronym": "".join(word[0] for word in words).upper(),
        "reversed_words": " ".join(words[::-1]),
        "longest_word": max(words, key=len),
        "without_first_word": " ".join(words[1:]),
        "underscored": "_".join(words),
        "capitalised": " ".join(word.capitalize() for word in words),
        "upper_case": text.upper(),
    }
    return Item(text, answers)


def phrases(rng: random.Random, count: int) -> list[Item]:
    """Expressions of everyday life in one of five languages."""
    found, languages = [], table("kinds/phrase")["languages"]
    for row in table("kinds/phrase")["table"]:
        english, purpose, *texts = row.split(" | ")
        for text, (language, (code, country)) in zip(texts, languages.items(), strict=True):
            letters = "".join(c if c.isalpha() or c == "'" else " " for c in text)
            answers = {
                "language_name": language,
                "language_code": code,
                "home_country": country,
                "english": english,
                "asks": "yes" if purpose == "asks" else "no",
                "courtesy": "yes" if purpose == "greets" else "no",
                "plain_last_word": letters.split()[-1],
                "initial_letter": letters.strip()[0],
            }
            found.append(Item(text, answers))
    return rng.sample(found, min(count, len(found)))


def messages(rng: random.Random, count: int) -> list[Item]:
    """What a customer writes to a shop."""
    return _distinct(count, lambda: _message(rng, table("kinds/message")))


def _message(rng: random.Random, words: dict[str, Any]) -> Item:
    person, product, color, domain = (rng.choice(words[k].split()) for k in ("people", "products", "colors", "domains"))
    request, urgency = rng.choice(list(words["requests"])), rng.choice(["urgent", "normal"])
    order, price = str(rng.randint(10000, 99999)), f"${rng.randint(12, 240)}"
    email = f"{person.lower()}{rng.randint(2, 98)}@{domain}"
    phone = f"555-{rng.randint(1000, 9999)}"
    thing = f"{color} {product}"
    wish = rng.choice(words["requests"][request]).format(thing=product)
    bought = (
        f"I paid {price} for a {thing} (order {order})."
        if color != "orange"
        else f"I paid {price} for an {thing} (order {order})."
    )
    middle = [bought, wish, rng.choice(words[urgency])]
    contact = f"{email} or {phone}" if rng.random() < 0.5 else f"{phone} or {email}"
    text = " ".join([f"Hello, I am {person}.", *rng.sample(middle[:2], 2), middle[2], f"Reach me at {contact}"])
    answers = {
        "email_address": email,
        "phone": phone,
        "price": price,
        "order_number": order,
        "customer": person,
        "product": product,
        "color": color,
        "email_domain": domain,
        "request": request,
        "urgency": urgency,
    }
    return Item(text, answers)


def lists(rng: random.Random, count: int) -> list[Item]:
    """Three to five nouns, all of one category but one, with one longest item."""
    return _distinct(count, lambda: _list(rng))


def _list(rng: random.Random) -> Item:
    short = {category: [w for w in words if len(w) <= 7] for category, words in categories().items()}
    while True:
        main, other = rng.sample(list(short), 2)
        odd = rng.choice(short[other])
        items = rng.sample(short[main], rng.randint(2, 4))
        items.insert(rng.randint(0, len(items)), odd)
        text = ", ".join(items)
        if _has_one_longest(items) and len(text) <= LONGEST_LIST:
            break
    answers = {
        "first_item": items[0],
        "second_item": items[1],
        "last_item": items[-1],
        "item_count": str(len(items)),
        "sorted_items": ", ".join(sorted(items)),
        "reversed_items": ", ".join(items[::-1]),
        "plus_joined": "+".join(items),
        "without_first": ", ".join(items[1:]),
        "without_last": ", ".join(items[:-1]),
        "item_initials": "".join(item[0] for item in items),
        "odd_one_out": odd,
        "longest_item": max(items, key=len),
        "alphabetical_first": min(items),
        "main_category": main,
    }
    return Item(text, answers)
